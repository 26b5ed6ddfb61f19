//! What happened to a sandbox, in its own log: where it came to stand, which the gateway knows,
//! and what ran in it, which it reports itself. In memory, bounded, and left for the next gateway
//! in a file beside the record, as the samplers' figures are.
//!
//! Each entry has an instant of its own, later than that of the entry before: whoever asks for all
//! after the last one they have misses none.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use chrono::Utc;
use envd::wire::{Report, What};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::{Error, Phase, SandboxId, Sandboxes, Status, envd_log};

/// Entries of what the gateway knows, and of what the sandbox reports.
const MOST_KNOWN: usize = 100;
const MOST_REPORTED: usize = 500;
/// The latter when it has ended, and is remembered with many others.
const MOST_LAST: usize = 50;
/// The longest text of a sandbox's own (characters).
const MOST_TEXT: usize = 64;
/// In a sandbox's directory.
pub(super) const FILE: &str = "journal";
/// No file is longer (bytes).
const LONGEST: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::Debug, Self::Info, Self::Warn, Self::Error];

    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Gateway,
    /// What it is worth: it runs where hostile code does.
    Sandbox,
    /// The log of the sandbox's envd.
    Envd,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Sandbox => "sandbox",
            Self::Envd => "envd",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the epoch.
    pub at: u64,
    pub level: Level,
    pub source: Source,
    pub message: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
    /// The number of the report it was made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

impl Entry {
    pub(super) fn new(at: u64, level: Level, source: Source, message: String) -> Self {
        Self { at, level, source, message, fields: BTreeMap::new(), seq: None }
    }
}

#[derive(Debug, Default)]
pub struct Journal(Mutex<Rings>);

#[derive(Debug, Default)]
struct Rings {
    known: VecDeque<Entry>,
    reported: VecDeque<Entry>,
    /// Of the entry added last.
    last: u64,
    /// The number and the instant of the last report.
    report: (u64, u64),
    over: bool,
    unsaved: bool,
}

impl Journal {
    /// It has come to stand there.
    pub(super) fn moved(&self, before: Phase, now: &Status) {
        let mut rings = self.0.lock();
        let failed = now.phase == Phase::Failed || now.reason.is_some_and(|reason| reason.fails());
        let (level, message) = match (before, now.phase) {
            (_, Phase::Pending) => (Level::Debug, "is being made"),
            (Phase::Pending, Phase::Running) => (Level::Info, "created"),
            (Phase::Pausing, Phase::Running) => (Level::Warn, "not paused, runs on"),
            (_, Phase::Running) => (Level::Info, "resumed"),
            (_, Phase::Pausing) => (Level::Debug, "is being paused"),
            (Phase::Resuming, Phase::Paused) => (Level::Warn, "not resumed, stays paused"),
            (_, Phase::Paused) => (Level::Info, "paused"),
            (_, Phase::Resuming) => (Level::Debug, "is being resumed"),
            (_, Phase::Stopping) if failed => (Level::Error, "is ending"),
            (_, Phase::Stopping) => (Level::Info, "is ending"),
            (_, Phase::Terminated) => (Level::Info, "ended"),
            (_, Phase::Failed) => (Level::Error, "failed"),
        };
        let mut fields = BTreeMap::from([("phase".to_owned(), now.phase.name().to_owned())]);
        if let Some(reason) = now.reason {
            fields.insert("reason".to_owned(), reason.code().to_owned());
            fields.insert("why".to_owned(), reason.message().to_owned());
        }
        rings.over |= now.phase.is_over();
        rings.note(level, message, fields);
    }

    /// Something else that the gateway knows of.
    pub(super) fn note(&self, level: Level, message: &str) {
        self.0.lock().note(level, message, BTreeMap::new());
    }

    /// The same, with more about it.
    pub(super) fn note_with(&self, level: Level, message: &str, fields: BTreeMap<String, String>) {
        self.0.lock().note(level, message, fields);
    }

    /// What a sandbox reports, if it is for people; what it has reported before is not taken
    /// twice. Whether it was taken.
    pub(crate) fn report(&self, report: &Report) -> bool {
        let Some((level, message, fields)) = told(&report.what) else { return false };
        let at = report.at.min(now());
        let mut rings = self.0.lock();
        let (seq, last) = rings.report;
        // One whose envd began anew counts from 1 again, later.
        if report.seq <= seq && at <= last {
            return false;
        }
        rings.report = (report.seq, at);
        let at = rings.next(at);
        let (source, seq) = (Source::Sandbox, Some(report.seq));
        rings.reported.push_back(Entry { at, level, source, message, fields, seq });
        let most = if rings.over { MOST_LAST } else { MOST_REPORTED };
        while rings.reported.len() > most {
            rings.reported.pop_front();
        }
        true
    }

    /// All there is, the oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        let rings = self.0.lock();
        let mut all: Vec<Entry> = rings.known.iter().chain(&rings.reported).cloned().collect();
        all.sort_by_key(|entry| entry.at);
        all
    }

    /// What is to be written, if anything is new since this was last asked for.
    pub(super) fn unsaved(&self) -> Option<Vec<u8>> {
        if !std::mem::take(&mut self.0.lock().unsaved) {
            return None;
        }
        let mut lines = Vec::new();
        for entry in self.entries() {
            if serde_json::to_writer(&mut lines, &entry).is_ok() {
                lines.push(b'\n');
            }
        }
        Some(lines)
    }

    /// Goes on with what the gateway before has left in a sandbox's directory, before anything of
    /// this one's.
    pub(super) fn restore(&self, dir: &Path) -> io::Result<()> {
        let file = match File::open(dir.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let lines = BufReader::new(file.take(LONGEST)).lines();
        let found = lines.map_while(Result::ok);
        let found = found.filter_map(|line| serde_json::from_str::<Entry>(&line).ok());
        let mut rings = self.0.lock();
        let Rings { known, reported, last, report, .. } = &mut *rings;
        let mut before = (VecDeque::new(), VecDeque::new());
        for entry in found {
            *last = entry.at.max(*last);
            if let Some(seq) = entry.seq {
                *report = (seq, entry.at).max(*report);
            }
            let to = if entry.source == Source::Gateway { &mut before.0 } else { &mut before.1 };
            to.push_back(entry);
        }
        for (ring, mut before, most) in
            [(known, before.0, MOST_KNOWN), (reported, before.1, MOST_REPORTED)]
        {
            before.append(ring);
            before.drain(..before.len().saturating_sub(most));
            *ring = before;
        }
        Ok(())
    }
}

impl Sandboxes {
    /// What happened to a sandbox, the oldest first; of one that has ended without the log of its
    /// envd, as long as it is remembered.
    pub async fn log(&self, id: SandboxId) -> Result<Vec<Entry>, Error> {
        let Some(sandbox) = self.0.registry.present(id) else {
            let one = self.0.ended.get(id).ok_or(Error::NotFound(id))?;
            return Ok(one.life.journal().entries());
        };
        let dir = sandbox.dir().to_owned();
        let of_envd = spawn_blocking(move || envd_log::entries(&dir)).await;
        // Empty only when the runtime goes.
        let mut all = of_envd.unwrap_or_default();
        all.extend(sandbox.journal().entries());
        all.sort_by_key(|entry| entry.at);
        Ok(all)
    }
}

impl Rings {
    fn next(&mut self, at: u64) -> u64 {
        self.last = at.max(self.last + 1);
        self.unsaved = true;
        self.last
    }

    fn note(&mut self, level: Level, message: &str, fields: BTreeMap<String, String>) {
        let entry = Entry::new(self.next(now()), level, Source::Gateway, message.to_owned());
        self.known.push_back(Entry { fields, ..entry });
        if self.known.len() > MOST_KNOWN {
            self.known.pop_front();
        }
        let most = if self.over { MOST_LAST } else { MOST_REPORTED };
        self.reported.drain(..self.reported.len().saturating_sub(most));
    }
}

pub(super) fn now() -> u64 {
    u64::try_from(Utc::now().timestamp_millis()).unwrap_or(0)
}

type Told = (Level, String, BTreeMap<String, String>);

/// What a report says, if it is for people.
fn told(what: &What) -> Option<Told> {
    let mut fields = BTreeMap::new();
    let mut field = |name: &str, value: String| {
        fields.insert(name.to_owned(), value);
    };
    let (level, message) = match what {
        What::ProcessStarted { pid, .. } => {
            field("pid", pid.to_string());
            (Level::Info, "command started")
        }
        What::ProcessEnded { pid, exit_code, duration_ms, out_of_memory } => {
            field("pid", pid.to_string());
            field("exitCode", exit_code.to_string());
            field("durationMs", duration_ms.to_string());
            if *out_of_memory {
                (Level::Error, "command killed: the sandbox's memory had run out")
            } else {
                (if *exit_code == 0 { Level::Info } else { Level::Warn }, "command ended")
            }
        }
        What::KernelStarted { language } => {
            field("language", plain(language));
            (Level::Info, "kernel started")
        }
        What::KernelDied { language, exit_code } => {
            field("language", plain(language));
            field("exitCode", exit_code.to_string());
            (Level::Error, "kernel died")
        }
        What::KernelStopped { language } => {
            field("language", plain(language));
            (Level::Info, "kernel stopped")
        }
        What::CodeExecuted { language, failed, duration_ms, .. } => {
            field("language", plain(language));
            field("durationMs", duration_ms.to_string());
            (if *failed { Level::Warn } else { Level::Info }, "code executed")
        }
        What::FileRead { .. } | What::FileWritten { .. } | What::Unknown => return None,
    };
    Some((level, message.to_owned(), fields))
}

/// Text of a sandbox's as it may be shown in a terminal.
fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(MOST_TEXT).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Reason;

    fn status(phase: Phase, reason: Option<Reason>) -> Status {
        Status { phase, reason, since: Utc::now() }
    }

    fn ended(seq: u64, at: u64, exit_code: i32) -> Report {
        let what = What::ProcessEnded { pid: 7, exit_code, duration_ms: 5, out_of_memory: false };
        Report { seq, at, kernels: 0, commands: 0, what, more: false, part: String::new() }
    }

    fn told_by(journal: &Journal) -> Vec<(Level, String)> {
        journal.entries().into_iter().map(|entry| (entry.level, entry.message)).collect()
    }

    #[test]
    fn where_a_sandbox_stood_is_told_in_order_each_at_its_own_instant() {
        let journal = Journal::default();
        journal.moved(Phase::Pending, &status(Phase::Running, None));
        journal.moved(Phase::Running, &status(Phase::Pausing, Some(Reason::Deadline)));
        journal.moved(Phase::Pausing, &status(Phase::Paused, Some(Reason::Deadline)));
        journal.report(&ended(1, 5, 3));
        journal.moved(Phase::Paused, &status(Phase::Stopping, Some(Reason::EnvdDied)));
        let entries = journal.entries();
        assert!(entries.is_sorted_by(|one, next| one.at < next.at), "{entries:?}");
        let told: Vec<_> = told_by(&journal);
        let wanted = [
            (Level::Info, "created"),
            (Level::Debug, "is being paused"),
            (Level::Info, "paused"),
            (Level::Warn, "command ended"),
            (Level::Error, "is ending"),
        ];
        assert_eq!(told, wanted.map(|(level, message)| (level, message.to_owned())));
        assert_eq!(entries[2].fields["reason"], "deadline");
        assert_eq!(entries[3].fields["exitCode"], "3");
    }

    #[test]
    fn a_flood_of_reports_takes_bounded_room_and_nothing_of_the_gateways_away() {
        let journal = Journal::default();
        journal.moved(Phase::Pending, &status(Phase::Running, None));
        for seq in 1..5000 {
            journal.report(&ended(seq, u64::MAX, 0));
        }
        assert_eq!(journal.entries().len(), 1 + MOST_REPORTED);
        assert_eq!(journal.entries()[0].message, "created");
        journal.moved(Phase::Running, &status(Phase::Stopping, Some(Reason::User)));
        journal.report(&ended(5000, u64::MAX, 0));
        assert_eq!(journal.entries().len(), 2 + MOST_LAST);
        for _ in 0..1000 {
            journal.note(Level::Info, "again");
        }
        assert_eq!(journal.entries().len(), MOST_KNOWN + MOST_LAST);
    }

    #[test]
    fn the_next_gateway_goes_on_with_it_and_takes_no_report_twice() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::default();
        journal.restore(dir.path()).unwrap();
        journal.moved(Phase::Pending, &status(Phase::Running, None));
        journal.report(&ended(1, 10, 0));
        journal.report(&ended(2, 11, 0));
        let mut file = journal.unsaved().unwrap();
        assert!(journal.unsaved().is_none());
        file.extend(b"{\"torn");
        std::fs::write(dir.path().join(FILE), file).unwrap();
        let later = Journal::default();
        later.restore(dir.path()).unwrap();
        assert_eq!(later.entries(), journal.entries());
        for seq in 1..=3 {
            later.report(&ended(seq, 9 + seq, 0));
        }
        assert_eq!(later.entries().len(), 4);
        // Another envd of the same sandbox.
        later.report(&ended(1, u64::MAX, 0));
        assert_eq!(later.entries().len(), 5);
    }

    #[test]
    fn what_a_sandbox_names_is_cut_and_moves_no_cursor() {
        let language = format!("\u{1b}[2J{}", "x".repeat(1000));
        let what = What::KernelStarted { language };
        let (_, _, fields) = told(&what).unwrap();
        assert_eq!(fields["language"], format!("\u{fffd}[2J{}", "x".repeat(MOST_TEXT - 4)));
    }
}
