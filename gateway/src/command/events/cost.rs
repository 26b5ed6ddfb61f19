//! `coppice events cost`: what sandboxes have cost in a time, by what was told of it meanwhile.

use std::{collections::HashMap, process::ExitCode};

use chrono::{DateTime, Utc};
use coppice::events::Cost;
use serde::Serialize;

use super::{Asking, Table, Told, all, instant, say, spoken};

#[derive(clap::Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    asking: Asking,
    /// Since when: 5m, 24h or 7d ago, or a time of RFC 3339
    #[arg(long, value_name = "WHEN", default_value = "24h", value_parser = instant)]
    since: DateTime<Utc>,
}

/// Of one sandbox, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sum {
    runtime_ms: u64,
    runtime_cost: Cost,
    paused_ms: u64,
    storage_cost: Cost,
}

impl Sum {
    fn total(&self) -> Cost {
        [self.runtime_cost, self.storage_cost].into_iter().sum()
    }

    fn add(&mut self, told: &Told) {
        let cost = told.event_data.get("cost").cloned().unwrap_or_default();
        // One that is none says nothing.
        let cost: Cost = serde_json::from_value(cost).unwrap_or_default();
        let millis = told.number("durationMs").unwrap_or_default();
        let (time, sum) = match told.kind.as_str() {
            "cost.runtime" => (&mut self.runtime_ms, &mut self.runtime_cost),
            "cost.storage" => (&mut self.paused_ms, &mut self.storage_cost),
            _ => return,
        };
        *time = time.saturating_add(millis);
        *sum += cost;
    }

    fn with(&mut self, other: &Self) {
        self.runtime_ms = self.runtime_ms.saturating_add(other.runtime_ms);
        self.paused_ms = self.paused_ms.saturating_add(other.paused_ms);
        self.runtime_cost += other.runtime_cost;
        self.storage_cost += other.storage_cost;
    }
}

/// By sandbox, with its template.
#[derive(Default)]
struct Costs(HashMap<String, (String, Sum)>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row<'a> {
    sandbox_id: &'a str,
    template: &'a str,
    #[serde(flatten)]
    sum: &'a Sum,
    total_cost: Cost,
}

impl Costs {
    fn add(&mut self, told: &Told) {
        let new = || (told.sandbox_template_id.clone(), Sum::default());
        self.0.entry(told.sandbox_id.clone()).or_insert_with(new).1.add(told);
    }

    /// The dearest first.
    fn rows(&self) -> Vec<Row<'_>> {
        let row = |(sandbox_id, (template, sum))| Row {
            sandbox_id,
            template,
            sum,
            total_cost: sum.total(),
        };
        let rows =
            self.0.iter().map(|(id, (template, sum))| row((id.as_str(), (template.as_str(), sum))));
        let mut rows: Vec<Row<'_>> = rows.collect();
        rows.sort_by(|a, b| (b.total_cost, a.sandbox_id).cmp(&(a.total_cost, b.sandbox_id)));
        rows
    }

    fn all(&self) -> Sum {
        self.0.values().fold(Sum::default(), |mut all, (_, sum)| {
            all.with(sum);
            all
        })
    }

    fn table(&self) -> String {
        let heads =
            ["SANDBOX", "TEMPLATE", ">RUNNING", ">PAUSED", ">RUNTIME", ">STORAGE", ">TOTAL"];
        let mut table = Table::new(&heads);
        let mut row = |name: &str, template: &str, sum: &Sum| {
            let costs = [sum.runtime_cost, sum.storage_cost, sum.total()];
            let times = [spoken(sum.runtime_ms), spoken(sum.paused_ms)];
            let cells = [name.to_owned(), template.to_owned()].into_iter().chain(times);
            table.row(cells.chain(costs.map(|cost| cost.to_string())));
        };
        for Row { sandbox_id, template, sum, .. } in self.rows() {
            row(sandbox_id, template, sum);
        }
        row("all", "", &self.all());
        table.text()
    }
}

pub(super) async fn run(asked: Asked) -> anyhow::Result<ExitCode> {
    let Asked { asking, since } = asked;
    let until = asking.until.unwrap_or_else(Utc::now);
    let mut costs = Costs::default();
    all(&asking, "cost.runtime,cost.storage", since, until, |told| {
        costs.add(&told);
        Ok(())
    })
    .await?;
    if asking.json {
        let sum = costs.all();
        let all = Row { sandbox_id: "all", template: "", sum: &sum, total_cost: sum.total() };
        let told =
            serde_json::json!({"from": since, "to": until, "sandboxes": costs.rows(), "all": all});
        say(&format!("{told}\n"))?;
    } else {
        say(&costs.table())?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tests::told, *};

    #[test]
    fn costs_are_added_up_to_the_last_digit_the_dearest_first() {
        let mut costs = Costs::default();
        for (kind, sandbox, data) in [
            ("cost.runtime", "one", json!({"durationMs": 60_000, "rate": 0.1, "cost": 0.1})),
            ("cost.runtime", "one", json!({"durationMs": 1000, "rate": 0.1, "cost": 0.2})),
            ("cost.storage", "one", json!({"durationMs": 3_600_000, "rate": 1, "cost": 1e-9})),
            ("cost.runtime", "two", json!({"durationMs": 500, "rate": 1, "cost": 1})),
            ("cost.total", "two", json!({"sandboxCost": 9})),
        ] {
            costs.add(&told(kind, sandbox, 0, data));
        }
        let rows = costs.rows();
        assert_eq!(rows.iter().map(|row| row.sandbox_id).collect::<Vec<_>>(), ["two", "one"]);
        assert_eq!(rows[1].total_cost, Cost::from_nanos(300_000_001));
        let lines: Vec<String> = costs
            .table()
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(lines[2], "one base 1m01s 1h00m 0.300000000 0.000000001 0.300000001");
        assert_eq!(lines[3], "all 1m01s 1h00m 1.300000000 0.000000001 1.300000001");
    }
}
