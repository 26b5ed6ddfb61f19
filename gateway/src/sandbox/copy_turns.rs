//! Whose copy is made next: each tenant has one turn, and two tenants have theirs at once.
//!
//! A turn that nobody else wants is not left unused: a tenant that copies already may have it, but
//! beside the others' and not in their place, so that whoever comes then goes at once all the same.
//! That makes three for as long as that copy takes, and never more.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Tenant;

/// Copies at once: more would only wait for the same disk.
const AT_ONCE: usize = 2;

#[derive(Default)]
pub(super) struct CopyTurns {
    line: Mutex<Line>,
    moved: Notify,
}

#[derive(Default)]
struct Line {
    /// Who copies in a turn of the two; nobody twice.
    busy: Vec<Tenant>,
    /// Who copies beside them.
    beside: Option<Tenant>,
    /// In the order they came.
    waiting: VecDeque<(u64, Tenant)>,
    came: u64,
}

/// Which turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Own,
    Beside,
}

impl Line {
    fn next(&self) -> Option<(u64, Kind)> {
        if self.busy.len() >= AT_ONCE {
            return None;
        }
        let has_none =
            |tenant: &Tenant| !self.busy.contains(tenant) && self.beside.as_ref() != Some(tenant);
        if let Some((number, _)) = self.waiting.iter().find(|(_, tenant)| has_none(tenant)) {
            return Some((*number, Kind::Own));
        }
        let (number, _) = self.waiting.front()?;
        match (self.busy.len(), &self.beside) {
            (0, Some(_)) => Some((*number, Kind::Own)),
            (_, None) => Some((*number, Kind::Beside)),
            _ => None,
        }
    }

    fn leave(&mut self, number: u64) {
        self.waiting.retain(|(other, _)| *other != number);
    }
}

/// To copy, until it is dropped.
pub(super) struct CopyTurn<'a> {
    turns: &'a CopyTurns,
    tenant: Tenant,
    kind: Kind,
}

impl Drop for CopyTurn<'_> {
    fn drop(&mut self) {
        let mut line = self.turns.line.lock();
        match self.kind {
            Kind::Own => line.busy.retain(|busy| *busy != self.tenant),
            Kind::Beside => line.beside = None,
        }
        drop(line);
        self.turns.moved.notify_waiters();
    }
}

/// A place in the line, which whoever waits no longer leaves.
struct Place<'a> {
    turns: &'a CopyTurns,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turns.line.lock().leave(self.number);
        self.turns.moved.notify_waiters();
    }
}

impl CopyTurns {
    /// Waits for a turn, for ever if need be.
    pub(super) async fn take(&self, tenant: &Tenant) -> CopyTurn<'_> {
        let place = self.stand(tenant);
        loop {
            let moved = self.moved.notified();
            if let Some(turn) = self.go(place.number, tenant) {
                return turn;
            }
            moved.await;
        }
    }

    fn stand(&self, tenant: &Tenant) -> Place<'_> {
        let mut line = self.line.lock();
        let number = line.came;
        line.came += 1;
        line.waiting.push_back((number, tenant.clone()));
        Place { turns: self, number }
    }

    fn go(&self, number: u64, tenant: &Tenant) -> Option<CopyTurn<'_>> {
        let mut line = self.line.lock();
        let (_, kind) = line.next().filter(|(next, _)| *next == number)?;
        line.leave(number);
        match kind {
            Kind::Own => line.busy.push(tenant.clone()),
            Kind::Beside => line.beside = Some(tenant.clone()),
        }
        Some(CopyTurn { turns: self, tenant: tenant.clone(), kind })
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    async fn goes<'a>(taking: impl Future<Output = CopyTurn<'a>>) -> CopyTurn<'a> {
        timeout(SOON, taking).await.expect("a turn")
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_both_turns_while_nobody_else_wants_one_and_is_in_nobodys_way() {
        let [one, other, third]: [Tenant; 3] =
            ["one", "other", "third"].map(|n| n.parse().unwrap());
        let turns = CopyTurns::default();
        let (first, second) = (goes(turns.take(&one)).await, goes(turns.take(&one)).await);
        let mut ones_next = pin!(turns.take(&one));
        assert!(timeout(SOON, &mut ones_next).await.is_err(), "it has both");
        // Whoever comes goes as if the first one had but one turn,
        let others = goes(turns.take(&other)).await;
        let mut thirds = pin!(turns.take(&third));
        assert!(timeout(SOON, &mut thirds).await.is_err(), "two tenants copy");
        // and when that one is over, the next tenant goes.
        drop(first);
        let thirds = goes(thirds).await;
        assert!(timeout(SOON, &mut ones_next).await.is_err(), "it has one");
        drop(others);
        assert!(timeout(SOON, &mut ones_next).await.is_err(), "it has one beside them");
        drop(second);
        let ones_next = goes(ones_next).await;
        drop((ones_next, thirds));
        let line = turns.line.lock();
        assert!(line.busy.is_empty() && line.beside.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_none_goes_before_who_has_one_whoever_came_first() {
        let [one, other]: [Tenant; 2] = ["one", "other"].map(|name| name.parse().unwrap());
        let turns = CopyTurns::default();
        let (first, second) = (goes(turns.take(&one)).await, goes(turns.take(&one)).await);
        let mut ones_next = pin!(turns.take(&one));
        assert!(timeout(SOON, &mut ones_next).await.is_err());
        let others = goes(turns.take(&other)).await;
        let mut others_next = pin!(turns.take(&other));
        assert!(timeout(SOON, &mut others_next).await.is_err(), "it has one");
        drop((first, second));
        // Of those it is the one that came first.
        let ones_next = goes(ones_next).await;
        assert!(timeout(SOON, &mut others_next).await.is_err(), "each has one");
        drop((others, ones_next));
        drop(goes(others_next).await);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_no_longer_is_in_nobodys_way() {
        let tenant = Tenant::default();
        let turns = CopyTurns::default();
        let (_first, second) = (turns.take(&tenant).await, turns.take(&tenant).await);
        assert!(timeout(Duration::from_millis(1), turns.take(&tenant)).await.is_err());
        drop(second);
        timeout(Duration::from_millis(1), turns.take(&tenant)).await.expect("it is free");
        assert!(turns.line.lock().waiting.is_empty());
    }
}
