//! Sandboxes that give way to others of whoever has them.

use std::sync::Arc;

use super::{Error, PauseMode, Pausing, Reason, Sandbox, Sandboxes};

impl Sandboxes {
    /// Ends one whose place is needed. Returns when nothing of it runs, or when that failed once and
    /// is being tried again.
    pub(crate) async fn evict(&self, sandbox: &Arc<Sandbox>) {
        if let Some(tried) = self.end(sandbox, Reason::Evicted) {
            // The sender is only dropped when the gateway itself goes.
            let _ = tried.await;
        }
    }

    /// Pauses one whose place is needed.
    pub(crate) async fn stand_aside(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let how = Pausing { mode: PauseMode::Full, require_healthy: false };
        self.pause(sandbox.id(), how).await
    }
}
