//! Bringing the files of paused sandboxes to the disk, and what their records say of that.

use std::{
    mem,
    sync::{Arc, Weak},
    time::Duration,
};

use chrono::{DateTime, SubsecRound, Utc};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, Semaphore},
    task::{self, JoinSet},
    time,
};

use super::{Error, Phase, Sandbox, Sandboxes, claim, steps::step};

/// For a disk that has much else to write.
const FLUSH: Duration = Duration::from_secs(600);
/// Until what could not be flushed is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// Records brought to the disk at once: more would only wait for each other.
const AT_ONCE: usize = 4;

impl Sandboxes {
    /// Has the files of a paused sandbox brought to the disk, keeping nobody waiting.
    pub(super) fn flush_soon(&self, sandbox: &Arc<Sandbox>) {
        self.0.flushes.add(sandbox);
    }

    /// Flushes what is paused, all of it together, as the backend flushes many no slower than one;
    /// never returns.
    pub(super) async fn keep_flushed(&self) {
        let mut under_way = JoinSet::new();
        loop {
            tokio::select! {
                () = self.0.flushes.filled.notified() => {
                    for sandbox in self.0.flushes.take() {
                        under_way.spawn(self.clone().flush_surely(sandbox));
                    }
                }
                Some(_) = under_way.join_next() => {}
            }
        }
    }

    async fn flush_surely(self, sandbox: Weak<Sandbox>) {
        while let Some(sandbox) = sandbox.upgrade() {
            match self.flush(&sandbox).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(sandbox = %sandbox.id(), "not on the disk yet: {error}");
                }
            }
            drop(sandbox);
            time::sleep(RETRY).await;
        }
    }

    async fn flush(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let _turn = sandbox.claim.turn.lock().await;
        // In this order: from when it is paused on, whatever changes its files stirs it first.
        let Some((stirred, found)) = sandbox.between.marks(|marks| marks.unflushed()) else {
            return Ok(());
        };
        if sandbox.phase() != Phase::Paused {
            return Ok(());
        }
        let at = match found {
            Some(at) => at,
            None => {
                step("the flush of a sandbox's files", FLUSH, self.flush_files(sandbox)).await?;
                Utc::now().trunc_subsecs(3)
            }
        };
        if !sandbox.between.marks(|marks| marks.files_flushed(stirred, at)) {
            // It has run since: what is on the disk is of before.
            return Ok(());
        }
        let _place = self.0.flushes.records.acquire().await.expect("is never closed");
        let claimed = sandbox.clone();
        let claimed = move || claimed.claim_to_be_flushed(stirred, at, found.is_some());
        let claimed = task::spawn_blocking(claimed);
        let claimed = async { claimed.await.map_err(|e| Error::BrokenOff(e.to_string()))? };
        match step("the flush of a record", FLUSH, claimed).await {
            Ok(()) => tracing::debug!(sandbox = %sandbox.id(), "on the disk"),
            Err(_) if sandbox.life.is_over() => {}
            Err(error) => {
                sandbox.between.marks(|marks| marks.not_flushed(stirred));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Its own, and the copies that they lie over, of which it is not known whether they were.
    async fn flush_files(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let backend = &self.0.backend;
        let copies = self.0.snapshots.copies_among(&sandbox.facts().template.layers);
        let copies = try_join_all(copies.iter().map(|copy| backend.flush_copy(copy)));
        let (own, copies) = tokio::join!(backend.flush(sandbox.id()), copies);
        own?;
        copies?;
        Ok(())
    }
}

impl Sandbox {
    /// With its files on the disk since then, and unless it has been stirred; its record may have
    /// been `found` to say so. Blocks, for as long as the disk takes.
    fn claim_to_be_flushed(
        &self,
        stirred: u64,
        at: DateTime<Utc>,
        found: bool,
    ) -> Result<(), Error> {
        if !found {
            claim::prepare(self.dir())?;
        }
        if !found || !claim::exists(self.dir())? {
            // Of a gateway that claimed nothing the record is enough.
            self.save()?;
            self.sync()?;
        }
        let stands = || self.between.marks(|marks| marks.is_of(stirred)) && !self.life.is_over();
        if claim::exists(self.dir())? && !self.claim.stake(self.dir(), at, stands)? {
            return Ok(());
        }
        self.between.marks(|marks| marks.flushed(stirred));
        Ok(())
    }
}

/// Sandboxes whose files are to be brought to the disk.
pub(super) struct Flushes {
    waiting: Mutex<Vec<Weak<Sandbox>>>,
    filled: Notify,
    records: Semaphore,
}

impl Default for Flushes {
    fn default() -> Self {
        let records = Semaphore::new(AT_ONCE);
        Self { waiting: Mutex::default(), filled: Notify::new(), records }
    }
}

impl Flushes {
    fn add(&self, sandbox: &Arc<Sandbox>) {
        self.waiting.lock().push(Arc::downgrade(sandbox));
        self.filled.notify_one();
    }

    fn take(&self) -> Vec<Weak<Sandbox>> {
        mem::take(&mut self.waiting.lock())
    }
}
