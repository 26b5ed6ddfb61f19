//! Figures for Prometheus: counting what happens, and telling it with what others keep.
//!
//! What happens is counted here, by whoever sees it happen, without a lock and without memory.
//! What can be looked up where it is kept is, when it is asked for. What a sandbox says of itself
//! is believed within bounds; docs/metrics.md has which figure is whose word.

mod counts;
mod families;
mod text;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use counts::{Counter, Counters, Histogram};
use envd::wire::MAX_CONTEXTS;

pub(crate) use families::tell;
#[cfg(test)]
pub(crate) use families::told_of_work;
pub(crate) use text::Format;

use crate::{
    backend,
    sandbox::{Error, Reason},
    template::FindError,
};

/// All that is counted, from when the gateway began.
#[derive(Debug)]
pub struct Metrics {
    began: Instant,
    /// Milliseconds since the epoch.
    began_at: u64,
    creates: Histogram,
    create_failures: Counters<{ CreateFailure::NAMES.len() }>,
    killed: Counter,
    pauses: Histogram,
    resumes: Histogram,
    ended: Counters<{ Reason::ALL.len() }>,
    executes: Histogram,
    execute_errors: Counter,
    languages: Counters<{ LANGUAGES.len() + 1 }>,
    kernels: AtomicU64,
    kernel_spawns: Counter,
    kernel_exits: Counter,
    kernel_deaths: Counter,
    commands: Histogram,
    command_exits: Counters<{ EXITS.len() }>,
    report_gaps: Counter,
}

/// Those that have a series of their own; a sandbox can name any.
const LANGUAGES: [&str; 6] = ["python", "javascript", "typescript", "bash", "r", "java"];
const OTHER: &str = "other";

/// How a command ended.
const EXITS: [&str; 3] = ["zero", "nonzero", "signal"];

/// Why there is no sandbox.
#[derive(Clone, Copy, Debug)]
enum CreateFailure {
    NoTemplate,
    TemplateNotReady,
    Full,
    Stopping,
    Killed,
    Backend,
    Gateway,
}

impl CreateFailure {
    const NAMES: [&str; 7] =
        ["no_template", "template_not_ready", "full", "stopping", "killed", "backend", "gateway"];

    fn of(error: &Error) -> Self {
        match error {
            Error::Template { source: FindError::Unknown, .. } => Self::NoTemplate,
            Error::Template { .. } => Self::TemplateNotReady,
            Error::Full(_) | Error::Backend(backend::Error::Full(_)) | Error::Busy(_) => Self::Full,
            Error::Stopping => Self::Stopping,
            Error::EndedInCreation(_) => Self::Killed,
            Error::Backend(_) => Self::Backend,
            Error::NotFound(_)
            | Error::NotNow(..)
            | Error::KeyReused
            | Error::TooOld(_)
            | Error::Io { .. }
            | Error::BrokenOff(_) => Self::Gateway,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Self {
            began: Instant::now(),
            began_at: u64::try_from(at).unwrap_or(u64::MAX),
            creates: Histogram::default(),
            create_failures: Counters::default(),
            killed: Counter::default(),
            pauses: Histogram::default(),
            resumes: Histogram::default(),
            ended: Counters::default(),
            executes: Histogram::default(),
            execute_errors: Counter::default(),
            languages: Counters::default(),
            kernels: AtomicU64::default(),
            kernel_spawns: Counter::default(),
            kernel_exits: Counter::default(),
            kernel_deaths: Counter::default(),
            commands: Histogram::default(),
            command_exits: Counters::default(),
            report_gaps: Counter::default(),
        }
    }
}

impl Metrics {
    /// Milliseconds since the epoch: what was before is another gateway's.
    pub(crate) fn began_at(&self) -> u64 {
        self.began_at
    }

    pub(crate) fn create_succeeded(&self, took: Duration) {
        self.creates.observe(took);
    }

    pub(crate) fn create_failed(&self, error: &Error) {
        self.create_failures.raise(CreateFailure::of(error) as usize);
    }

    /// Because a client wanted it so.
    pub(crate) fn kill_succeeded(&self) {
        self.killed.raise();
    }

    pub(crate) fn pause_succeeded(&self, took: Duration) {
        self.pauses.observe(took);
    }

    pub(crate) fn resume_succeeded(&self, took: Duration) {
        self.resumes.observe(took);
    }

    pub(crate) fn sandbox_ended(&self, reason: Reason) {
        self.ended.raise(reason as usize);
    }

    /// A request to run code, which is counted when this is dropped.
    pub(crate) fn execute(self: &Arc<Self>) -> Execute {
        Execute { metrics: self.clone(), began: Instant::now() }
    }

    /// Code has had its turn in a sandbox.
    pub(crate) fn code_executed(&self, language: &str, failed: bool) {
        let known = LANGUAGES.iter().position(|known| *known == language);
        self.languages.raise(known.unwrap_or(LANGUAGES.len()));
        if failed {
            self.execute_errors.raise();
        }
    }

    pub(crate) fn kernel_started(&self) {
        self.kernel_spawns.raise();
    }

    pub(crate) fn kernel_stopped(&self) {
        self.kernel_exits.raise();
    }

    /// By itself.
    pub(crate) fn kernel_died(&self) {
        self.kernel_exits.raise();
        self.kernel_deaths.raise();
    }

    /// A sandbox's kernels, none of which is counted so far.
    pub(crate) fn kernels(self: &Arc<Self>) -> Kernels {
        Kernels { metrics: self.clone(), alive: 0 }
    }

    /// A command of a client's; `exit_code` is -1 when a signal ended it.
    pub(crate) fn command_ended(&self, exit_code: i32, took: Duration) {
        self.command_exits.raise(match exit_code {
            0 => 0,
            -1 => 2,
            _ => 1,
        });
        self.commands.observe(took);
    }

    /// What a sandbox said is lost, however much it was.
    pub(crate) fn report_missed(&self) {
        self.report_gaps.raise();
    }
}

/// A request to run code, until its answer has ended.
#[derive(Debug)]
pub(crate) struct Execute {
    metrics: Arc<Metrics>,
    began: Instant,
}

impl Drop for Execute {
    fn drop(&mut self) {
        self.metrics.executes.observe(self.began.elapsed());
    }
}

/// A sandbox's kernels; when dropped they have ended with it.
#[derive(Debug)]
pub(crate) struct Kernels {
    metrics: Arc<Metrics>,
    alive: u64,
}

impl Kernels {
    /// So many live, in the sandbox's words.
    pub(crate) fn are(&mut self, alive: u32) {
        let alive = u64::from(alive).min(MAX_CONTEXTS as u64);
        // Wraps where it is less, which comes to the same.
        self.metrics.kernels.fetch_add(alive.wrapping_sub(self.alive), Relaxed);
        self.alive = alive;
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        self.metrics.kernel_exits.add(self.alive);
        self.are(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_counted_once_and_end_with_their_sandbox() {
        let metrics = Arc::new(Metrics::default());
        let (mut a, mut b) = (metrics.kernels(), metrics.kernels());
        a.are(2);
        b.are(u32::MAX);
        assert_eq!(metrics.kernels.load(Relaxed), 2 + MAX_CONTEXTS as u64);
        a.are(1);
        drop(b);
        assert_eq!(metrics.kernels.load(Relaxed), 1);
        drop(a);
        assert_eq!(metrics.kernels.load(Relaxed), 0);
        assert_eq!(metrics.kernel_exits.value(), 1 + MAX_CONTEXTS as u64);
    }

    #[test]
    fn a_language_of_a_sandboxs_own_is_another() {
        let metrics = Metrics::default();
        for language in ["python", "klingon", "r", "python\"} 5\n", ""] {
            metrics.code_executed(language, language == "r");
        }
        let counts: Vec<_> = metrics.languages.values().collect();
        assert_eq!(counts, [1, 0, 0, 0, 1, 0, 3]);
        assert_eq!(metrics.execute_errors.value(), 1);
    }

    #[test]
    fn a_request_counts_when_it_is_over() {
        let metrics = Arc::new(Metrics::default());
        let (first, second) = (metrics.execute(), metrics.execute());
        assert_eq!(metrics.executes.count(), 0);
        drop(first);
        assert_eq!(metrics.executes.count(), 1);
        drop(second);
        assert_eq!(metrics.executes.count(), 2);
    }
}
