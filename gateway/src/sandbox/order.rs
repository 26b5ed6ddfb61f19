//! Sandboxes in the order in which they began, each tenant's by themselves and by whether they run.
//!
//! Where one stands is changed in one with its phase, under the lock of its life; so whoever holds
//! the lock of the order waits for no life.

use std::{
    ops::ControlFlow,
    sync::{Arc, Weak},
};

use parking_lot::RwLock;

use super::{
    Phase, Sandbox, Tenant,
    shelves::{Position, Shelves, visit},
};

/// Sandboxes that are shown together, none of which has ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shelf {
    All,
    Of(Tenant),
    /// Of that tenant's those that run.
    Running(Tenant),
    /// And the others: paused, or about to be, or about to run.
    Standing(Tenant),
}

#[derive(Default)]
pub(super) struct Order(RwLock<Shelves<Shelf, Sandbox>>);

/// What tells an order where a sandbox stands.
#[derive(Debug)]
pub(super) struct Shown {
    order: Weak<Order>,
    sandbox: Weak<Sandbox>,
}

impl Sandbox {
    pub fn position(&self) -> Position {
        (self.facts().started_at, self.id())
    }

    fn shelves(&self, phase: Phase) -> Vec<Shelf> {
        if !phase.is_present() {
            return Vec::new();
        }
        let tenant = || self.facts().tenant.clone();
        let runs = phase == Phase::Running;
        let state = if runs { Shelf::Running(tenant()) } else { Shelf::Standing(tenant()) };
        vec![Shelf::All, Shelf::Of(tenant()), state]
    }
}

impl Shown {
    /// To be called under the lock of its life.
    pub(super) fn moved(&self, before: Phase, after: Phase) {
        let (Some(order), Some(sandbox)) = (self.order.upgrade(), self.sandbox.upgrade()) else {
            return;
        };
        let (before, after) = (sandbox.shelves(before), sandbox.shelves(after));
        if before != after {
            order.put(&sandbox, &before, &after);
        }
    }
}

impl Order {
    /// From now on the sandbox is shown as long as it has not ended.
    pub(super) fn add(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let shown = Shown { order: Arc::downgrade(self), sandbox: Arc::downgrade(sandbox) };
        sandbox.life.show_in(shown);
    }

    fn put(&self, sandbox: &Arc<Sandbox>, before: &[Shelf], after: &[Shelf]) {
        let position = sandbox.position();
        let mut shelves = self.0.write();
        for shelf in before.iter().filter(|shelf| !after.contains(shelf)) {
            shelves.take(shelf, position);
        }
        for shelf in after.iter().filter(|shelf| !before.contains(shelf)) {
            shelves.put(shelf.clone(), position, sandbox);
        }
    }

    pub(super) fn count(&self, shelf: &Shelf) -> usize {
        self.0.read().count(shelf)
    }

    /// Shows those that come after `after`, or all, the oldest or the newest first, until `each`
    /// has enough.
    pub(super) fn visit(
        &self,
        shelf: &Shelf,
        newest_first: bool,
        after: Option<Position>,
        each: impl FnMut(&Arc<Sandbox>) -> ControlFlow<()>,
    ) {
        visit(after, |after| self.0.read().next(shelf, newest_first, after), each);
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::sandbox::{Facts, Reason, SandboxId, life::Moment, testing};

    fn sandbox(tenant: &str, started_at: DateTime<Utc>) -> Arc<Sandbox> {
        let (id, tenant) = (SandboxId::random(), tenant.parse().unwrap());
        let facts = Facts { id, tenant, started_at, ..testing::facts() };
        Arc::new(Sandbox::new(facts, "/nowhere".into(), Utc::now() + chrono::Duration::hours(1)))
    }

    fn ids(order: &Order, shelf: &Shelf) -> Vec<SandboxId> {
        let mut ids = Vec::new();
        order.visit(shelf, false, None, |sandbox| {
            ids.push(sandbox.id());
            ControlFlow::Continue(())
        });
        assert_eq!(order.count(shelf), ids.len());
        ids
    }

    #[test]
    fn each_is_where_its_phase_and_its_tenant_have_it_and_nowhere_once_it_ends() {
        let order = Arc::new(Order::default());
        let began = Utc::now();
        let (ours, theirs) = (sandbox("ours", began), sandbox("theirs", began));
        for sandbox in [&ours, &theirs] {
            order.add(sandbox);
        }
        let shelf = |of: fn(Tenant) -> Shelf| of("ours".parse().unwrap());
        let shown =
            || [Shelf::Of, Shelf::Running, Shelf::Standing].map(|of| ids(&order, &shelf(of)).len());
        assert_eq!(shown(), [1, 1, 0]);
        assert_eq!(ids(&order, &shelf(Shelf::Of)), [ours.id()]);
        ours.life.make(|moment, now| moment.pause(Reason::User, now)).unwrap();
        assert_eq!(shown(), [1, 0, 1]);
        ours.life.make(Moment::stand).unwrap();
        assert_eq!(shown(), [1, 0, 1]);
        ours.life.make(|moment, now| moment.resume(Reason::User, now, now)).unwrap();
        ours.life.make(Moment::run).unwrap();
        assert_eq!(shown(), [1, 1, 0]);
        assert!(ours.life.end(Reason::User));
        assert_eq!(shown(), [0, 0, 0]);
        assert_eq!(ids(&order, &Shelf::All), [theirs.id()]);
        assert_eq!(order.0.read().in_use(), 3, "nothing is kept of who has none");
    }

    #[test]
    fn whoever_looks_while_all_of_them_move_finds_each_once_and_waits_for_nobody() {
        let order = Arc::new(Order::default());
        let began = Utc::now();
        let all: Vec<_> = (0..300).map(|_| sandbox("ours", began)).collect();
        all.iter().for_each(|sandbox| order.add(sandbox));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for sandbox in all.iter().cycle().take(20_000) {
                    let life = &sandbox.life;
                    if life.make(|moment, now| moment.pause(Reason::User, now)).is_err() {
                        life.make(Moment::run).unwrap();
                    }
                }
            });
            for _ in 0..50 {
                // Each is asked for its phase, which takes the lock of its life.
                let (mut seen, mut ran) = (Vec::new(), 0);
                order.visit(&Shelf::Of("ours".parse().unwrap()), true, None, |sandbox| {
                    ran += usize::from(sandbox.phase() == Phase::Running);
                    seen.push(sandbox.position());
                    ControlFlow::Continue(())
                });
                assert!(seen.len() == 300 && ran <= 300);
                assert!(seen.is_sorted_by(|a, b| a > b));
            }
        });
    }
}
