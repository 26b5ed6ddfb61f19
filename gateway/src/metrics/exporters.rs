//! What becomes of events that are taken elsewhere, by exporter.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    counts::Counter,
    text::{Decimal, Text},
};

/// All there are, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Exporters(Mutex<Vec<Arc<Exported>>>);

/// Of one.
#[derive(Debug)]
pub(crate) struct Exported {
    name: String,
    began: Instant,
    sent: Counter,
    failed: Counter,
    dropped: Counter,
    retries: Counter,
    waiting: AtomicU64,
    spool_bytes: AtomicU64,
    /// Of the last success, in milliseconds from when it began.
    succeeded: AtomicU64,
}

impl Exported {
    /// So many events have arrived.
    pub(crate) fn sent(&self, events: u64) {
        self.sent.add(events);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.succeeded.store(now, Relaxed);
    }

    /// So many were not taken, and are given up.
    pub(crate) fn failed(&self, events: u64) {
        self.failed.add(events);
    }

    /// So many were lost on their way there.
    pub(crate) fn dropped(&self, events: u64) {
        self.dropped.add(events);
    }

    /// What was sent is sent once more.
    pub(crate) fn retried(&self) {
        self.retries.raise();
    }

    /// Its spool has so many events, and bytes of them.
    pub(crate) fn waits(&self, events: u64, bytes: u64) {
        self.waiting.store(events, Relaxed);
        self.spool_bytes.store(bytes, Relaxed);
    }

    fn since_success(&self) -> Duration {
        let succeeded = Duration::from_millis(self.succeeded.load(Relaxed));
        self.began.elapsed().saturating_sub(succeeded)
    }
}

type Of = fn(&Exported) -> u64;

impl Exporters {
    pub(super) fn add(&self, name: &str) -> Arc<Exported> {
        let exported = Arc::new(Exported {
            name: name.to_owned(),
            began: Instant::now(),
            sent: Counter::default(),
            failed: Counter::default(),
            dropped: Counter::default(),
            retries: Counter::default(),
            waiting: AtomicU64::default(),
            spool_bytes: AtomicU64::default(),
            succeeded: AtomicU64::default(),
        });
        self.0.lock().push(exported.clone());
        exported
    }

    pub(super) fn tell(&self, text: &mut Text) {
        let all = self.0.lock();
        let counters: [(&str, &str, Of); 4] = [
            (
                "coppice_exporter_sent_events_total",
                "Events that have arrived where an exporter takes them.",
                |it| it.sent.value(),
            ),
            (
                "coppice_exporter_failed_events_total",
                "Events that were not taken there, and are given up.",
                |it| it.failed.value(),
            ),
            (
                "coppice_exporter_dropped_events_total",
                "Events that an exporter has lost for want of room.",
                |it| it.dropped.value(),
            ),
            (
                "coppice_exporter_retries_total",
                "Attempts that failed, and were or will be made again.",
                |it| it.retries.value(),
            ),
        ];
        for (name, help, of) in counters {
            text.counters(name, help);
            for one in all.iter() {
                text.sample(name, &[("exporter", &one.name)], of(one));
            }
        }
        let gauges: [(&str, &str, Of); 2] = [
            ("coppice_exporter_waiting_events", "Events that have not arrived yet.", |it| {
                it.waiting.load(Relaxed)
            }),
            ("coppice_exporter_spool_bytes", "What those take on the disk.", |it| {
                it.spool_bytes.load(Relaxed)
            }),
        ];
        for (name, help, of) in gauges {
            text.gauges(name, help);
            for one in all.iter() {
                text.sample(name, &[("exporter", &one.name)], of(one));
            }
        }
        let name = "coppice_exporter_last_success_age_seconds";
        text.gauges(name, "For how long none has arrived.");
        for one in all.iter() {
            let age = Decimal(one.since_success().as_secs_f64());
            text.sample(name, &[("exporter", &one.name)], age);
        }
    }
}
