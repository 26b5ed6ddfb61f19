//! When sandboxes end by themselves.
//!
//! The sandbox itself knows when that is; [`Deadlines`] only knows when to look next.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::SandboxId;

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
    /// Looks at a sandbox when it is due; to be called after every change of that.
    ///
    /// It is asked under the queue's lock: whichever of two racing changes comes here last puts
    /// the value that stands. One that does not run is never due.
    pub(super) fn watch(&self, id: SandboxId, due: impl FnOnce() -> Option<DateTime<Utc>>) {
        let mut queue = self.queue.lock();
        queue.remove(id);
        let Some(at) = due() else { return };
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

    /// For how long nothing is due, if nothing changes.
    fn rest(&self, now: DateTime<Utc>) -> Duration {
        let first = self.queue.lock().by_time.first().map(|(at, _)| *at);
        let wait = first.map(|at| (at - now).to_std().unwrap_or_default());
        wait.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
    }

    /// Returns when it is time for [`Self::take_due`].
    pub(super) async fn next(&self) {
        loop {
            let changed = self.changed.notified();
            let rest = self.rest(Utc::now());
            tokio::select! {
                () = tokio::time::sleep(rest) => return,
                () = changed => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::sandbox::life::{Fate, Life};

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
            deadlines.watch(id, || deadline.due());
            deadline.renew(|_| from_now(200 + (n * 37) % 1000)).unwrap();
            all.insert(id, deadline);
        }
        let renewed = SandboxId::random();
        let far = life(from_now(300));
        deadlines.watch(renewed, || far.due());
        far.renew(|_| from_now(600_000)).unwrap();
        deadlines.watch(renewed, || far.due());
        for (id, deadline) in &all {
            deadlines.watch(*id, || deadline.due());
        }

        while !all.is_empty() {
            deadlines.next().await;
            let now = Utc::now();
            for id in deadlines.take_due(now) {
                let deadline = all.remove(&id).expect("each is due once");
                let late = now - deadline.due().unwrap();
                assert!(late >= chrono::Duration::milliseconds(-1), "{late}");
                assert!(late < chrono::Duration::seconds(1), "{late}");
                assert!(deadline.expire(now, Fate::End));
            }
        }
        assert!(!far.is_over());
        assert_eq!(deadlines.queue.lock().by_time.len(), 1);
    }

    const MANY: usize = 1000;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + millis).unwrap()
    }

    /// A client who moves a deadline.
    #[derive(Clone, Debug)]
    struct Renewal {
        at: i64,
        which: usize,
        timeout: i64,
        /// It falls between the queue's look and the sweeper's, if there is one at that time.
        between: bool,
    }

    fn renewal() -> impl Strategy<Value = Renewal> {
        (0..20_000_i64, 0..MANY, 0..20_000_i64, any::<bool>())
            .prop_map(|(at, which, timeout, between)| Renewal { at, which, timeout, between })
    }

    /// The sandboxes of one run, and what their clients were promised.
    struct Run {
        deadlines: Deadlines,
        lives: Vec<(SandboxId, Life)>,
        promised: Vec<i64>,
        ended: Vec<Option<i64>>,
    }

    impl Run {
        fn new(first: impl Iterator<Item = i64>) -> Self {
            let promised: Vec<i64> = first.collect();
            let deadlines = Deadlines::default();
            let lives = promised.iter().map(|first| {
                let (id, life) = (SandboxId::random(), Life::new(at(*first), at(0)));
                deadlines.watch(id, || life.due());
                (id, life)
            });
            let lives = lives.collect();
            let ended = vec![None; promised.len()];
            Self { deadlines, lives, promised, ended }
        }

        fn renew(&mut self, which: usize, deadline: i64) {
            let (id, life) = &self.lives[which];
            let renewed = life.renew(|_| at(deadline));
            assert_eq!(renewed.is_ok(), self.ended[which].is_none());
            if renewed.is_ok() {
                self.promised[which] = deadline;
                self.deadlines.watch(*id, || life.due());
            }
        }

        /// As the sweeper does, with whoever comes between.
        fn sweep(&mut self, now: i64, mut between: Vec<Renewal>) {
            for id in self.deadlines.take_due(at(now)) {
                let which = self.lives.iter().position(|(known, _)| *known == id).unwrap();
                while let Some(n) = between.iter().position(|renewal| renewal.which == which) {
                    let renewal = between.remove(n);
                    self.renew(which, now + renewal.timeout);
                }
                let life = &self.lives[which].1;
                if life.expire(at(now), Fate::End) {
                    assert!(self.promised[which] <= now, "{} ms early", self.promised[which] - now);
                    assert_eq!(self.ended[which].replace(now), None);
                } else {
                    self.deadlines.watch(id, || life.due());
                }
            }
            for renewal in between {
                self.renew(renewal.which, now + renewal.timeout);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_is_renewed_when_each_ends_at_its_last_deadline_and_none_before(
            first in prop::collection::vec(0..20_000_i64, MANY),
            mut renewals in prop::collection::vec(renewal(), 0..300),
            late in prop::collection::vec(0..500_i64, 16),
        ) {
            renewals.sort_by_key(|renewal| renewal.at);
            let mut renewals = std::collections::VecDeque::from(renewals);
            let mut run = Run::new(first.into_iter());
            let mut late = late.into_iter().cycle();
            let mut now = 0;
            while run.ended.iter().any(Option::is_none) {
                let rest = i64::try_from(run.deadlines.rest(at(now)).as_millis()).unwrap();
                let wakes = now + rest + late.next().unwrap();
                let mut between = Vec::new();
                while let Some(renewal) = renewals.pop_front_if(|renewal| renewal.at <= wakes) {
                    now = now.max(renewal.at);
                    if renewal.between {
                        between.push(renewal);
                    } else {
                        run.renew(renewal.which, now + renewal.timeout);
                    }
                }
                now = wakes;
                run.sweep(now, between);
            }
            for (ended, promised) in run.ended.iter().zip(run.promised) {
                let error = ended.unwrap() - promised;
                prop_assert!((0..=1000).contains(&error), "{error} ms");
            }
        }
    }
}
