//! Many connections at once, and the memory they took once they have gone.
//!
//! An allocator keeps it for the next crowd, which may never come.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::task::TaskTracker;

use crate::backend::return_memory;

/// Fewer are no crowd.
const MANY: usize = 500;
/// Between looks.
const LOOK: Duration = Duration::from_secs(5);

/// The most connections there were since memory was last returned.
#[derive(Default)]
pub(super) struct Crowd(AtomicUsize);

impl Crowd {
    pub(super) fn seen(&self, connections: usize) {
        self.0.fetch_max(connections, Ordering::Relaxed);
    }

    /// Whether most of a crowd has left; says so once.
    fn has_gone(&self, connections: usize) -> bool {
        let most = self.0.load(Ordering::Relaxed);
        let gone = most >= MANY && connections <= most / 2;
        if gone {
            self.0.store(connections, Ordering::Relaxed);
        }
        gone
    }

    /// Returns memory whenever a crowd has gone.
    pub(super) async fn tend(&self, links: &TaskTracker) {
        loop {
            sleep(LOOK).await;
            if self.has_gone(links.len()) {
                // The allocator's locks are taken for a moment; no other thread waits for long.
                let _ = spawn_blocking(return_memory).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_has_gone_when_half_of_it_has() {
        let crowd = Crowd::default();
        crowd.seen(MANY - 1);
        assert!(!crowd.has_gone(0));
        crowd.seen(10 * MANY);
        crowd.seen(2 * MANY);
        assert!(!crowd.has_gone(5 * MANY + 1));
        assert!(crowd.has_gone(5 * MANY));
        assert!(!crowd.has_gone(5 * MANY));
        assert!(crowd.has_gone(MANY));
        assert!(crowd.has_gone(0));
        assert!(!crowd.has_gone(0));
    }
}
