//! When sandboxes end by themselves.
//!
//! A [`Deadline`] is the truth about one sandbox; [`Deadlines`] only knows when to look next.

use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::SandboxId;

/// Stands for "no longer running" where milliseconds since the epoch stand otherwise.
const ENDED: i64 = i64::MIN;

/// The sweeper looks at least this often, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The instant a sandbox ends at, and the one place that decides who ends it: of a renewal, the
/// sweeper and a kill that race, exactly one compare-and-swap wins.
#[derive(Debug)]
pub(super) struct Deadline(AtomicI64);

/// A sandbox has ended, or is about to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ended;

impl Deadline {
    pub(super) fn new(at: DateTime<Utc>) -> Self {
        Self(AtomicI64::new(at.timestamp_millis()))
    }

    pub(super) fn at(&self) -> Result<DateTime<Utc>, Ended> {
        match self.0.load(Ordering::Acquire) {
            ENDED => Err(Ended),
            millis => Ok(instant(millis)),
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.at().is_err()
    }

    /// Sets what `next` makes of the present deadline, unless the sandbox has ended.
    pub(super) fn renew(
        &self,
        next: impl Fn(DateTime<Utc>) -> DateTime<Utc>,
    ) -> Result<DateTime<Utc>, Ended> {
        let renewed = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            (old != ENDED).then(|| next(instant(old)).timestamp_millis())
        });
        match renewed {
            Ok(_) => self.at(),
            Err(_) => Err(Ended),
        }
    }

    /// Claims a sandbox whose time is over; `false` when it is not, or someone else ended it.
    pub(super) fn expire(&self, now: DateTime<Utc>) -> bool {
        let now = now.timestamp_millis();
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| {
                (at != ENDED && at <= now).then_some(ENDED)
            })
            .is_ok()
    }

    /// Claims a sandbox whatever its deadline; `false` when someone else ended it.
    pub(super) fn end(&self) -> bool {
        self.0.swap(ENDED, Ordering::AcqRel) != ENDED
    }
}

fn instant(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

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
    /// last puts the value that stands.
    pub(super) fn watch(&self, id: SandboxId, deadline: &Deadline) {
        let mut queue = self.queue.lock();
        queue.remove(id);
        let Ok(at) = deadline.at() else { return };
        let first = queue.by_time.first().is_none_or(|(next, _)| at < *next);
        queue.by_time.insert((at, id));
        queue.of.insert(id, at);
        drop(queue);
        if first {
            self.changed.notify_one();
        }
    }

    pub(super) fn forget(&self, id: SandboxId) {
        self.queue.lock().remove(id);
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

    fn from_now(millis: i64) -> DateTime<Utc> {
        Utc::now() + chrono::Duration::milliseconds(millis)
    }

    #[test]
    fn of_a_renewal_and_an_expiry_that_race_exactly_one_wins() {
        for _ in 0..500 {
            let deadline = Deadline::new(from_now(-1));
            let later = from_now(60_000);
            let (renewed, expired) = std::thread::scope(|scope| {
                let renewal = scope.spawn(|| deadline.renew(|old| old.max(later)));
                let expiry = scope.spawn(|| deadline.expire(Utc::now()));
                (renewal.join().unwrap(), expiry.join().unwrap())
            });
            assert_ne!(renewed.is_ok(), expired);
            assert_eq!(deadline.ended(), expired);
        }
    }

    #[test]
    fn only_one_of_many_ends_a_sandbox() {
        let deadline = Deadline::new(from_now(-1));
        let ends = [deadline.expire(Utc::now()), deadline.end(), deadline.expire(Utc::now())];
        assert_eq!(ends, [true, false, false]);
        assert_eq!(deadline.renew(|at| at), Err(Ended));
    }

    #[tokio::test]
    async fn a_thousand_deadlines_are_met_within_a_second_whatever_order_they_came_in() {
        let deadlines = Arc::new(Deadlines::default());
        let mut all = HashMap::new();
        for n in 0..1000_i64 {
            let id = SandboxId::random();
            // Far off at first, then drawn near: only the second one counts.
            let deadline = Deadline::new(from_now(600_000));
            deadlines.watch(id, &deadline);
            deadline.renew(|_| from_now(200 + (n * 37) % 1000)).unwrap();
            all.insert(id, deadline);
        }
        let renewed = SandboxId::random();
        let far = Deadline::new(from_now(300));
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
                let late = now - deadline.at().unwrap();
                assert!(late >= chrono::Duration::milliseconds(-1), "{late}");
                assert!(late < chrono::Duration::seconds(1), "{late}");
                assert!(deadline.expire(now));
            }
        }
        assert!(!far.ended());
        assert_eq!(deadlines.queue.lock().by_time.len(), 1);
    }
}
