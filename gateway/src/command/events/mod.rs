//! `coppice events`: what happens and what has happened, asked of a gateway that runs.

mod audit;
mod cost;
mod errors;
mod tail;

use std::{collections::HashSet, process::ExitCode};

use chrono::{DateTime, Duration, Utc};
use clap::Subcommand;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::api::{self, Api, Reach};

/// Asked for at once.
const PAGE: usize = 1000;

#[derive(Subcommand)]
pub(crate) enum Events {
    /// Follow what happens, until Ctrl-C
    Tail(tail::Tail),
    /// What sandboxes have cost
    Cost(cost::Asked),
    /// How many commands fail; ends with 2 where it is more than the threshold
    Errors(errors::Asked),
    /// Every action of an agent, or in a sandbox
    Audit(audit::Asked),
}

pub(crate) fn run(events: Events) -> anyhow::Result<ExitCode> {
    match events {
        Events::Tail(tail) => api::run(tail.run()),
        Events::Cost(asked) => api::run(cost::run(asked)),
        Events::Errors(asked) => api::run(errors::run(asked)),
        Events::Audit(asked) => api::run(audit::run(asked)),
    }
}

/// Of when, and how it is to be shown.
#[derive(clap::Args)]
struct Asking {
    #[command(flatten)]
    reach: Reach,
    /// Of this sandbox alone
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// Until when: 5m, 24h or 7d ago, or a time of RFC 3339 [default: now]
    #[arg(long, value_name = "WHEN", value_parser = instant)]
    until: Option<DateTime<Utc>>,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

/// An event as the gateway tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    timestamp: DateTime<Utc>,
    event_data: Map<String, Value>,
    sandbox_id: String,
    sandbox_template_id: String,
    #[serde(default)]
    parent_id: Option<String>,
    /// What else there is.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Told {
    fn text(&self, field: &str) -> Option<&str> {
        self.event_data.get(field)?.as_str()
    }

    fn number(&self, field: &str) -> Option<u64> {
        self.event_data.get(field)?.as_u64()
    }
}

/// Ids that have been seen: what the gateway before may not have told is told again by the next.
#[derive(Default)]
struct Known(HashSet<u128>);

impl Known {
    /// Whether it is another one.
    fn add(&mut self, id: &str) -> bool {
        // What is no id is like nothing else.
        let id = u128::from_str_radix(&id.replace('-', ""), 16);
        id.map_or(true, |id| self.0.insert(id))
    }
}

/// Shows all of those types from `since` on to `each`, the oldest first, and each once.
async fn all(
    asking: &Asking,
    types: &str,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    mut each: impl FnMut(Told) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let api = Api::new(&asking.reach)?;
    let place = match &asking.sandbox {
        Some(id) => format!("/events/sandboxes/{}", escape(id)),
        None => "/events/sandboxes".to_owned(),
    };
    let (start, end) = (since.timestamp_millis().max(0), until.timestamp_millis().max(0));
    let query =
        format!("types={}&start={start}&end={end}&orderAsc=true&limit={PAGE}", escape(types));
    let (mut after, mut known): (Option<String>, _) = (None, Known::default());
    loop {
        let after_it = after.iter().map(|id| format!("&after={id}")).collect::<String>();
        let page: Vec<Told> = api.get(&format!("{place}?{query}{after_it}")).await?;
        let (count, last) = (page.len(), page.last().map(|told| told.id.clone()));
        page.into_iter().filter(|told| known.add(&told.id)).try_for_each(&mut each)?;
        if count < PAGE || last == after {
            return Ok(());
        }
        after = last;
    }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// `5m`: of seconds, minutes, hours or days.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a number of seconds, minutes, hours or days: 90s, 5m, 24h, 7d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: i64 = text.strip_suffix(unit).and_then(|it| it.parse().ok()).ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let whole = number.checked_mul(seconds).filter(|seconds| (1..=1 << 32).contains(seconds));
    whole.map(Duration::seconds).ok_or_else(wrong)
}

/// So long ago, or a time.
fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    let ago = duration(text).map(|ago| Utc::now() - ago);
    let time = || DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).ok();
    ago.ok().or_else(time).ok_or_else(|| {
        "so long ago (90s, 5m, 24h, 7d), or a time such as 2026-11-22T09:00:00Z".to_owned()
    })
}

/// What a person reads: days and hours, or minutes and seconds, or so.
fn spoken(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{}.{}s", seconds, millis % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A table: each column as wide as what is in it, numbers to the right.
struct Table {
    rows: Vec<Vec<String>>,
    /// Whether a column is of numbers.
    numbers: Vec<bool>,
}

impl Table {
    /// A head that begins with `>` is that of numbers.
    fn new(heads: &[&str]) -> Self {
        let numbers = heads.iter().map(|head| head.starts_with('>')).collect();
        let heads = heads.iter().map(|head| head.trim_start_matches('>').to_owned());
        Self { rows: vec![heads.collect()], numbers }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.numbers.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let pad = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                line += &if self.numbers[column] { pad + cell } else { cell.clone() + &pad };
                line += "  ";
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Nobody reads what is said.
#[derive(Debug, thiserror::Error)]
#[error("stdout: {0}")]
struct Unheard(std::io::Error);

/// To stdout.
fn say(text: &str) -> Result<(), Unheard> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Unheard)
}

/// One that is shown as it is told by hostile code: on one line, and so long at most (characters).
fn shown(text: &str, most: usize) -> String {
    let mut shown: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(most + 1).collect();
    if shown.chars().count() > most {
        shown.pop();
        shown.push('…');
    }
    shown
}

/// What it is about, in a few words.
fn about(told: &Told) -> String {
    let text = |field: &str| told.text(field).unwrap_or_default();
    let number = |field: &str| told.number(field).unwrap_or_default();
    let of = |value: Option<&Value>| value.map(Value::to_string).unwrap_or_default();
    match told.kind.as_str() {
        "exec.started" => text("command").to_owned(),
        "exec.completed" => {
            let code = told.event_data.get("exitCode").and_then(Value::as_i64).unwrap_or_default();
            let took = spoken(number("durationMs"));
            format!("exit {code} after {took}  {}", text("command"))
        }
        "exec.timed_out" => {
            format!("{} after {}", text("signal"), spoken(number("timeoutMs")))
        }
        "exec.failed" => format!("{}  {}", text("error"), text("command")),
        "file.created" | "file.modified" | "file.read" => {
            format!("{}  {} bytes", text("path"), number("sizeBytes"))
        }
        "file.deleted" => text("path").to_owned(),
        "tool.invoked" => {
            format!("{} {}", text("toolName"), of(told.event_data.get("toolArgs")))
        }
        "tool.completed" => {
            let took = spoken(number("durationMs"));
            format!("{} after {took} {}", text("toolName"), of(told.event_data.get("result")))
        }
        "tool.failed" => format!("{}: {}", text("toolName"), text("error")),
        _ => {
            let shown = told.event_data.iter().filter(|(name, _)| {
                !matches!(name.as_str(), "metadata" | "sandbox_metadata" | "execution" | "tookNs")
            });
            let parts = shown.map(|(name, value)| match value {
                Value::String(text) => format!("{name}={text}"),
                value => format!("{name}={value}"),
            });
            parts.collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn told(kind: &str, sandbox: &str, second: u32, data: Value) -> Told {
        serde_json::from_value(serde_json::json!({
            "id": format!("id-{kind}-{second}"),
            "type": kind,
            "timestamp": format!("2026-06-15T10:{:02}:{:02}.000Z", second / 60, second % 60),
            "eventData": data,
            "sandboxId": sandbox,
            "sandboxTemplateId": "base",
        }))
        .unwrap()
    }

    #[test]
    fn times_are_given_as_so_long_ago_or_as_a_time() {
        assert_eq!(duration("90s"), Ok(Duration::seconds(90)));
        assert_eq!(duration("7d"), Ok(Duration::days(7)));
        for wrong in ["", "5", "m", "-5m", "0s", "5w", "9999999999999999999d", "ü"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        let ago = Utc::now() - instant("5m").unwrap();
        assert!((ago - Duration::minutes(5)).abs() < Duration::seconds(5));
        assert!(instant("2026-11-22T09:00:00+01:00").is_ok() && instant("yesterday").is_err());
        let spoken = [5, 1500, 61_000, 3_700_000, 90_000_000].map(spoken);
        assert_eq!(spoken, ["5ms", "1.5s", "1m01s", "1h01m", "1d01h"]);
    }

    #[test]
    fn an_event_that_comes_again_is_known() {
        let mut known = Known::default();
        let ids = ["019ecae1-4f40-7020-9c7a-5ff2a1b38c11", "019ecae1-4f40-7020-9c7a-5ff2a1b38c12"];
        assert!(ids.iter().all(|id| known.add(id)));
        assert!(!ids.iter().any(|id| known.add(id)));
    }

    #[test]
    fn a_table_is_as_wide_as_what_is_in_it() {
        let mut table = Table::new(&["NAME", ">COUNT"]);
        table.row(["a".into(), "12345678".into()]);
        table.row(["longer".into(), "1".into()]);
        assert_eq!(table.text(), "NAME       COUNT\na       12345678\nlonger         1\n");
    }

    #[test]
    fn what_hostile_code_says_stays_on_its_line() {
        assert_eq!(shown("a\x1b[2J\nb", 10), "a [2J b");
        assert_eq!(shown("äöü", 2), "äö…");
        let exec = told(
            "exec.completed",
            "s",
            0,
            serde_json::json!({"exitCode": 1, "durationMs": 20, "command": "ls"}),
        );
        assert_eq!(about(&exec), "exit 1 after 20ms  ls");
        let other = told("port.exposed", "s", 0, serde_json::json!({"port": 80, "url": "u"}));
        assert_eq!(about(&other), "port=80 url=u");
    }
}
