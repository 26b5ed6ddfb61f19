//! Looking at a gateway again and again, also one that is away for a while.
//!
//! What is missed meanwhile is missing in the recording: lines say how soon the next was meant to
//! come, so that a reader sees the gap.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::Context;
use chrono::{DateTime, SubsecRound, Utc};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use crate::{fetch::Source, recording::Recording, sample::Sample};

/// Until the first look after one that failed; each time that fails it is doubled.
const SOON: Duration = Duration::from_secs(1);
/// Whatever the interval, a gateway that is away is looked for as often as this.
const LATEST: Duration = Duration::from_secs(30);

pub(crate) struct Watch {
    source: Source,
    recording: Recording,
    said: Said,
}

impl Watch {
    pub(crate) fn new(source: Source, recording: Recording) -> Self {
        Self { source, recording, said: Said::default() }
    }

    /// One look.
    ///
    /// # Errors
    /// There is no gateway, or no room for the line.
    pub(crate) async fn once(&mut self) -> anyhow::Result<()> {
        let sample = self.look(0).await?;
        self.write(&sample)?;
        self.recording.settle()
    }

    /// Looks each `every`, until SIGINT or SIGTERM.
    ///
    /// # Errors
    /// A line cannot be written. That there is no gateway is none.
    pub(crate) async fn until_stopped(&mut self, every: Duration) -> anyhow::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let done = tokio::select! {
            done = self.look_on(every) => done,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
        };
        self.said.end();
        done.and(self.recording.settle())
    }

    async fn look_on(&mut self, every: Duration) -> anyhow::Result<()> {
        let mut turns = interval_at(Instant::now() + every, every);
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut pause = Pause::new(every);
        loop {
            match self.look(every.as_secs()).await {
                Ok(sample) => {
                    self.write(&sample)?;
                    pause.reset();
                    self.said.sampled(&sample);
                    turns.tick().await;
                }
                Err(error) => {
                    self.said.missed(&error);
                    sleep(pause.next()).await;
                    turns.reset();
                }
            }
        }
    }

    async fn look(&self, every: u64) -> anyhow::Result<Sample> {
        let text = self.source.get().await?;
        Sample::of(&text, Utc::now().timestamp_millis(), every)
    }

    fn write(&mut self, sample: &Sample) -> anyhow::Result<()> {
        let at = DateTime::from_timestamp_millis(sample.at).unwrap_or_default();
        self.recording.add(&sample.line()?, at)
    }
}

/// How long to wait after a look that failed.
struct Pause {
    next: Duration,
    most: Duration,
}

impl Pause {
    fn new(every: Duration) -> Self {
        Self { next: SOON, most: every.min(LATEST) }
    }

    fn next(&mut self) -> Duration {
        let pause = self.next.min(self.most);
        self.next = 2 * pause;
        pause
    }

    fn reset(&mut self) {
        self.next = SOON;
    }
}

/// What is told meanwhile: on a terminal one line that changes, elsewhere when the gateway goes and
/// comes back.
#[derive(Default)]
struct Said {
    samples: u64,
    missed_since: Option<DateTime<Utc>>,
    on_line: bool,
}

impl Said {
    fn sampled(&mut self, sample: &Sample) {
        self.samples += 1;
        if let Some(since) = self.missed_since.take() {
            self.lasting(&format!("there again; nothing is known since {}", clock(since)));
        }
        let Sample { alive, kernels, created, .. } = sample;
        let samples = self.samples;
        self.passing(&format!(
            "{}  {alive} alive, {kernels} kernels, {created} created; {samples} samples",
            clock(Utc::now())
        ));
    }

    fn missed(&mut self, error: &anyhow::Error) {
        if self.missed_since.is_none() {
            self.missed_since = Some(Utc::now());
            self.lasting(&format!("{error:#}; trying again"));
        }
        self.passing(&format!("{}  nobody there", clock(Utc::now())));
    }

    fn passing(&mut self, text: &str) {
        let mut out = io::stderr();
        if out.is_terminal() {
            // It is only told: should it fail, nothing is lost.
            let _ = write!(out, "\r\x1b[K{text}").and_then(|()| out.flush());
            self.on_line = true;
        }
    }

    fn lasting(&mut self, text: &str) {
        self.end();
        eprintln!("metrics-scraper: {} {text}", Utc::now().trunc_subsecs(0).to_rfc3339());
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.on_line) {
            eprintln!();
        }
    }
}

fn clock(at: DateTime<Utc>) -> String {
    at.format("%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_is_away_is_looked_for_less_and_less_often() {
        let seconds = |every| {
            let mut pause = Pause::new(Duration::from_secs(every));
            let pauses: Vec<_> = (0..7).map(|_| pause.next().as_secs()).collect();
            pause.reset();
            assert_eq!(pause.next(), SOON);
            pauses
        };
        assert_eq!(seconds(30), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(seconds(3600), [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(seconds(1), [1; 7]);
    }
}
