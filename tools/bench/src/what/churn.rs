//! Creates, commands and kills at a low rate for a long time: does the gateway grow?

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

use super::Stage;
use crate::{
    api::Api,
    client::Client,
    load::{self, Work},
    proc,
    report::{At, Report, Sample},
};

const RATE: f64 = 5.0;
const MINUTES: f64 = 60.0;
const SAMPLED: Duration = Duration::from_secs(10);

/// What the fitted line may rise over the last half.
const PSS_MAY_GROW_KIB: f64 = 512.0;
const COUNT_MAY_GROW: f64 = 2.0;

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let pid = stage.gateway.pid().context("churn looks at a gateway it has started: no --url")?;
    let amount = &stage.amount;
    let minutes = if amount.quick { 0.05 } else { amount.minutes.unwrap_or(MINUTES) };
    let rate = amount.rate.unwrap_or(RATE);
    let every = if amount.quick { SAMPLED / 20 } else { SAMPLED };
    report.note(format!(
        "{minutes} minutes of create, command and kill, {rate} a second, begun at random; the \
         gateway's process is looked at every {every:?}; growth is that of a line fitted to the \
         last half"
    ));
    let api = Arc::clone(&stage.gateway.api);
    let make = move || Cycle { api: Arc::clone(&api), client: api.client() };
    let load = load::open(rate, Duration::from_secs_f64(minutes * 60.0), make);
    tokio::pin!(load);
    let began = Instant::now();
    let mut ticks = tokio::time::interval(every);
    let tally = loop {
        tokio::select! {
            tally = &mut load => break tally?,
            _ = ticks.tick() => {
                let seconds = began.elapsed().as_secs_f64();
                report.samples.push(Sample { seconds, ..proc::sample(pid)? });
            }
        }
    };
    report.series("create, command and kill", "coppice", &format!("open, {rate}/s"), &tally);
    judge(report)
}

fn judge(report: &mut Report) -> anyhow::Result<()> {
    let half = report.samples.len() / 2;
    ensure!(half >= 2, "too few samples to tell growth: give more --minutes");
    let last = report.samples[half..].to_vec();
    let grown = |of: fn(&Sample) -> f64| {
        growth(&last.iter().map(|sample| (sample.seconds, of(sample))).collect::<Vec<_>>())
    };
    let pss = grown(|sample| sample.pss_kib);
    let rss = grown(|sample| sample.rss_kib);
    let descriptors = grown(|sample| sample.descriptors);
    let threads = grown(|sample| sample.threads);
    let all = |of: fn(&Sample) -> f64| last.iter().map(of).collect::<Vec<_>>();
    report.figures("PSS of the gateway, last half", "KiB", &all(|sample| sample.pss_kib));
    report.figures("RSS of the gateway, last half", "KiB", &all(|sample| sample.rss_kib));
    report.figures("descriptors, last half", "", &all(|sample| sample.descriptors));
    report.figures("threads, last half", "", &all(|sample| sample.threads));
    report.figures("growth of RSS over the last half", "KiB", &[rss]);
    report.aim("growth of PSS over the last half", At::Most, PSS_MAY_GROW_KIB, "KiB", pss);
    report.aim("growth of descriptors", At::Most, COUNT_MAY_GROW, "", descriptors);
    report.aim("growth of threads", At::Most, COUNT_MAY_GROW, "", threads);
    let flat = report.aims.iter().all(|aim| aim.verdict == crate::report::Verdict::Holds);
    report.note(if flat { "flat" } else { "NOT flat" });
    Ok(())
}

/// How much a line fitted by least squares rises from the first point to the last.
fn growth(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let (x, y) = (x / n, y / n);
    let along: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let up: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let spans = points.last().map_or(0.0, |point| point.0) - points.first().map_or(0.0, |p| p.0);
    if along > 0.0 { up / along * spans } else { 0.0 }
}

struct Cycle {
    api: Arc<Api>,
    client: Client,
}

impl Work for Cycle {
    async fn once(&mut self) -> anyhow::Result<u64> {
        let sandbox = self.api.create(&mut self.client).await?;
        let ran = sandbox.run(&mut self.client, "/bin/true", &[]).await;
        sandbox.kill(&mut self.client).await?;
        ran.map(|()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_fitted_line() {
        let line: Vec<_> = (0..10).map(|n| (f64::from(n) * 10.0, 5.0 + f64::from(n))).collect();
        assert!((growth(&line) - 9.0).abs() < 1e-9);
        let level: Vec<_> = (0..10).map(|n| (f64::from(n), f64::from(n % 2))).collect();
        assert!(growth(&level).abs() < 0.6);
        assert_eq!(growth(&[(1.0, 2.0)]), 0.0);
    }
}
