//! What runs in sandboxes, most of it in their own words: code, kernels and commands.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use envd::wire::MAX_CONTEXTS;
use parking_lot::Mutex;

use super::{
    Metrics,
    counts::{Counter, Counters, Histogram},
    text::{Decimal, Text},
};

/// Those that have a series of their own; a sandbox can name any.
const LANGUAGES: [&str; 6] = ["python", "javascript", "typescript", "bash", "r", "java"];
const OTHER: &str = "other";

/// How a command ended: its status, 124 being what `timeout` ends with, or a signal.
const EXITS: [&str; 6] = ["0", "1-125", "124", "126-128", "129-255", "signal"];

/// What came again, word for word.
const OPS: [&str; 2] = ["command", "code"];

/// Executions of which it is told how many failed.
const WINDOW: usize = 100;

/// Commands of one sandbox that are believed to run.
const MAX_COMMANDS: u64 = 1024;

/// Of all sandboxes together.
#[derive(Debug, Default)]
pub(super) struct Work {
    executes: Histogram,
    execute_errors: Counter,
    languages: Counters<{ LANGUAGES.len() + 1 }>,
    fate: Mutex<Fate>,
    kernels: AtomicU64,
    kernel_spawns: Counter,
    kernel_exits: Counter,
    kernel_deaths: Counter,
    commands: AtomicU64,
    command_durations: Histogram,
    command_exits: Counters<{ EXITS.len() }>,
    repetitions: Counters<{ OPS.len() }>,
    report_gaps: Counter,
}

/// How executions have fared of late.
#[derive(Debug, Default)]
struct Fate {
    /// Whether each of the last failed.
    last: VecDeque<bool>,
    /// When one last did not.
    ok: Option<Instant>,
    /// How many sandboxes have failed so many times, one after the other.
    streaks: BTreeMap<u32, usize>,
}

impl Metrics {
    /// A request to run code, which is counted when this is dropped.
    pub(crate) fn execute(self: &Arc<Self>) -> Execute {
        Execute { metrics: self.clone(), began: Instant::now() }
    }

    /// A sandbox's account, in which there is nothing so far.
    pub(crate) fn account(self: &Arc<Self>) -> Account {
        Account { metrics: self.clone(), kernels: 0, commands: 0, streak: 0 }
    }

    pub(crate) fn kernel_started(&self) {
        self.work.kernel_spawns.raise();
    }

    pub(crate) fn kernel_stopped(&self) {
        self.work.kernel_exits.raise();
    }

    /// By itself.
    pub(crate) fn kernel_died(&self) {
        self.work.kernel_exits.raise();
        self.work.kernel_deaths.raise();
    }

    /// A command was begun again and again.
    pub(crate) fn command_repeated(&self) {
        self.work.repetitions.raise(0);
    }

    /// A command of a client's; `exit_code` is -1 when a signal ended it.
    pub(crate) fn command_ended(&self, exit_code: i32, took: Duration) {
        self.work.command_exits.raise(match exit_code {
            0 => 0,
            124 => 2,
            1..=125 => 1,
            126..=128 => 3,
            129.. => 4,
            ..0 => 5,
        });
        self.work.command_durations.observe(took);
    }

    /// What a sandbox said is lost, however much it was.
    pub(crate) fn report_missed(&self) {
        self.work.report_gaps.raise();
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
        self.metrics.work.executes.observe(self.began.elapsed());
    }
}

/// What is there of one sandbox, in its words; when dropped it has ended.
#[derive(Debug)]
pub(crate) struct Account {
    metrics: Arc<Metrics>,
    kernels: u64,
    commands: u64,
    /// Executions that failed since one did not.
    streak: u32,
}

impl Account {
    /// So many kernels live, and so many commands.
    pub(crate) fn holds(&mut self, kernels: u32, commands: u32) {
        let work = &self.metrics.work;
        let kernels = u64::from(kernels).min(MAX_CONTEXTS as u64);
        let commands = u64::from(commands).min(MAX_COMMANDS);
        // Wraps where it is less, which comes to the same.
        work.kernels.fetch_add(kernels.wrapping_sub(self.kernels), Relaxed);
        work.commands.fetch_add(commands.wrapping_sub(self.commands), Relaxed);
        (self.kernels, self.commands) = (kernels, commands);
    }

    /// Code has had its turn.
    pub(crate) fn code_executed(&mut self, language: &str, failed: bool, repeated: bool) {
        let work = &self.metrics.work;
        let known = LANGUAGES.iter().position(|known| *known == language);
        work.languages.raise(known.unwrap_or(LANGUAGES.len()));
        if repeated {
            work.repetitions.raise(1);
        }
        if failed {
            work.execute_errors.raise();
        }
        let before = self.streak;
        self.streak = if failed { before.saturating_add(1) } else { 0 };
        work.fate.lock().note(failed, before, self.streak);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.metrics.work.kernel_exits.add(self.kernels);
        self.holds(0, 0);
        self.metrics.work.fate.lock().streak(self.streak, 0);
    }
}

impl Fate {
    fn note(&mut self, failed: bool, before: u32, streak: u32) {
        if self.last.len() == WINDOW {
            self.last.pop_front();
        }
        self.last.push_back(failed);
        if !failed {
            self.ok = Some(Instant::now());
        }
        self.streak(before, streak);
    }

    /// A sandbox's has become another.
    fn streak(&mut self, before: u32, now: u32) {
        if before > 0
            && let Some(count) = self.streaks.get_mut(&before)
        {
            *count -= 1;
            if *count == 0 {
                self.streaks.remove(&before);
            }
        }
        if now > 0 {
            *self.streaks.entry(now).or_default() += 1;
        }
    }

    /// Of the last, how many failed; the longest streak; how long ago one did not.
    fn told(&self) -> (f64, u32, Duration) {
        let failed = self.last.iter().filter(|failed| **failed).count();
        let ratio = failed as f64 / self.last.len().max(1) as f64;
        let longest = self.streaks.last_key_value().map_or(0, |(streak, _)| *streak);
        (ratio, longest, self.ok.map(|at| at.elapsed()).unwrap_or_default())
    }
}

impl Work {
    pub(super) fn tell(&self, text: &mut Text) {
        self.tell_code(text);
        self.tell_kernels(text);
        self.tell_commands(text);
    }

    fn tell_code(&self, text: &mut Text) {
        let alive = self.kernels.load(Relaxed);
        text.gauge("coppice_kernels_alive", "Kernels in sandboxes.", alive);
        let count = self.executes.count();
        let help = "Requests to run code, counted when their answer has ended.";
        text.counter("coppice_execute_requests_total", help, count);
        let errors = self.execute_errors.value();
        text.counter("coppice_execute_errors_total", "Those that were told of an error.", errors);
        let name = "coppice_execute_by_language_total";
        text.counters(name, "Code that has had its turn, by language.");
        let languages = LANGUAGES.iter().chain([&OTHER]);
        for (language, count) in languages.zip(self.languages.values()) {
            text.sample(name, &[("language", language)], count);
        }
        let (ratio, streak, ok) = self.fate.lock().told();
        let name = "coppice_execute_error_ratio";
        text.gauge(
            name,
            "Of the last 100 that had their turn, those with an error.",
            Decimal(ratio),
        );
        let name = "coppice_execute_failure_streak";
        let help = "Errors one after the other, in the sandbox where they are the most.";
        text.gauge(name, help, streak);
        let name = "coppice_execute_last_ok_age_seconds";
        let help = "Since one without an error; 0 before the first.";
        text.gauge(name, help, Decimal(ok.as_secs_f64()));
        let spent = self.executes.nanoseconds();
        let help = "Nanoseconds that requests to run code took.";
        text.counter("coppice_execute_ns_sum", help, spent);
        let name = "coppice_execute_duration_seconds";
        text.histogram(name, "How long requests to run code took.", &self.executes);
    }

    fn tell_kernels(&self, text: &mut Text) {
        let spawns = self.kernel_spawns.value();
        text.counter("coppice_kernel_spawns_total", "Kernels that came to answer.", spawns);
        let exits = self.kernel_exits.value();
        text.counter("coppice_kernel_exits_total", "Kernels that ended, for any reason.", exits);
        let deaths = self.kernel_deaths.value();
        text.counter("coppice_kernel_deaths_total", "Kernels that ended by themselves.", deaths);
    }

    fn tell_commands(&self, text: &mut Text) {
        let alive = self.commands.load(Relaxed);
        let help = "Commands and terminals that have begun and not ended.";
        text.gauge("coppice_commands_alive", help, alive);
        let name = "coppice_command_exits_total";
        text.counters(name, "Commands and terminals that ended, by how.");
        for (exit, count) in EXITS.iter().zip(self.command_exits.values()) {
            text.sample(name, &[("exit", exit)], count);
        }
        let name = "coppice_command_duration_seconds";
        text.histogram(name, "How long commands and terminals ran.", &self.command_durations);
        let name = "coppice_repetitions_total";
        text.counters(name, "What was begun again and again in a sandbox, word for word.");
        for (op, count) in OPS.iter().zip(self.repetitions.values()) {
            text.sample(name, &[("op", op)], count);
        }
        let gaps = self.report_gaps.value();
        let help = "Times that reports of a sandbox were lost.";
        text.counter("coppice_report_gaps_total", help, gaps);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Format, *};

    fn told(metrics: &Metrics, name: &str) -> String {
        let mut text = Text::new(Format::Plain, 0);
        metrics.work.tell(&mut text);
        let text = text.finish();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is not in\n{text}")).to_owned()
    }

    #[test]
    fn what_a_sandbox_holds_is_counted_once_and_ends_with_it() {
        let metrics = Arc::new(Metrics::default());
        let (mut a, mut b) = (metrics.account(), metrics.account());
        let alive =
            || (told(&metrics, "coppice_kernels_alive"), told(&metrics, "coppice_commands_alive"));
        let of = |kernels: u64, commands: u64| (kernels.to_string(), commands.to_string());
        a.holds(2, 3);
        b.holds(u32::MAX, u32::MAX);
        assert_eq!(alive(), of(2 + MAX_CONTEXTS as u64, 3 + MAX_COMMANDS));
        a.holds(1, 4);
        drop(b);
        assert_eq!(alive(), of(1, 4));
        drop(a);
        assert_eq!(alive(), of(0, 0));
        assert_eq!(metrics.work.kernel_exits.value(), 1 + MAX_CONTEXTS as u64);
    }

    #[test]
    fn a_language_of_a_sandboxs_own_is_another() {
        let metrics = Arc::new(Metrics::default());
        let mut account = metrics.account();
        for language in ["python", "klingon", "r", "python\"} 5\n", ""] {
            account.code_executed(language, language == "r", language == "python");
        }
        let counts: Vec<_> = metrics.work.languages.values().collect();
        assert_eq!(counts, [1, 0, 0, 0, 1, 0, 3]);
        assert_eq!(metrics.work.execute_errors.value(), 1);
        assert_eq!(told(&metrics, "coppice_repetitions_total{op=\"code\"}"), "1");
    }

    #[test]
    fn a_request_counts_when_it_is_over() {
        let metrics = Arc::new(Metrics::default());
        let (first, second) = (metrics.execute(), metrics.execute());
        assert_eq!(metrics.work.executes.count(), 0);
        drop(first);
        assert_eq!(metrics.work.executes.count(), 1);
        drop(second);
        assert_eq!(metrics.work.executes.count(), 2);
    }

    #[test]
    fn the_ratio_is_of_the_last_hundred_and_the_streak_of_the_sandbox_that_fails_most() {
        let metrics = Arc::new(Metrics::default());
        let ratio = || told(&metrics, "coppice_execute_error_ratio");
        let streak = || told(&metrics, "coppice_execute_failure_streak");
        let age = || told(&metrics, "coppice_execute_last_ok_age_seconds").parse::<f64>().unwrap();
        assert_eq!((ratio(), streak(), age()), ("0.0".into(), "0".into(), 0.0));
        let (mut a, mut b) = (metrics.account(), metrics.account());
        a.code_executed("python", true, false);
        assert_eq!((ratio(), streak(), age()), ("1.0".into(), "1".into(), 0.0));
        for _ in 0..3 {
            b.code_executed("python", true, false);
        }
        a.code_executed("python", true, false);
        assert_eq!(streak(), "3");
        b.code_executed("python", false, false);
        assert_eq!(streak(), "2");
        assert!(age() > 0.0);
        drop(a);
        assert_eq!(streak(), "0");
        for _ in 0..WINDOW - 1 {
            b.code_executed("python", false, false);
        }
        assert_eq!(ratio(), "0.0");
        b.code_executed("python", true, false);
        assert_eq!(ratio(), "0.01");
    }

    #[test]
    fn commands_count_by_the_kind_of_their_end() {
        let metrics = Metrics::default();
        for code in [0, 1, 123, 124, 125, 126, 127, 128, 129, 143, 255, -1, i32::MIN, i32::MAX] {
            metrics.command_ended(code, Duration::ZERO);
        }
        let counts: Vec<_> = metrics.work.command_exits.values().collect();
        assert_eq!(counts, [1, 3, 1, 3, 4, 2]);
    }
}
