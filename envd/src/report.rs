//! The report stream: what happened inside, for the gateway's events and metrics.
//!
//! A bounded ring, so that a gateway that is away for long costs no memory; what it missed shows
//! as a gap in the sequence numbers. Details have a bound of their own, in bytes: the oldest are
//! forgotten before the reports that they belong to, which are counted.

use std::{
    collections::VecDeque,
    mem,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::{self, Detail, Report, What};

/// Reports held for a gateway that is not listening.
const CAPACITY: usize = 1024;

/// Of details, as JSON, held with them (bytes).
const DETAILS: usize = 256 << 10;

#[derive(Default)]
pub struct Reports {
    ring: Mutex<Ring>,
    added: Notify,
    urgent: Notify,
}

#[derive(Default)]
struct Ring {
    last: u64,
    held: VecDeque<Held>,
    /// Of their details (bytes).
    bytes: usize,
    /// So many, the oldest, have no detail any more.
    bare: usize,
    /// The language of each kernel that lives.
    kernels: Vec<String>,
    /// Commands and terminals that have begun and not ended.
    commands: u32,
}

/// A report without its parts.
struct Held {
    seq: u64,
    at: u64,
    kernels: u32,
    commands: u32,
    what: What,
    /// As JSON; empty where there is none.
    detail: Box<str>,
}

impl Reports {
    pub fn push(&self, what: What) {
        self.add(what, "");
    }

    /// With all there is to say of it.
    pub fn tell(&self, what: What, detail: &Detail) {
        let detail = serde_json::to_string(detail).unwrap_or_default();
        self.add(what, &detail);
    }

    fn add(&self, what: What, detail: &str) {
        let urgent = !matches!(what, What::FileRead { .. } | What::FileWritten { .. });
        self.ring.lock().push(what, detail);
        self.added.notify_waiters();
        if urgent {
            self.urgent.notify_one();
        }
    }

    /// Returns when there is one that is not to wait for others: whoever has heard of a command's
    /// end may end the sandbox next, and with it what has not been told by then.
    pub(crate) async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// Forgets what was, but for the kernels and commands that live, and begins to number anew. Only for when
    /// nobody has read anything yet.
    pub fn begin(&self) {
        let mut ring = self.ring.lock();
        let before = mem::take(&mut *ring);
        ring.commands = before.commands;
        for language in before.kernels {
            ring.push(What::KernelStarted { language }, "");
        }
        drop(ring);
        self.added.notify_waiters();
    }

    /// Waits for reports newer than `seq`, and returns those still held, oldest first.
    pub async fn after(&self, seq: u64) -> Vec<Report> {
        loop {
            let mut added = std::pin::pin!(self.added.notified());
            // Registered before the look, so that a report made in between wakes us.
            added.as_mut().enable();
            let newer = self.now_after(seq);
            if !newer.is_empty() {
                return newer;
            }
            added.await;
        }
    }

    /// The same without waiting, each part a report of its own.
    pub(crate) fn now_after(&self, seq: u64) -> Vec<Report> {
        let ring = self.ring.lock();
        let newer = ring.held.iter().filter(|held| held.seq > seq);
        newer.flat_map(Held::reports).filter(|report| report.seq > seq).collect()
    }
}

impl Held {
    fn reports(&self) -> impl Iterator<Item = Report> {
        let parts = wire::parts(&self.detail);
        let last = parts.len() - 1;
        parts.into_iter().enumerate().map(move |(at, part)| {
            let more = at < last;
            Report {
                seq: self.seq - (last - at) as u64,
                at: self.at,
                kernels: self.kernels,
                commands: self.commands,
                what: if more { What::NOTHING } else { self.what.clone() },
                more,
                part: part.to_owned(),
            }
        })
    }
}

impl Ring {
    fn push(&mut self, what: What, detail: &str) {
        match &what {
            What::KernelStarted { language } => self.kernels.push(language.clone()),
            What::KernelDied { language: gone, .. } | What::KernelStopped { language: gone } => {
                if let Some(at) = self.kernels.iter().position(|language| language == gone) {
                    self.kernels.swap_remove(at);
                }
            }
            What::ProcessStarted { .. } => self.commands = self.commands.saturating_add(1),
            What::ProcessEnded { .. } => self.commands = self.commands.saturating_sub(1),
            _ => {}
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        let kernels = u32::try_from(self.kernels.len()).unwrap_or(u32::MAX);
        self.last += wire::parts(detail).len() as u64;
        if self.held.len() == CAPACITY
            && let Some(oldest) = self.held.pop_front()
        {
            self.bytes -= oldest.detail.len();
            self.bare = self.bare.saturating_sub(1);
        }
        self.bytes += detail.len();
        let (seq, commands, detail) = (self.last, self.commands, detail.into());
        self.held.push_back(Held { seq, at, kernels, commands, what, detail });
        while self.bytes > DETAILS {
            let Some(oldest) = self.held.get_mut(self.bare) else { return };
            self.bytes -= std::mem::take(&mut oldest.detail).len();
            self.bare += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(pid: u32) -> What {
        What::ProcessStarted { pid, repeated: false }
    }

    #[tokio::test]
    async fn a_late_reader_sees_the_gap() {
        let reports = Reports::default();
        for pid in 0..2000 {
            reports.push(begun(pid));
        }
        let held = reports.after(0).await;
        assert_eq!(held.len(), CAPACITY);
        assert_eq!((held[0].seq, held[CAPACITY - 1].seq), (977, 2000));
    }

    #[tokio::test]
    async fn what_was_before_the_beginning_is_not_told() {
        let reports = Reports::default();
        reports.push(begun(1));
        reports.begin();
        reports.push(begun(2));
        let held = reports.after(0).await;
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].seq, &held[0].what), (1, &begun(2)));
    }

    #[tokio::test]
    async fn a_kernel_that_lives_at_the_beginning_is_told_of() {
        let reports = Reports::default();
        let started = |language: &str| What::KernelStarted { language: language.into() };
        for language in ["python", "javascript"] {
            reports.push(started(language));
        }
        reports.push(What::KernelDied { language: "javascript".into(), exit_code: 1 });
        reports.begin();
        let held = reports.after(0).await;
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].seq, &held[0].what), (1, &started("python")));
    }

    #[tokio::test]
    async fn every_report_says_how_many_kernels_live_though_what_was_said_of_them_is_lost() {
        let reports = Reports::default();
        let started = |language: &str| What::KernelStarted { language: language.into() };
        for language in ["python", "bash", "python"] {
            reports.push(started(language));
        }
        reports.push(What::KernelStopped { language: "bash".into() });
        for _ in 0..CAPACITY {
            reports.push(What::FileRead { bytes: 1 });
        }
        assert!(reports.after(0).await.iter().all(|report| report.kernels == 2));
        reports.push(What::KernelDied { language: "python".into(), exit_code: 1 });
        assert_eq!(reports.after(0).await.last().unwrap().kernels, 1);
        reports.begin();
        let held = reports.after(0).await;
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].kernels, &held[0].what), (1, &started("python")));
    }

    #[tokio::test]
    async fn every_report_says_how_many_commands_have_not_ended() {
        let reports = Reports::default();
        for pid in [1, 2, 3] {
            reports.push(begun(pid));
        }
        reports.begin();
        reports.push(What::ProcessEnded {
            pid: 2,
            exit_code: 0,
            duration_ms: 1,
            out_of_memory: false,
        });
        reports.push(What::FileRead { bytes: 1 });
        let told: Vec<_> = reports.after(0).await.iter().map(|report| report.commands).collect();
        assert_eq!(told, [2, 2]);
    }

    #[tokio::test]
    async fn details_are_forgotten_before_what_is_counted() {
        let reports = Reports::default();
        let of = wire::Of::Ended {
            stdout: "x".repeat(wire::MAX_TEXT),
            stderr: "y".repeat(wire::MAX_TEXT),
            stdout_bytes: 1 << 40,
            stderr_bytes: 0,
            timeout_ms: None,
            signal: None,
        };
        let detail = Detail { trace: None, of };
        let ended =
            What::ProcessEnded { pid: 1, exit_code: 0, duration_ms: 1, out_of_memory: false };
        for _ in 0..CAPACITY + 100 {
            reports.tell(ended.clone(), &detail);
        }
        let told = reports.after(0).await;
        let whole = told.iter().filter(|report| !report.more).count();
        assert_eq!(whole, CAPACITY, "of each there is the report");
        let bytes: usize = told.iter().map(|report| report.part.len()).sum();
        assert!(DETAILS / 2 < bytes && bytes <= DETAILS, "{bytes}");
        assert!(told.is_sorted_by(|one, next| one.seq < next.seq));
        assert!(!told.last().unwrap().part.is_empty(), "the newest have theirs");
        // As many without one drive them all out.
        for _ in 0..CAPACITY {
            reports.push(What::NOTHING);
        }
        let ring = reports.ring.lock();
        assert_eq!((ring.bytes, ring.bare), (0, 0));
    }

    #[tokio::test]
    async fn a_reader_that_is_up_to_date_waits() {
        let reports = std::sync::Arc::new(Reports::default());
        reports.push(What::FileRead { bytes: 1 });
        let waiting = tokio::spawn({
            let reports = reports.clone();
            async move { reports.after(1).await }
        });
        tokio::task::yield_now().await;
        reports.push(What::FileRead { bytes: 2 });
        assert_eq!(waiting.await.unwrap()[0].seq, 2);
    }
}
