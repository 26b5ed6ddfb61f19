//! What a sandbox's envd reports, as events.
//!
//! It may be the word of hostile code, so there is a bound to all of it: a text has one, an instant
//! lies between the sandbox's beginning and now, nothing took longer than the sandbox has lived,
//! and of commands that never end only so many are remembered.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, Utc};
use envd::wire::{self, Detail, MAX_CONTEXTS, MAX_TEXT, Of, Report, What as Said};

use crate::{
    events::{EventId, Events, Kind, TraceId, What},
    sandbox::Sandbox,
};

/// Commands that have begun, of which the end is awaited,
const MOST_COMMANDS: usize = 1024;
/// and what there is of their words (bytes).
const MOST_WORDS: usize = 256 << 10;
/// Of a language, and of a signal (characters).
const MOST_NAME: usize = 64;
/// What bash is ended with, and all that is killed for its time.
const KILLED: &str = "SIGKILL";

pub(super) struct Told<'a> {
    events: Events,
    sandbox: &'a Sandbox,
    commands: HashMap<u32, Command>,
    /// Their pids and the events of their beginnings, the oldest first; some may have ended.
    order: VecDeque<(u32, EventId)>,
    words: usize,
    /// That live, as is said last.
    kernels: u32,
}

struct Command {
    begun: EventId,
    line: String,
    trace: Option<TraceId>,
}

/// Where and when a report was made.
struct Made {
    at: DateTime<Utc>,
    seq: u64,
    trace: Option<TraceId>,
}

impl<'a> Told<'a> {
    pub(super) fn new(sandbox: &'a Sandbox, events: &Events) -> Self {
        Self {
            events: events.clone(),
            sandbox,
            commands: HashMap::new(),
            order: VecDeque::new(),
            words: 0,
            kernels: 0,
        }
    }

    /// Its envd has begun anew, with nothing of what ran before.
    pub(super) fn forget(&mut self) {
        self.commands.clear();
        self.order.clear();
        self.words = 0;
    }

    /// What is not `fresh` has been told by the gateway before.
    pub(super) fn take(&mut self, report: &Report, detail: Option<Detail>, fresh: bool) {
        let started = self.sandbox.facts().started_at;
        let at = i64::try_from(report.at).ok().and_then(DateTime::from_timestamp_millis);
        let at = at.unwrap_or(DateTime::<Utc>::MAX_UTC).min(Utc::now()).max(started);
        let (trace, of) = match detail {
            Some(Detail { trace, of }) => (trace.and_then(|trace| TraceId::new(trace.bytes())), of),
            None => (None, Of::Other),
        };
        self.kernels = report.kernels.min(MAX_CONTEXTS as u32);
        let made = Made { at, seq: report.seq, trace };
        let longest = u64::try_from((at - started).num_milliseconds()).unwrap_or_default();
        match (&report.what, of) {
            (Said::ProcessStarted { pid, repeated }, of) => {
                self.begun(&made, *pid, *repeated, of, fresh);
            }
            (Said::ProcessEnded { pid, exit_code, duration_ms, .. }, of) => {
                let command = self.ended(*pid);
                if fresh {
                    self.over(made, *pid, *exit_code, (*duration_ms).min(longest), of, command);
                }
            }
            _ if !fresh => {}
            (Said::KernelStarted { language }, _) => {
                self.tell(&made, 0, What::KernelStarted { language: Some(name(language)) });
            }
            (Said::KernelDied { .. } | Said::KernelStopped { .. }, _) => {
                let died = matches!(report.what, Said::KernelDied { .. });
                self.tell(&made, 0, What::KernelExited { died });
            }
            (Said::CodeExecuted { language, failed, duration_ms, repeated }, of) => {
                let code = match of {
                    Of::Code { code } => Some(wire::text(&code)),
                    _ => None,
                };
                let what = What::CodeExecuted {
                    language: name(language),
                    error: *failed,
                    duration_ms: Some((*duration_ms).min(longest)),
                    repeated: *repeated,
                    code,
                };
                self.tell(&made, 0, what);
            }
            (Said::FileWritten { bytes }, Of::Written { path, created }) => {
                let (path, size_bytes) = (wire::text(&path), *bytes);
                let what = match created {
                    true => What::FileCreated { path, size_bytes },
                    false => What::FileModified { path, size_bytes },
                };
                self.tell(&made, 0, what);
            }
            (Said::FileRead { bytes }, Of::Read { path }) => {
                let what = What::FileRead { path: wire::text(&path), size_bytes: *bytes };
                self.tell(&made, 0, what);
            }
            (Said::FileRead { bytes: 0 }, of) => self.beside(&made, of),
            _ => {}
        }
    }

    /// What is no report of its own to older gateways.
    fn beside(&mut self, made: &Made, of: Of) {
        match of {
            Of::NotStarted { command, error, .. } => {
                let (error, command) = (wire::text(&error), Some(wire::text(&command)));
                self.tell(made, 0, What::ExecFailed { error, command });
            }
            Of::Removed { path } => {
                self.tell(made, 0, What::FileDeleted { path: wire::text(&path) });
            }
            Of::Moved { from, to, size } => {
                let from = self.tell(made, 0, What::FileDeleted { path: wire::text(&from) });
                let what = What::FileCreated { path: wire::text(&to), size_bytes: size };
                self.tell_after(made, 1, Some(from), what);
            }
            Of::DirectoryMade { path } => {
                // What else is told apart from a file by nothing but this.
                let mut path = wire::text(&path);
                path.push('/');
                self.tell(made, 0, What::FileCreated { path, size_bytes: 0 });
            }
            _ => {}
        }
    }

    fn begun(&mut self, made: &Made, pid: u32, repeated: bool, of: Of, fresh: bool) {
        let (command, cwd) = match of {
            Of::Started { command, cwd, .. } => (wire::text(&command), Some(wire::text(&cwd))),
            _ => (String::new(), None),
        };
        // One of the same pid has ended, without a word.
        self.ended(pid);
        let begun = EventId::reported(self.sandbox.id(), made.at, made.seq, 0);
        self.words += command.len();
        self.order.push_back((pid, begun));
        let line = command.clone();
        self.commands.insert(pid, Command { begun, line, trace: made.trace });
        if self.order.len() > MOST_COMMANDS {
            // Those that have ended go before one that lives on.
            let live = &self.commands;
            self.order.retain(|(pid, of)| live.get(pid).is_some_and(|one| one.begun == *of));
        }
        while self.order.len() > MOST_COMMANDS || self.words > MOST_WORDS {
            let Some((oldest, of)) = self.order.pop_front() else { break };
            if self.commands.get(&oldest).is_some_and(|command| command.begun == of) {
                self.ended(oldest);
            }
        }
        if fresh {
            self.tell(made, 0, What::ExecStarted { command, cwd, pid: Some(pid), repeated });
        }
    }

    fn ended(&mut self, pid: u32) -> Option<Command> {
        let command = self.commands.remove(&pid)?;
        self.words -= command.line.len();
        Some(command)
    }

    fn over(
        &self,
        made: Made,
        pid: u32,
        exit_code: i32,
        duration_ms: u64,
        of: Of,
        command: Option<Command>,
    ) {
        let (begun, line, trace) = match command {
            Some(Command { begun, line, trace }) => {
                (Some(begun), Some(line).filter(|line| !line.is_empty()), trace)
            }
            None => (None, None, None),
        };
        let made = Made { trace: made.trace.or(trace), ..made };
        let (mut stdout, mut stderr) = (None, None);
        if let Of::Ended { stdout: out, stderr: err, stdout_bytes, stderr_bytes, .. } = &of {
            stdout = Some(output(out, *stdout_bytes));
            stderr = Some(output(err, *stderr_bytes));
        }
        if let Of::Ended { timeout_ms: Some(timeout_ms), signal, .. } = of {
            let signal = signal.map_or_else(|| KILLED.to_owned(), |signal| name(&signal));
            let what = What::ExecTimedOut { timeout_ms, signal, pid: Some(pid) };
            self.tell_after(&made, 0, begun, what);
        }
        let (command, pid) = (line, Some(pid));
        let what = What::ExecCompleted { command, exit_code, duration_ms, stdout, stderr, pid };
        self.tell_after(&made, 1, begun, what);
    }

    fn tell(&self, made: &Made, rank: u8, what: What) -> EventId {
        self.tell_after(made, rank, None, what)
    }

    /// `rank` tells the events of one report apart.
    fn tell_after(&self, made: &Made, rank: u8, parent: Option<EventId>, what: What) -> EventId {
        let id = EventId::reported(self.sandbox.id(), made.at, made.seq, rank);
        let new = self.sandbox.event(what).trace(made.trace).at(made.at).id(id);
        self.events.emit(match parent {
            Some(parent) => new.parent(parent),
            None => new,
        })
    }
}

/// Where the sandbox has ended, its kernels have with it.
impl Drop for Told<'_> {
    fn drop(&mut self) {
        // Or it is the gateway that ends.
        if !self.sandbox.gone().is_cancelled() {
            return;
        }
        for _ in 0..self.kernels {
            let exited = || self.sandbox.event(What::KernelExited { died: false });
            self.events.tell(Kind::KernelExited, exited);
        }
    }
}

/// What there is of an output. One that was cut before there was some more than an event has of it,
/// as envd had no room, is left out: the cut may have gone through a secret.
fn output(text: &str, bytes: u64) -> String {
    let short = (text.len() as u64) < bytes && text.len() < MAX_TEXT - 3;
    if short { String::new() } else { wire::text(text) }
}

/// A word of a sandbox's as it may be shown.
fn name(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(MOST_NAME).map(shown).collect()
}

#[cfg(test)]
#[path = "tests/told.rs"]
mod tests;
