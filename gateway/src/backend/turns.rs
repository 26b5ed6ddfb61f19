//! One at a time for each sandbox: a create or destroy that began is over before the next begins.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::sandbox::SandboxId;

type Lock = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<SandboxId, Lock>>);

impl Turns {
    /// Runs `work` when nothing else is done to the same sandbox.
    pub(super) async fn take<T>(&self, id: SandboxId, work: impl Future<Output = T>) -> T {
        let lock = Arc::clone(self.0.lock().entry(id).or_default());
        let place = Place { turns: self, id, lock: Some(Arc::clone(&lock)) };
        let turn = lock.lock_owned().await;
        let result = work.await;
        drop(turn);
        drop(place);
        result
    }
}

/// In the queue of one sandbox. The last to leave it, in whatever way, takes it away.
struct Place<'a> {
    turns: &'a Turns,
    id: SandboxId,
    lock: Option<Lock>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut locks = self.turns.0.lock();
        self.lock = None;
        if locks.get(&self.id).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_remembered_of_who_has_gone() {
        let turns = Turns::default();
        let id = SandboxId::random();
        let (one, two) = tokio::join!(
            turns.take(id, async {
                tokio::task::yield_now().await;
                1
            }),
            turns.take(id, async { 2 }),
        );
        assert_eq!((one, two), (1, 2));
        assert!(turns.0.lock().is_empty());
    }
}
