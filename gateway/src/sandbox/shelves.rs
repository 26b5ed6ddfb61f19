//! Things in the order in which they began, on shelves: what is listed together is on one, so that
//! a page of a list costs what is on it and not what is on all pages.

use std::{
    array,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    ops::{Bound, ControlFlow},
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::SandboxId;

/// Taken from a shelf at once, by whoever holds a lock for it.
const AT_ONCE: usize = 128;

/// On the stack: what is looked at for each scrape allocates nothing.
pub(super) type Few<T> = [Option<(Position, Arc<T>)>; AT_ONCE];

/// Where a thing is in the order: two may have begun at once.
pub type Position = (DateTime<Utc>, SandboxId);

pub(super) struct Shelves<S, T>(HashMap<S, BTreeMap<Position, Arc<T>>>);

impl<S, T> Default for Shelves<S, T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<S: Eq + Hash, T> Shelves<S, T> {
    pub(super) fn put(&mut self, shelf: S, position: Position, one: &Arc<T>) {
        self.0.entry(shelf).or_default().insert(position, one.clone());
    }

    pub(super) fn take(&mut self, shelf: &S, position: Position) {
        if let Some(on) = self.0.get_mut(shelf) {
            on.remove(&position);
            if on.is_empty() {
                self.0.remove(shelf);
            }
        }
    }

    pub(super) fn count(&self, shelf: &S) -> usize {
        self.0.get(shelf).map_or(0, BTreeMap::len)
    }

    /// Of those that come after `after`, or all, the oldest or the newest, in that order.
    pub(super) fn next(&self, shelf: &S, newest_first: bool, after: Option<Position>) -> Few<T> {
        let Some(on) = self.0.get(shelf) else { return [const { None }; AT_ONCE] };
        let beyond = after.map_or(Bound::Unbounded, Bound::Excluded);
        let shown = |(position, one): (&Position, &Arc<T>)| (*position, one.clone());
        if newest_first {
            let mut left = on.range((Bound::Unbounded, beyond)).rev();
            array::from_fn(|_| left.next().map(shown))
        } else {
            let mut left = on.range((beyond, Bound::Unbounded));
            array::from_fn(|_| left.next().map(shown))
        }
    }

    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.0.len()
    }
}

/// Shows what `next` has after `after`, and after that, until `each` has enough. No lock is held
/// meanwhile.
pub(super) fn visit<T>(
    mut after: Option<Position>,
    next: impl Fn(Option<Position>) -> Few<T>,
    mut each: impl FnMut(&Arc<T>) -> ControlFlow<()>,
) {
    loop {
        for one in next(after) {
            let Some((position, one)) = one else { return };
            if each(&one).is_break() {
                return;
            }
            after = Some(position);
        }
    }
}
