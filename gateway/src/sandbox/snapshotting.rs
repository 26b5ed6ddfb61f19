//! Making snapshots of sandboxes, and looking after them.
//!
//! A sandbox runs while its files are copied, but for an instant at which the copy is what they
//! are. It has its turn meanwhile: nobody else pauses it or lets it go on. An end cuts in, and so
//! does a pause at its deadline.

use std::{
    io,
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use tokio::time::{sleep, timeout};

use super::{
    Error, Level, Phase, Quota, Reason, Sandbox, SandboxId, Sandboxes, Tenant,
    life::Refused,
    pausing::refused,
    shelves::Position,
    snapshots::{Among, Hold, Key, Named, Snapshot},
    steps::{STEP, step},
};
use crate::{
    backend,
    events::What,
    template::{FindError, Template},
};

/// For the copy of a layer. One that takes longer is broken off.
const COPY: Duration = Duration::from_secs(300);
/// For one that is broken off to be over.
const STOP: Duration = Duration::from_secs(60);
/// For a turn to copy.
const TURN: Duration = Duration::from_secs(20);
/// One of so many files that the file system can have is left for others than copies.
const FILES_KEPT: u64 = 20;
/// Layers of a sandbox made of snapshots of snapshots. The kernel's own bound is higher (overlayfs:
/// 500), but each costs a look at every name that is not in those above it.
const MOST_LAYERS: usize = 64;
/// A sandbox that stood still for longer is told of in the log.
const LONG: Duration = Duration::from_secs(1);
/// For a disk that has much else to write.
const FLUSH: Duration = Duration::from_secs(600);
/// Until what failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// A copy that nobody can find yet.
pub(super) struct Copy {
    pub(super) key: Key,
    /// What a sandbox over it is made from.
    pub(super) template: Template,
    pub(super) hold: Hold,
}

impl Sandboxes {
    /// Makes a snapshot of a running sandbox's files, under that name where there is one, if its
    /// tenant may have one more.
    ///
    /// # Errors
    /// [`Error::NotNow`] when it does not run.
    pub async fn snapshot(
        &self,
        id: SandboxId,
        named: Option<Named>,
        quota: &Quota,
    ) -> Result<Arc<Snapshot>, Error> {
        if let Some(named) = &named
            && !matches!((self.0.find_template)(&named.name), Err(FindError::Unknown))
        {
            return Err(Error::NameTaken(named.name.clone()));
        }
        let tenant = self.not_ending(id)?.facts().tenant.clone();
        let promise = self.0.snapshots.promise(&tenant, named.as_ref(), quota.max_snapshots)?;
        let sandboxes = self.clone();
        self.in_task(async move {
            let Copy { key, template, hold } = sandboxes.copy(id).await?;
            let boot = sandboxes.0.boot.clone();
            let snapshot = Snapshot::new(key, named, id, tenant, template, boot);
            let snapshots = sandboxes.0.snapshots.clone();
            let added = sandboxes.0.tasks.spawn_blocking(move || snapshots.add(snapshot)).await;
            let snapshot = added.map_err(|e| Error::BrokenOff(e.to_string()))??;
            drop((hold, promise));
            if let Some(sandbox) = sandboxes.0.registry.any(id) {
                let what = What::SandboxSnapshotted { snapshot: snapshot.reference() };
                sandboxes.tell_of(&sandbox, what);
            }
            tracing::info!(sandbox = %id, snapshot = snapshot.reference(), "snapshotted");
            sandboxes.flush_snapshot(snapshot.clone());
            Ok(snapshot)
        })
        .await
    }

    /// Copies the files of a running sandbox. To be called in a task of its own.
    pub(super) async fn copy(&self, id: SandboxId) -> Result<Copy, Error> {
        let sandbox = self.not_ending(id)?;
        let running = |sandbox: &Sandbox| match sandbox.phase() {
            Phase::Running => Ok(()),
            phase => Err(refused(id)(Refused(phase))),
        };
        running(&sandbox)?;
        if sandbox.between.is_being_copied() {
            return Err(Error::BeingCopied(id));
        }
        let facts = sandbox.facts();
        if facts.template.layers.len() >= MOST_LAYERS {
            return Err(Error::TooManyLayers(MOST_LAYERS));
        }
        let turn = timeout(TURN, self.0.copies.take(&facts.tenant)).await;
        let _place = turn.map_err(|_| Error::BeingCopied(id))?;
        let turn = timeout(TURN, sandbox.turn.lock()).await;
        let _turn = turn.map_err(|_| Error::BeingCopied(id))?;
        running(&sandbox)?;
        self.check_disk()?;
        let (key, to, hold) = self.0.snapshots.place()?;
        let stop = sandbox.gone().child_token();
        sandbox.between.copy_begins(stop.clone());
        // From here on a pause at its deadline breaks it off; one that came before waits for us.
        let copied = match sandbox.life.now().is_due(Utc::now()) {
            true => Err(Error::NotNow(id, Phase::Pausing)),
            false => self.copy_to(&sandbox, to, stop).await,
        };
        sandbox.between.copy_ends();
        let copied = copied
            .map_err(|error| if sandbox.life.is_over() { Error::NotFound(id) } else { error })?;
        let (by, still) = (copied.by, copied.stood_still);
        let still_ms = u64::try_from(still.as_millis()).unwrap_or(u64::MAX);
        let level = if still > LONG {
            tracing::warn!(sandbox = %id, by, still_ms, "it stood still for long to be copied");
            Level::Warn
        } else {
            tracing::info!(sandbox = %id, by, still_ms, "copied");
            Level::Info
        };
        let note = format!("its files were copied: it stood still for {still_ms} ms");
        sandbox.journal().note(level, &note);
        let mut template = facts.template.clone();
        if copied.whole {
            template.layers.clear();
        }
        template.layers.insert(0, copied.root);
        template.limits = facts.limits;
        Ok(Copy { key, template, hold })
    }

    /// Nobody can say how much a copy will take, once it and what it is of go on apart.
    fn check_disk(&self) -> Result<(), Error> {
        let kept = self.0.rules.disk_headroom;
        let failed = |source| Error::io("cannot copy beside", &self.0.home, source);
        let free = backend::disk_free(&self.0.home).map_err(failed)?;
        if free < kept {
            let why = format!("{} MiB are free, and {} MiB are kept so", free >> 20, kept >> 20);
            return Err(failed(io::Error::new(io::ErrorKind::StorageFull, why)));
        }
        let files = backend::files_free(&self.0.home).map_err(failed)?;
        enough_files(files).map_err(|why| failed(io::Error::new(io::ErrorKind::StorageFull, why)))
    }

    async fn copy_to(
        &self,
        sandbox: &Arc<Sandbox>,
        to: PathBuf,
        stop: tokio_util::sync::CancellationToken,
    ) -> Result<backend::Copied, Error> {
        let id = sandbox.id();
        let began = Instant::now();
        let mut copy = std::pin::pin!(self.0.backend.copy_layer(id, &to, stop.clone()));
        let copied = match timeout(COPY, &mut copy).await {
            Ok(copied) => copied.map_err(Error::from),
            Err(_) => {
                stop.cancel();
                step("the copy of a sandbox's files", STOP, copy).await
            }
        };
        let Err(error) = copied else { return copied };
        if sandbox.life.is_over() {
            return Err(error);
        }
        tracing::warn!(sandbox = %id, after = ?began.elapsed(), "not copied: {error}");
        // Whoever was to let it go on again may have failed at that, too.
        let thaw = step("the thawing of a sandbox", STEP, self.0.backend.thaw(id)).await;
        if matches!(error, Error::Stuck(..)) || thaw.is_err() {
            tracing::error!(sandbox = %id, "nobody can say how it stands: {error}, {thaw:?}");
            drop(self.end(sandbox, Reason::Stuck));
        }
        Err(error)
    }

    /// All snapshots, in the order of whose they are and their names.
    #[cfg(test)]
    pub(super) fn snapshots(&self) -> Vec<Arc<Snapshot>> {
        self.0.snapshots.all()
    }

    /// Shows snapshots that come after `after`, the newest first, until `each` has enough.
    pub fn visit_snapshots(
        &self,
        among: &Among,
        after: Option<Position>,
        each: impl FnMut(&Arc<Snapshot>) -> ControlFlow<()>,
    ) {
        self.0.snapshots.visit(among, after, each);
    }

    pub fn find_snapshot(&self, tenant: &Tenant, reference: &str) -> Option<Arc<Snapshot>> {
        self.0.snapshots.find(tenant, reference)
    }

    /// Deletes a snapshot, or all that have the name where no tag is given.
    ///
    /// # Errors
    /// [`Error::SnapshotInUse`] while there are sandboxes made from it.
    pub async fn delete_snapshot(
        &self,
        tenant: &Tenant,
        name: &str,
        tag: Option<&str>,
    ) -> Result<bool, Error> {
        let mut found = Vec::new();
        let named = Among::Named(tenant.clone(), name.to_owned());
        self.visit_snapshots(&named, None, |it| {
            if tag.is_none_or(|tag| it.tag == tag) {
                found.push(it.clone());
            }
            ControlFlow::Continue(())
        });
        for snapshot in &found {
            let copy = self.0.snapshots.copy_of(snapshot);
            let present = self.0.registry.all_present().into_iter();
            let over = |it: &Arc<Sandbox>| {
                it.facts().template.layers.first().is_some_and(|top| top.starts_with(&copy))
            };
            let count = present.filter(over).count();
            if count > 0 {
                return Err(Error::SnapshotInUse(snapshot.reference(), count));
            }
        }
        for snapshot in &found {
            let (snapshots, snapshot) = (self.0.snapshots.clone(), snapshot.clone());
            tracing::info!(snapshot = snapshot.reference(), "deleting");
            let removed = self.0.tasks.spawn_blocking(move || snapshots.remove(&snapshot)).await;
            removed.map_err(|e| Error::BrokenOff(e.to_string()))??;
        }
        Ok(!found.is_empty())
    }

    /// Reads the snapshots of the gateway before. To be called before any sandbox is.
    pub(super) fn load_snapshots(&self) -> Result<(), Error> {
        for snapshot in self.0.snapshots.load(self.0.boot.as_deref())? {
            self.flush_snapshot(snapshot);
        }
        Ok(())
    }

    /// A sandbox has its place on this host, and holds what it lies over.
    pub(super) fn settle(&self, sandbox: &Sandbox) {
        let layers = &sandbox.facts().template.layers;
        let hold = self.0.snapshots.hold(layers);
        if hold.is_none() {
            tracing::error!(sandbox = %sandbox.id(), "a snapshot that it lies over is gone");
        }
        sandbox.between.settle(self.0.boot.clone(), hold);
    }

    /// Has a snapshot brought to the disk, keeping nobody waiting.
    fn flush_snapshot(&self, snapshot: Arc<Snapshot>) {
        let sandboxes = self.clone();
        tokio::spawn(async move {
            loop {
                match sandboxes.try_flush(&snapshot).await {
                    Ok(()) => return,
                    Err(error) => tracing::error!(
                        snapshot = snapshot.reference(),
                        "not on the disk yet: {error}"
                    ),
                }
                sleep(RETRY).await;
            }
        });
    }

    async fn try_flush(&self, snapshot: &Arc<Snapshot>) -> Result<(), Error> {
        let there = self.0.snapshots.find(&snapshot.tenant, &snapshot.reference());
        if there.is_none_or(|there| there.key != snapshot.key) {
            return Ok(());
        }
        let copy = self.0.snapshots.copy_of(snapshot);
        step("the flush of a snapshot", FLUSH, self.0.backend.flush_copy(&copy)).await?;
        let (snapshots, snapshot) = (self.0.snapshots.clone(), snapshot.clone());
        let written = tokio::task::spawn_blocking(move || snapshots.is_durable(&snapshot));
        let written = async { written.await.map_err(|e| Error::BrokenOff(e.to_string()))? };
        step("the flush of a record", FLUSH, written).await
    }

    /// Has copies that nothing holds any more deleted; never returns.
    pub(super) async fn keep_snapshots(&self) {
        loop {
            self.0.snapshots.stirred().await;
            let snapshots = self.0.snapshots.clone();
            let trash = self.0.trash.dir().to_owned();
            let aside = move |key: Key| trash.join(key.to_string());
            let taken = tokio::task::spawn_blocking(move || snapshots.take_unheld(aside)).await;
            let taken = taken.map_err(|e| Error::BrokenOff(e.to_string())).and_then(|taken| taken);
            match taken {
                Ok(copies) => {
                    for copy in copies {
                        let release = self.0.backend.release_copy(&copy);
                        if let Err(error) = step("the removal of a copy", STEP, release).await {
                            tracing::error!(copy = %copy.display(), "{error}");
                        }
                    }
                    self.0.trash.stir();
                }
                Err(error) => {
                    tracing::error!("{error}");
                    sleep(RETRY).await;
                    self.0.snapshots.sweep();
                }
            }
        }
    }
}

/// Of files that can still be made, and of how many, where there is a number of them.
fn enough_files(files: Option<(u64, u64)>) -> Result<(), String> {
    match files {
        Some((free, all)) if free < all / FILES_KEPT => Err(format!(
            "{free} of {all} files can still be made, and {} are kept so",
            all / FILES_KEPT
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "snapshotting_tests.rs"]
mod tests;
