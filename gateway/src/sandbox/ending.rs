//! How sandboxes end.
//!
//! Whoever swaps the deadline for "ended" ends the sandbox, and nobody else does. What follows
//! runs in a task of its own and is tried until it has worked.

use std::{
    fmt,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::Utc;
use tokio::{sync::oneshot, time};
use tokio_util::sync::CancellationToken;

use super::{Error, Sandbox, SandboxId, Sandboxes};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Why a sandbox ended; told in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Killed,
    TimedOut,
    /// Its first process is gone, whoever ended that.
    EnvdDied,
    /// No record says what it is.
    NoRecord,
    GatewayStopped,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "killed",
            Self::TimedOut => "timed_out",
            Self::EnvdDied => "envd_died",
            Self::NoRecord => "no_record",
            Self::GatewayStopped => "gateway_stopped",
        })
    }
}

impl Sandboxes {
    /// Ends a sandbox, one that is still being made too. It is invisible at once; returns when
    /// its processes are gone, or when that failed once and is being tried again.
    pub async fn kill(&self, id: SandboxId) -> Result<(), Error> {
        if let Some(gone) = self.0.registry.abandon(id) {
            gone.cancelled().await;
            return Ok(());
        }
        let sandbox = self.running(id)?;
        let tried = self.end(&sandbox, Reason::Killed).ok_or(Error::NotFound(id))?;
        // The sender is only dropped when the gateway itself goes.
        let _ = tried.await;
        Ok(())
    }

    /// `None` when someone else ended it before. The receiver hears of the first try.
    fn end(&self, sandbox: &Arc<Sandbox>, reason: Reason) -> Option<oneshot::Receiver<()>> {
        sandbox.deadline.end().then(|| self.end_claimed(sandbox, reason))
    }

    fn end_claimed(&self, sandbox: &Arc<Sandbox>, reason: Reason) -> oneshot::Receiver<()> {
        let id = sandbox.id();
        self.0.registry.hide(id);
        sandbox.cut().cancel();
        self.0.deadlines.forget(id);
        tracing::info!(sandbox = %id, %reason, "ending");
        let (tried, first_try) = oneshot::channel();
        let (sandboxes, sandbox) = (self.clone(), sandbox.clone());
        self.0.tasks.spawn(async move {
            sandboxes.remove_telling(id, sandbox.dir(), tried).await;
            sandboxes.0.registry.forget(id);
        });
        first_try
    }

    /// Removes what a sandbox has in the kernel and on disk, however often it takes.
    pub(super) async fn remove(&self, id: SandboxId, dir: impl AsRef<Path>) {
        self.remove_telling(id, dir.as_ref(), oneshot::channel().0).await;
    }

    async fn remove_telling(&self, id: SandboxId, dir: &Path, tried: oneshot::Sender<()>) {
        let mut tried = Some(tried);
        let mut wait = FIRST_RETRY;
        loop {
            let removed = match self.0.backend.destroy(id).await {
                Ok(()) => self.0.trash.take(id, dir).await,
                Err(error) => Err(error.into()),
            };
            match removed {
                Ok(()) => break,
                Err(e) => tracing::warn!(sandbox = %id, "cannot remove, again in {wait:?}: {e}"),
            }
            tried.take();
            time::sleep(wait).await;
            wait = (wait * 2).min(LAST_RETRY);
        }
        tracing::debug!(sandbox = %id, "gone");
    }

    /// Ends a sandbox as soon as its first process has ended.
    pub(super) fn end_with_its_cell(&self, sandbox: Arc<Sandbox>, ended: CancellationToken) {
        let sandboxes = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sandbox.cut().cancelled() => {}
                () = ended.cancelled() => drop(sandboxes.end(&sandbox, Reason::EnvdDied)),
            }
        });
    }

    /// Ends sandboxes at their deadlines, and deletes what is left of them; never returns.
    pub async fn keep_tidy(&self) {
        tokio::join!(self.sweep(), self.0.trash.clone().keep_empty());
    }

    async fn sweep(&self) {
        loop {
            self.0.deadlines.next().await;
            let now = Utc::now();
            for id in self.0.deadlines.take_due(now) {
                let Some(sandbox) = self.0.registry.running(id) else { continue };
                if sandbox.deadline.expire(now) {
                    drop(self.end_claimed(&sandbox, Reason::TimedOut));
                } else {
                    // Renewed between the queue's look and ours.
                    self.0.deadlines.watch(id, &sandbox.deadline);
                }
            }
        }
    }

    /// Makes no more sandboxes, ends all of them if so asked, and waits for what is under way;
    /// `false` when that took longer than `within`.
    pub async fn stop(&self, end_all: bool, within: Duration) -> bool {
        self.0.stopping.store(true, Ordering::Release);
        let all_done = async {
            if end_all {
                // Twice: what was being made at first is running after the wait.
                for _ in 0..2 {
                    for sandbox in self.0.registry.all_running() {
                        drop(self.end(&sandbox, Reason::GatewayStopped));
                    }
                    self.0.tasks.close();
                    self.0.tasks.wait().await;
                }
            } else {
                self.0.tasks.close();
                self.0.tasks.wait().await;
            }
        };
        time::timeout(within, all_done).await.is_ok()
    }
}
