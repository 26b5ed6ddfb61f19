//! `coppice events errors`: how many commands fail, in stretches of time.

use std::process::ExitCode;

use chrono::{DateTime, Duration, SecondsFormat, Utc};
use serde::Serialize;

use super::{Asking, Table, Told, all, duration, say};

/// Ends with it where too many fail: 1 is that it could not be asked.
const TOO_MANY: u8 = 2;
/// Stretches at most.
const MOST: usize = 100_000;

#[derive(clap::Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    asking: Asking,
    /// How long the time is
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    r#for: Duration,
    /// In stretches so long
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    window: Duration,
    /// Of a hundred commands, more than so many that fail are too many
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    threshold: f64,
}

/// Of one stretch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Window {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    commands: u64,
    /// Their exit code was not 0,
    failed: u64,
    /// of which so many had run out of time;
    timed_out: u64,
    /// or they could not be started.
    not_started: u64,
    /// Of a hundred; 0 where there was none.
    error_percent: f64,
}

impl Window {
    fn add(&mut self, told: &Told) {
        match told.kind.as_str() {
            "exec.completed" => {
                let code = told.event_data.get("exitCode").and_then(|code| code.as_i64());
                self.commands += 1;
                self.failed += u64::from(code != Some(0));
            }
            "exec.failed" => {
                (self.commands, self.not_started) = (self.commands + 1, self.not_started + 1)
            }
            "exec.timed_out" => self.timed_out += 1,
            _ => {}
        }
        let wrong = (self.failed + self.not_started) as f64;
        self.error_percent =
            if self.commands == 0 { 0.0 } else { wrong * 100.0 / self.commands as f64 };
    }
}

/// From the beginning on, the last one as long as there is left.
fn windows(since: DateTime<Utc>, until: DateTime<Utc>, length: Duration) -> Vec<Window> {
    let starts = std::iter::successors(Some(since), |from| Some(*from + length));
    let new = |from: DateTime<Utc>| Window {
        from,
        to: (from + length).min(until),
        commands: 0,
        failed: 0,
        timed_out: 0,
        not_started: 0,
        error_percent: 0.0,
    };
    starts.take_while(|from| *from < until).take(MOST).map(new).collect()
}

fn add(windows: &mut [Window], told: &Told) {
    let at = windows.partition_point(|window| window.to <= told.timestamp);
    // What happened at the very end is of the last one.
    let at = at.min(windows.len().saturating_sub(1));
    if let Some(window) = windows.get_mut(at) {
        window.add(told);
    }
}

fn table(windows: &[Window], threshold: f64) -> String {
    let mut table =
        Table::new(&["FROM", ">COMMANDS", ">FAILED", ">TIMED OUT", ">NOT STARTED", ">ERRORS", ""]);
    for window in windows {
        let from = window.from.to_rfc3339_opts(SecondsFormat::Secs, true);
        let Window { commands, failed, timed_out, not_started, error_percent, .. } = window;
        let counts = [commands, failed, timed_out, not_started].map(ToString::to_string);
        let mark = if *error_percent > threshold { "too many" } else { "" };
        let ends = [format!("{error_percent:.1}%"), mark.to_owned()];
        table.row([from].into_iter().chain(counts).chain(ends));
    }
    table.text()
}

pub(super) async fn run(asked: Asked) -> anyhow::Result<ExitCode> {
    let Asked { asking, r#for, window, threshold } = asked;
    let until = asking.until.unwrap_or_else(Utc::now);
    let since = until - r#for;
    let mut windows = windows(since, until, window);
    let types = "exec.completed,exec.failed,exec.timed_out";
    all(&asking, types, since, until, |told| {
        add(&mut windows, &told);
        Ok(())
    })
    .await?;
    let too_many = windows.iter().any(|window| window.error_percent > threshold);
    if asking.json {
        let told = serde_json::json!({
            "threshold": threshold, "tooMany": too_many, "windows": windows,
        });
        say(&format!("{told}\n"))?;
    } else {
        say(&table(&windows, threshold))?;
    }
    Ok(if too_many { ExitCode::from(TOO_MANY) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::tests::told, *};

    #[test]
    fn failures_are_counted_in_the_stretch_they_are_in() {
        let since = "2026-06-15T10:00:00Z".parse().unwrap();
        let until = since + Duration::minutes(8);
        let mut windows = windows(since, until, Duration::minutes(5));
        for (kind, second, code) in [
            ("exec.completed", 0, 0),
            ("exec.completed", 10, 1),
            ("exec.timed_out", 11, 0),
            ("exec.completed", 12, -1),
            ("exec.failed", 13, 0),
            ("exec.completed", 300, 0),
            ("exec.completed", 480, 0),
        ] {
            add(&mut windows, &told(kind, "s", second, json!({"exitCode": code})));
        }
        let of = |n: usize| {
            let Window { commands, failed, timed_out, not_started, error_percent, .. } = windows[n];
            (commands, failed, timed_out, not_started, error_percent)
        };
        assert_eq!(of(0), (4, 2, 1, 1, 75.0));
        assert_eq!(of(1), (2, 0, 0, 0, 0.0));
        assert_eq!((windows.len(), windows[1].to), (2, until));
        let text = table(&windows, 5.0);
        assert!(text.lines().nth(1).unwrap().ends_with("75.0%  too many"), "{text}");
        assert!(text.lines().nth(2).unwrap().ends_with(" 0.0%"), "{text}");
    }
}
