//! The report stream: what happened inside, for the gateway's events and metrics.
//!
//! A bounded ring, so that a gateway that is away for long costs no memory; what it missed shows
//! as a gap in the sequence numbers.

use std::{
    collections::VecDeque,
    mem,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::{Report, What};

/// Reports held for a gateway that is not listening.
const CAPACITY: usize = 1024;

#[derive(Default)]
pub struct Reports {
    ring: Mutex<Ring>,
    added: Notify,
}

#[derive(Default)]
struct Ring {
    last: u64,
    held: VecDeque<Report>,
    /// The language of each kernel that lives.
    kernels: Vec<String>,
    /// Commands and terminals that have begun and not ended.
    commands: u32,
}

impl Reports {
    pub fn push(&self, what: What) {
        self.ring.lock().push(what);
        self.added.notify_waiters();
    }

    /// Forgets what was, but for the kernels and commands that live, and begins to number anew. Only for when
    /// nobody has read anything yet.
    pub fn begin(&self) {
        let mut ring = self.ring.lock();
        let before = mem::take(&mut *ring);
        ring.commands = before.commands;
        for language in before.kernels {
            ring.push(What::KernelStarted { language });
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
            let newer: Vec<_> =
                self.ring.lock().held.iter().filter(|report| report.seq > seq).cloned().collect();
            if !newer.is_empty() {
                return newer;
            }
            added.await;
        }
    }
}

impl Ring {
    fn push(&mut self, what: What) {
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
        self.last += 1;
        if self.held.len() == CAPACITY {
            self.held.pop_front();
        }
        self.held.push_back(Report { seq: self.last, at, kernels, commands: self.commands, what });
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
