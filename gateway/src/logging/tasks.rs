//! Work that goes on without whoever asked for it, and still is that request's in the log.

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::request::{carried, carried_blocking};

/// All that somebody will wait for the end of.
#[derive(Default)]
pub(crate) struct Tasks(TaskTracker);

impl Tasks {
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.spawn(carried(work))
    }

    pub(crate) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.spawn_blocking(carried_blocking(work))
    }

    /// No more come, once those are over that there are.
    pub(crate) fn close(&self) {
        self.0.close();
    }

    /// Until they are over.
    pub(crate) async fn wait(&self) {
        self.0.wait().await;
    }
}
