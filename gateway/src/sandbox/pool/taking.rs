//! From the pool to a client, and out of a client's way.

use std::{path::PathBuf, sync::Arc, time::Duration};

use envd::wire::Init;
use futures_util::future;
use tokio::task::JoinHandle;

use super::{Entry, Shape};
use crate::{
    backend::NetworkMode,
    sandbox::{
        Error, Reason, Sandbox, SandboxId, Sandboxes, Wanted,
        making::{Asked, Made, token},
    },
};

/// What gives way is normally gone in far less.
const GOING: Duration = Duration::from_secs(1);

impl Sandboxes {
    /// A sandbox as it is wanted, out of the pool; `None` when there is none of that shape.
    pub(in crate::sandbox) async fn take(
        &self,
        shape: &Shape,
        wanted: &Wanted,
        asked: Asked,
    ) -> Result<Option<Arc<Sandbox>>, Error> {
        let envd_token = token()?;
        while self.0.pool.available(shape) > 0 {
            // First: whoever may have none, or waits, keeps none from others.
            let place = self.place(SandboxId::random(), &wanted.owner).await?;
            let Some(entry) = self.0.pool.take(shape) else { break };
            let place = place.under(entry.id);
            // Before its record is written: should this gateway die in between, the next one finds
            // none, and nobody was told of the sandbox.
            let init = shape.init(wanted.env_vars.clone(), envd_token.clone());
            // One of the pool may reach all that any sandbox may, if it has a network.
            let default = self.0.rules.network;
            if shape.network != NetworkMode::None
                && !wanted.policy.filter(default).is_open()
                && let Err(error) =
                    self.fence(entry.id, &wanted.policy, default, shape.limits).await
            {
                self.discard(place, entry.dir, error.reason());
                return Err(error);
            }
            if let Err(error) = self.tell(&entry, &init).await {
                tracing::warn!(sandbox = %entry.id, "pool: cannot be given away: {error}");
                self.discard(place, entry.dir, Reason::EnvdDied);
                continue;
            }
            let Entry { dir, cell, pool, _hold, .. } = entry;
            let made = Made { dir, cell, envd_token, pool: Some(pool) };
            return self.finish(place, shape, wanted, made, asked).await.map(Some);
        }
        Ok(None)
    }

    async fn tell(&self, entry: &Entry, init: &Init) -> Result<(), String> {
        tokio::select! {
            told = self.0.inside.begin(&entry.dir, init) => told.map_err(|e| e.to_string())?,
            () = entry.cell.ended.cancelled() => {}
        }
        if entry.lives() { Ok(()) } else { Err("its envd has died".to_owned()) }
    }

    /// Ends all that is available, for the sake of a client who needs the memory, and waits until
    /// it is gone.
    pub(in crate::sandbox) async fn give_way(&self) {
        let _one_after_the_other = self.0.pool.giving_way.lock().await;
        let entries = self.0.pool.take_all();
        if entries.is_empty() {
            return;
        }
        tracing::info!("pool: {} give way, since memory is short", entries.len());
        let going = future::join_all(self.end_entries(entries));
        // What takes longer goes on ending.
        let _ = tokio::time::timeout(GOING, going).await;
    }

    /// Ends all that is available, and whatever would be from now on.
    pub(in crate::sandbox) fn close_pool(&self) {
        self.end_entries(self.0.pool.close());
    }

    pub(super) fn end_entries(
        &self,
        entries: impl IntoIterator<Item = Entry>,
    ) -> Vec<JoinHandle<()>> {
        entries.into_iter().map(|entry| self.remove_soon(entry.id, entry.dir)).collect()
    }

    pub(in crate::sandbox) fn remove_soon(&self, id: SandboxId, dir: PathBuf) -> JoinHandle<()> {
        let sandboxes = self.clone();
        self.0.tasks.spawn(async move { sandboxes.remove(id, dir).await })
    }
}
