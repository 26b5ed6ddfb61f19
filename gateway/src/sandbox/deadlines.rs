//! When sandboxes end by themselves.
//!
//! A [`Life`] is the truth about one sandbox; [`Deadlines`] only knows when to look next.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{SandboxId, life::Life};

/// The sweeper looks at least this often, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The queue of the one sweeper.
#[derive(Default)]
pub(super) struct Deadlines {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    by_time: BTreeSet<(DateTime<Utc>, SandboxId)>,
    of: HashMap<SandboxId, DateTime<Utc>>,
}

impl Queue {
    fn remove(&mut self, id: SandboxId) {
        if let Some(at) = self.of.remove(&id) {
            self.by_time.remove(&(at, id));
        }
    }
}

impl Deadlines {
    /// Looks at a sandbox when its deadline comes; to be called after every change of it.
    ///
    /// The deadline is read under the queue's lock: whichever of two racing changes comes here
    /// last puts the value that stands. One that does not run has none.
    pub(super) fn watch(&self, id: SandboxId, life: &Life) {
        let mut queue = self.queue.lock();
        queue.remove(id);
        let Some(at) = life.due() else { return };
        let first = queue.by_time.first().is_none_or(|(next, _)| at < *next);
        queue.by_time.insert((at, id));
        queue.of.insert(id, at);
        drop(queue);
        if first {
            self.changed.notify_one();
        }
    }

    /// Takes those whose time has come.
    pub(super) fn take_due(&self, now: DateTime<Utc>) -> Vec<SandboxId> {
        let mut queue = self.queue.lock();
        let mut due = Vec::new();
        while let Some(&(at, id)) = queue.by_time.first() {
            // Deadlines are compared in whole milliseconds everywhere.
            if at.timestamp_millis() > now.timestamp_millis() {
                break;
            }
            queue.remove(id);
            due.push(id);
        }
        due
    }

    /// Returns when it is time for [`Self::take_due`].
    pub(super) async fn next(&self) {
        loop {
            let changed = self.changed.notified();
            let first = self.queue.lock().by_time.first().map(|(at, _)| *at);
            let wait = match first {
                Some(at) => (at - Utc::now()).to_std().unwrap_or_default(),
                None => LONGEST_SLEEP,
            };
            tokio::select! {
                () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => return,
                () = changed => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::sandbox::life::Move;

    fn life(at: DateTime<Utc>) -> Life {
        Life::new(at, Utc::now())
    }

    fn from_now(millis: i64) -> DateTime<Utc> {
        Utc::now() + chrono::Duration::milliseconds(millis)
    }

    #[tokio::test]
    async fn a_thousand_deadlines_are_met_within_a_second_whatever_order_they_came_in() {
        let deadlines = Arc::new(Deadlines::default());
        let mut all = HashMap::new();
        for n in 0..1000_i64 {
            let id = SandboxId::random();
            // Far off at first, then drawn near: only the second one counts.
            let deadline = life(from_now(600_000));
            deadlines.watch(id, &deadline);
            deadline.renew(|_| from_now(200 + (n * 37) % 1000)).unwrap();
            all.insert(id, deadline);
        }
        let renewed = SandboxId::random();
        let far = life(from_now(300));
        deadlines.watch(renewed, &far);
        far.renew(|_| from_now(600_000)).unwrap();
        deadlines.watch(renewed, &far);
        for (id, deadline) in &all {
            deadlines.watch(*id, deadline);
        }

        while !all.is_empty() {
            deadlines.next().await;
            let now = Utc::now();
            for id in deadlines.take_due(now) {
                let deadline = all.remove(&id).expect("each is due once");
                let late = now - deadline.due().unwrap();
                assert!(late >= chrono::Duration::milliseconds(-1), "{late}");
                assert!(late < chrono::Duration::seconds(1), "{late}");
                assert!(deadline.expire(now, Move::End));
            }
        }
        assert!(!far.ended());
        assert_eq!(deadlines.queue.lock().by_time.len(), 1);
    }
}
