//! The report stream: what happened inside, for the gateway's events and metrics.
//!
//! A bounded ring, so that a gateway that is away for long costs no memory; what it missed shows
//! as a gap in the sequence numbers.

use std::{
    collections::VecDeque,
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
}

impl Reports {
    pub fn push(&self, what: What) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut ring = self.ring.lock();
        ring.last += 1;
        let report = Report { seq: ring.last, at: u64::try_from(at).unwrap_or(u64::MAX), what };
        if ring.held.len() == CAPACITY {
            ring.held.pop_front();
        }
        ring.held.push_back(report);
        drop(ring);
        self.added.notify_waiters();
    }

    /// Forgets what was, but for the kernels that live, and begins to number anew. Only for when
    /// nobody has read anything yet.
    pub fn begin(&self) {
        let before = std::mem::take(&mut *self.ring.lock());
        let mut living = Vec::new();
        for report in before.held {
            match report.what {
                What::KernelStarted { language } => living.push(language),
                What::KernelDied { language: dead, .. } => {
                    if let Some(at) = living.iter().position(|language| *language == dead) {
                        living.remove(at);
                    }
                }
                _ => {}
            }
        }
        for language in living {
            self.push(What::KernelStarted { language });
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_reader_sees_the_gap() {
        let reports = Reports::default();
        for pid in 0..2000 {
            reports.push(What::ProcessStarted { pid });
        }
        let held = reports.after(0).await;
        assert_eq!(held.len(), CAPACITY);
        assert_eq!((held[0].seq, held[CAPACITY - 1].seq), (977, 2000));
    }

    #[tokio::test]
    async fn what_was_before_the_beginning_is_not_told() {
        let reports = Reports::default();
        reports.push(What::ProcessStarted { pid: 1 });
        reports.begin();
        reports.push(What::ProcessStarted { pid: 2 });
        let held = reports.after(0).await;
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].seq, &held[0].what), (1, &What::ProcessStarted { pid: 2 }));
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
