//! Creates that may come twice.
//!
//! A client that lost the answer to a create sends it again under the same idempotency key, and
//! is given the sandbox of the first time while it runs. Remembered for a while and up to a
//! number, in memory; of what was wanted no more than a hash, as that may be large and secret. Beyond
//! the number it is the tenant with most of them whose oldest is forgotten.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{SandboxId, Tenant, Wanted};

const REMEMBERED: Duration = Duration::from_secs(300);
const MOST: usize = 4096;

#[derive(Default)]
pub(super) struct Repeats(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    by_key: HashMap<Key, First>,
    /// Of each tenant in the order they came, which is the order they are forgotten in.
    order: HashMap<Tenant, BTreeMap<u64, String>>,
    next: u64,
}

/// Each tenant has its own.
type Key = (Tenant, String);

struct First {
    at: Instant,
    /// Its place in the order; tells it from a later one under the same key.
    number: u64,
    wanted: blake3::Hash,
    outcome: watch::Receiver<Option<SandboxId>>,
}

pub(super) enum Turn {
    /// Nobody came before; settle the ticket when it is made, drop it when that failed.
    First(Ticket),
    /// The same create came before: its sandbox, as soon as there is one. The sender is dropped
    /// when there will be none.
    Again(watch::Receiver<Option<SandboxId>>),
    /// The key came before with another create.
    Different,
}

/// Frees its key when dropped unsettled.
pub(super) struct Ticket {
    repeats: Arc<Repeats>,
    key: Key,
    number: u64,
    outcome: watch::Sender<Option<SandboxId>>,
}

impl Ticket {
    pub(super) fn settle(self, sandbox: SandboxId) {
        self.outcome.send_replace(Some(sandbox));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.outcome.borrow().is_none() {
            // Before the sender goes: who waits for it comes again, and is to find the key free.
            self.repeats.0.lock().forget(&self.key, |first| first.number == self.number);
        }
    }
}

impl Repeats {
    pub(super) fn turn(self: &Arc<Self>, key: &str, wanted: &Wanted, now: Instant) -> Turn {
        let key = (wanted.owner.tenant.clone(), key.to_owned());
        let wanted = hash(wanted);
        let mut seen = self.0.lock();
        seen.forget_old(now);
        if let Some(first) = seen.by_key.get(&key) {
            return if first.wanted == wanted {
                Turn::Again(first.outcome.clone())
            } else {
                Turn::Different
            };
        }
        let (sender, outcome) = watch::channel(None);
        let number = seen.next;
        seen.next += 1;
        seen.by_key.insert(key.clone(), First { at: now, number, wanted, outcome });
        seen.order.entry(key.0.clone()).or_default().insert(number, key.1.clone());
        Turn::First(Ticket { repeats: self.clone(), key, number, outcome: sender })
    }

    /// Frees a key whose sandbox has ended.
    pub(super) fn forget(&self, tenant: &Tenant, key: &str, ended: SandboxId) {
        self.0.lock().forget(&(tenant.clone(), key.to_owned()), |first| {
            *first.outcome.borrow() == Some(ended)
        });
    }
}

impl Seen {
    fn forget(&mut self, key: &Key, is_meant: impl FnOnce(&First) -> bool) {
        if let Some(number) = self.by_key.get(key).filter(|f| is_meant(f)).map(|f| f.number) {
            self.by_key.remove(key);
            if let Some(order) = self.order.get_mut(&key.0) {
                order.remove(&number);
                if order.is_empty() {
                    self.order.remove(&key.0);
                }
            }
        }
    }

    fn forget_old(&mut self, now: Instant) {
        let Self { by_key, order, .. } = self;
        let fresh = |first: &First| now.duration_since(first.at) < REMEMBERED;
        order.retain(|tenant, order| {
            while let Some(first) = order.first_entry() {
                let key = (tenant.clone(), first.get().clone());
                if by_key.get(&key).is_some_and(fresh) {
                    break;
                }
                first.remove();
                by_key.remove(&key);
            }
            !order.is_empty()
        });
        while by_key.len() >= MOST {
            let most = order.iter_mut().max_by_key(|(_, order)| order.len());
            let Some((tenant, order)) = most else { return };
            let Some((_, key)) = order.pop_first() else { return };
            by_key.remove(&(tenant.clone(), key));
        }
    }
}

/// Nobody can find another create of the same hash. It never leaves this process, so that any
/// unambiguous text will do.
fn hash(wanted: &Wanted) -> blake3::Hash {
    blake3::hash(format!("{wanted:?}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{Owner, testing};

    #[test]
    fn a_key_stands_for_its_first_create_for_five_minutes() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let wanted = testing::wanted();
        let other = Wanted { template: "other".into(), ..testing::wanted() };
        let Turn::First(ticket) = repeats.turn("k", &wanted, now) else { panic!("not the first") };
        assert!(matches!(repeats.turn("k", &wanted, now), Turn::Again(_)));
        assert!(matches!(repeats.turn("k", &other, now), Turn::Different));
        assert!(matches!(repeats.turn("other key", &wanted, now), Turn::First(_)));
        ticket.settle(SandboxId::random());
        let Turn::Again(outcome) = repeats.turn("k", &wanted, now) else { panic!("forgotten") };
        assert!(outcome.borrow().is_some());
        let later = now + REMEMBERED;
        assert!(matches!(repeats.turn("k", &wanted, later), Turn::First(_)));
    }

    #[test]
    fn the_same_key_of_another_tenant_is_another() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let wanted = testing::wanted();
        let owner = Owner { tenant: "other".parse().unwrap(), ..Owner::default() };
        let other = Wanted { owner, template: "other".into(), ..testing::wanted() };
        let Turn::First(_ticket) = repeats.turn("k", &wanted, now) else { panic!("not the first") };
        assert!(matches!(repeats.turn("k", &other, now), Turn::First(_)));
    }

    #[test]
    fn a_create_that_failed_leaves_its_key_free() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let wanted = testing::wanted();
        let Turn::First(ticket) = repeats.turn("k", &wanted, now) else { panic!("not the first") };
        drop(ticket);
        assert!(matches!(repeats.turn("k", &wanted, now), Turn::First(_)));
    }

    #[test]
    fn a_create_that_failed_leaves_nothing_in_memory() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        for n in 0..100 {
            drop(repeats.turn(&n.to_string(), &testing::wanted(), now));
        }
        let seen = repeats.0.lock();
        assert!(seen.by_key.is_empty() && seen.order.is_empty());
    }

    #[test]
    fn only_the_sandbox_that_ended_frees_its_key() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let (wanted, id) = (testing::wanted(), SandboxId::random());
        let Turn::First(ticket) = repeats.turn("k", &wanted, now) else { panic!("not the first") };
        repeats.forget(&Tenant::default(), "k", id);
        assert!(matches!(repeats.turn("k", &wanted, now), Turn::Again(_)));
        ticket.settle(id);
        repeats.forget(&Tenant::default(), "k", SandboxId::random());
        assert!(matches!(repeats.turn("k", &wanted, now), Turn::Again(_)));
        repeats.forget(&Tenant::default(), "k", id);
        assert!(matches!(repeats.turn("k", &wanted, now), Turn::First(_)));
    }

    #[test]
    fn no_more_than_a_bounded_number_of_keys_is_remembered() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let wanted = testing::wanted();
        for n in 0..2 * MOST {
            let Turn::First(ticket) = repeats.turn(&n.to_string(), &wanted, now) else {
                panic!("{n}")
            };
            ticket.settle(SandboxId::random());
        }
        let seen = repeats.0.lock();
        assert!(seen.by_key.len() <= MOST && seen.order[&Tenant::default()].len() <= MOST);
    }

    #[test]
    fn a_tenant_has_its_own_keys_forgotten_and_no_others() {
        let (repeats, now) = (Arc::new(Repeats::default()), Instant::now());
        let owner = Owner { tenant: "other".parse().unwrap(), ..Owner::default() };
        let other = Wanted { owner, ..testing::wanted() };
        let first = |key: &str, wanted: &Wanted| match repeats.turn(key, wanted, now) {
            Turn::First(ticket) => ticket.settle(SandboxId::random()),
            _ => panic!("{key}"),
        };
        first("k", &other);
        for n in 0..2 * MOST {
            first(&n.to_string(), &testing::wanted());
        }
        assert!(matches!(repeats.turn("k", &other, now), Turn::Again(_)));
        first("0", &testing::wanted());
    }
}
