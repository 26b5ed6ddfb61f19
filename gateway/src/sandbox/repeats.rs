//! Creates that may come twice.
//!
//! A client that lost the answer to a create sends it again under the same idempotency key, and
//! is given the sandbox of the first time. Remembered for a while and up to a number, in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Sandbox, Wanted};

const REMEMBERED: Duration = Duration::from_secs(300);
const MOST: usize = 4096;

#[derive(Default)]
pub(super) struct Repeats(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    by_key: HashMap<String, First>,
    /// In the order they came, which is the order they are forgotten in.
    order: VecDeque<(Instant, String)>,
}

struct First {
    at: Instant,
    wanted: Wanted,
    outcome: watch::Receiver<Option<Arc<Sandbox>>>,
}

pub(super) enum Turn {
    /// Nobody came before; settle the ticket when it is made, drop it when that failed.
    First(Ticket),
    /// The same create came before: its sandbox, as soon as there is one. The sender is dropped
    /// when there will be none.
    Again(watch::Receiver<Option<Arc<Sandbox>>>),
    /// The key came before with another create.
    Different,
}

pub(super) struct Ticket(watch::Sender<Option<Arc<Sandbox>>>);

impl Ticket {
    pub(super) fn settle(self, sandbox: Arc<Sandbox>) {
        self.0.send_replace(Some(sandbox));
    }
}

impl Repeats {
    pub(super) fn turn(&self, key: &str, wanted: &Wanted, now: Instant) -> Turn {
        let mut seen = self.0.lock();
        seen.forget_old(now);
        if let Some(first) = seen.by_key.get(key) {
            // Failed: its sender is gone and left nothing. This one is the first, then.
            let failed = first.outcome.has_changed().is_err() && first.outcome.borrow().is_none();
            if !failed {
                return if first.wanted == *wanted {
                    Turn::Again(first.outcome.clone())
                } else {
                    Turn::Different
                };
            }
        }
        let (sender, outcome) = watch::channel(None);
        seen.by_key.insert(key.to_owned(), First { at: now, wanted: wanted.clone(), outcome });
        seen.order.push_back((now, key.to_owned()));
        Turn::First(Ticket(sender))
    }
}

impl Seen {
    fn forget_old(&mut self, now: Instant) {
        while let Some((at, key)) = self.order.front() {
            if self.order.len() < MOST && now.duration_since(*at) < REMEMBERED {
                return;
            }
            // A key that failed and came again stands in the queue twice.
            if self.by_key.get(key).is_some_and(|first| first.at == *at) {
                self.by_key.remove(key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing;

    #[test]
    fn a_key_stands_for_its_first_create_for_five_minutes() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        let wanted = testing::wanted();
        let other = Wanted { template: "other".into(), ..testing::wanted() };
        let Turn::First(ticket) = repeats.turn("k", &wanted, now) else { panic!("not the first") };
        assert!(matches!(repeats.turn("k", &wanted, now), Turn::Again(_)));
        assert!(matches!(repeats.turn("k", &other, now), Turn::Different));
        assert!(matches!(repeats.turn("other key", &wanted, now), Turn::First(_)));
        ticket.settle(testing::sandbox());
        let Turn::Again(outcome) = repeats.turn("k", &wanted, now) else { panic!("forgotten") };
        assert!(outcome.borrow().is_some());
        let later = now + REMEMBERED;
        assert!(matches!(repeats.turn("k", &wanted, later), Turn::First(_)));
    }

    #[test]
    fn a_create_that_failed_leaves_its_key_free() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        let wanted = testing::wanted();
        let Turn::First(ticket) = repeats.turn("k", &wanted, now) else { panic!("not the first") };
        drop(ticket);
        assert!(matches!(repeats.turn("k", &wanted, now), Turn::First(_)));
    }

    #[test]
    fn no_more_than_a_bounded_number_of_keys_is_remembered() {
        let (repeats, now) = (Repeats::default(), Instant::now());
        let wanted = testing::wanted();
        for n in 0..2 * MOST {
            let Turn::First(ticket) = repeats.turn(&n.to_string(), &wanted, now) else {
                panic!("{n}")
            };
            ticket.settle(testing::sandbox());
        }
        let seen = repeats.0.lock();
        assert!(seen.by_key.len() <= MOST && seen.order.len() <= MOST);
    }
}
