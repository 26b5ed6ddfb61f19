//! What many use at once, of which none of them is to have all.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many places for each, of those that all share.
#[derive(Debug)]
pub(crate) struct Shares<K> {
    most: usize,
    /// Of those who have places or wait for one.
    of: Mutex<HashMap<K, Arc<Semaphore>>>,
}

impl<K: Eq + Hash> Shares<K> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, of: Mutex::default() }
    }

    /// As soon as there is one; given back when it is dropped.
    pub(crate) async fn take(&self, whose: K) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        self.of(whose).acquire_owned().await.ok()
    }

    /// `None`: whoever it is has as many as they may.
    pub(crate) fn try_take(&self, whose: K) -> Option<OwnedSemaphorePermit> {
        self.of(whose).try_acquire_owned().ok()
    }

    fn of(&self, whose: K) -> Arc<Semaphore> {
        let mut of = self.of.lock();
        // Whoever has a place, or waits, holds theirs.
        of.retain(|_, places| Arc::strong_count(places) > 1);
        of.entry(whose).or_insert_with(|| Arc::new(Semaphore::new(self.most))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_theirs_takes_nothing_from_others_and_is_forgotten_without_any() {
        let shares = Shares::new(2);
        let (one, two) = (shares.try_take("a").unwrap(), shares.take("a").await.unwrap());
        assert!(shares.try_take("a").is_none());
        let other = shares.try_take("b").unwrap();
        drop(one);
        let three = shares.try_take("a").unwrap();
        assert!(shares.try_take("a").is_none());
        drop((two, three, other));
        let _one = shares.try_take("c");
        assert_eq!(shares.of.lock().len(), 1);
    }
}
