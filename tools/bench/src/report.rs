//! A result: what is written as JSON, printed as a table and judged by its aims.

use std::{fs, path::Path};

use anyhow::Context;
use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    load::Lane,
    machine::{self, Machine},
    tally::Tally,
};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) what: String,
    /// With tiny counts: shows that the benchmark works, and nothing else.
    pub(crate) quick: bool,
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) gateway: String,
    pub(crate) notes: Vec<String>,
    pub(crate) series: Vec<Series>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) figures: Vec<Figure>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) aims: Vec<Aim>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) samples: Vec<Sample>,
}

/// Times in milliseconds, of successes only.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Series {
    pub(crate) what: String,
    pub(crate) who: String,
    /// The loop: how many at once, or at which rate.
    pub(crate) how: String,
    pub(crate) count: u64,
    pub(crate) errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_error: Option<String>,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
    pub(crate) per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) megabytes_per_second: Option<f64>,
    /// The median of each round.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rounds_p50: Vec<f64>,
}

/// What is no time: memory, and what else a process has.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) count: usize,
    pub(crate) mean: f64,
    pub(crate) max: f64,
}

/// Ours by the peer's.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) what: String,
    pub(crate) how: String,
    pub(crate) of: Of,
    pub(crate) peer: String,
    pub(crate) ratio: f64,
    /// Of single rounds.
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Of {
    /// Less is better.
    P50,
    /// More is better.
    Throughput,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Aim {
    pub(crate) aim: String,
    pub(crate) at: At,
    pub(crate) bound: f64,
    pub(crate) unit: String,
    pub(crate) measured: f64,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum At {
    Most,
    Least,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Holds,
    WithinTwice,
    Missed,
}

impl Verdict {
    fn of(at: At, bound: f64, measured: f64) -> Self {
        let (holds, within_twice) = match at {
            At::Most => (measured <= bound, measured <= 2.0 * bound),
            At::Least => (measured >= bound, measured >= bound / 2.0),
        };
        match (holds, within_twice) {
            (true, _) => Self::Holds,
            (_, true) => Self::WithinTwice,
            _ => Self::Missed,
        }
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::WithinTwice => "within twice",
            Self::Missed => "missed",
        }
    }
}

/// Of the gateway's process, during churn.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) rss_kib: f64,
    pub(crate) pss_kib: f64,
    pub(crate) descriptors: f64,
    pub(crate) threads: f64,
}

impl Report {
    pub(crate) fn new(what: &str, quick: bool, gateway: String) -> Self {
        // Where things lie on this machine is nobody's business.
        let shown = |arg: String| arg.rsplit('/').next().unwrap_or_default().to_owned();
        Self {
            what: what.to_owned(),
            quick,
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            commit: machine::commit(),
            command: std::env::args().map(shown).collect::<Vec<_>>().join(" "),
            machine: Machine::this(),
            gateway,
            notes: Vec::new(),
            series: Vec::new(),
            figures: Vec::new(),
            ratios: Vec::new(),
            aims: Vec::new(),
            samples: Vec::new(),
        }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(crate) fn series(&mut self, what: &str, who: &str, how: &str, tally: &Tally) {
        self.series.push(Series {
            what: what.to_owned(),
            who: who.to_owned(),
            how: how.to_owned(),
            count: tally.len(),
            errors: tally.errors,
            first_error: tally.first_error.clone(),
            p50: round(tally.quantile(0.50)),
            p95: round(tally.quantile(0.95)),
            p99: round(tally.quantile(0.99)),
            max: round(tally.max()),
            mean: round(tally.mean()),
            per_second: round(tally.rate()),
            megabytes_per_second: (tally.bytes > 0).then(|| round(tally.megabytes())),
            rounds_p50: Vec::new(),
        });
    }

    /// The mean and the worst of `values`, of which there is one at least.
    pub(crate) fn figures(&mut self, what: &str, unit: &str, values: &[f64]) {
        self.figures.push(Figure {
            what: what.to_owned(),
            unit: unit.to_owned(),
            count: values.len(),
            mean: round(values.iter().sum::<f64>() / values.len() as f64),
            max: round(values.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
        });
    }

    /// A series of each, and the first, which is ours, by each peer's.
    pub(crate) fn lanes(&mut self, lanes: &[Lane], of: Of) {
        for lane in lanes {
            self.series(&lane.what, &lane.who, &lane.how, &lane.total);
            if let Some(series) = self.series.last_mut() {
                series.rounds_p50 = lane.medians.iter().copied().map(round).collect();
            }
        }
        let Some((ours, peers)) = lanes.split_first() else { return };
        for peer in peers.iter().filter(|peer| peer.who != ours.who) {
            self.ratio(ours, peer, of);
        }
    }

    pub(crate) fn ratio(&mut self, ours: &Lane, peer: &Lane, of: Of) {
        let (whole, rounds) = match of {
            Of::P50 => (
                ours.total.quantile(0.5) / peer.total.quantile(0.5),
                ours.medians.iter().zip(&peer.medians),
            ),
            Of::Throughput => {
                (ours.total.rate() / peer.total.rate(), ours.rates.iter().zip(&peer.rates))
            }
        };
        let rounds = rounds.map(|(ours, peer)| ours / peer);
        let (lowest, highest) = rounds
            .fold((f64::INFINITY, 0.0_f64), |(low, high), ratio| (low.min(ratio), high.max(ratio)));
        // Where nothing succeeded there is nothing to compare.
        if whole.is_finite() && lowest.is_finite() && highest.is_finite() {
            self.ratios.push(Ratio {
                what: ours.what.clone(),
                how: ours.how.clone(),
                of,
                peer: peer.who.clone(),
                ratio: round(whole),
                lowest: round(lowest),
                highest: round(highest),
            });
        }
    }

    /// Judges the ratio to `peer` that was found last.
    pub(crate) fn aim_ratio(&mut self, aim: &str, at: At, bound: f64, ours: &Lane, peer: &str) {
        let mut ratios = self.ratios.iter();
        let found = ratios
            .find(|ratio| ratio.what == ours.what && ratio.how == ours.how && ratio.peer == peer);
        if let Some(ratio) = found.map(|ratio| ratio.ratio) {
            self.aim(aim, at, bound, "", ratio);
        }
    }

    pub(crate) fn aim(&mut self, aim: &str, at: At, bound: f64, unit: &str, measured: f64) {
        let measured = round(measured);
        self.aims.push(Aim {
            aim: aim.to_owned(),
            at,
            bound,
            unit: unit.to_owned(),
            measured,
            verdict: Verdict::of(at, bound, measured),
        });
    }

    pub(crate) fn errors(&self) -> u64 {
        self.series.iter().map(|series| series.errors).sum()
    }

    /// As `<date>-<what>.json` below `out`.
    pub(crate) fn write(&self, out: &Path) -> anyhow::Result<()> {
        let day = self.date.get(..10).unwrap_or(&self.date);
        let path = out.join(format!("{day}-{}.json", self.what));
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::create_dir_all(out)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| path.display().to_string())?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }
}

/// To a microsecond, or a thousandth.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_aim_holds_is_missed_by_less_than_twice_or_missed() {
        use Verdict::{Holds, Missed, WithinTwice};
        for (at, measured, verdict) in [
            (At::Most, 10.0, Holds),
            (At::Most, 10.1, WithinTwice),
            (At::Most, 20.0, WithinTwice),
            (At::Most, 20.1, Missed),
            (At::Least, 10.0, Holds),
            (At::Least, 9.9, WithinTwice),
            (At::Least, 5.0, WithinTwice),
            (At::Least, 4.9, Missed),
        ] {
            assert_eq!(Verdict::of(at, 10.0, measured), verdict, "{at:?} {measured}");
        }
    }

    #[test]
    fn the_json_has_what_a_result_must_name() {
        let mut report = Report::new("create", false, "x".into());
        let mut tally = Tally::default();
        tally.count_as(Duration::from_millis(4), Ok(0));
        tally.count_as(Duration::from_millis(4), Err(anyhow::anyhow!("broken")));
        report.series("create", "coppice", "1 at a time", &tally);
        report.aim("cold create", At::Most, 10.0, "ms", report.series[0].p50);
        let json = serde_json::to_value(&report).unwrap();
        for key in ["what", "date", "commit", "command", "machine", "notes", "ratios"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        for key in ["cpu", "cores", "memory_mib", "kernel"] {
            assert!(json["machine"].get(key).is_some(), "{key}");
        }
        let series = &json["series"][0];
        assert_eq!((&series["count"], &series["errors"]), (&1.into(), &1.into()));
        assert_eq!(series["first_error"], "broken");
        for key in ["p50", "p95", "p99", "max", "mean", "per_second"] {
            assert!(series[key].is_number(), "{key}");
        }
        assert_eq!(json["aims"][0]["verdict"], "holds");
        assert_eq!(report.errors(), 1);
        let again: Report = serde_json::from_value(json).unwrap();
        assert_eq!(again.series[0].p50, report.series[0].p50);
    }
}
