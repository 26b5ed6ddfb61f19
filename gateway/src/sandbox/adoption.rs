//! What a gateway finds when it starts: the sandboxes of the one before.
//!
//! Directories are compared with what the kernel has. A sandbox with a record and a living first
//! process goes on, paused where it was, or ends if its time is over; everything else is removed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use tokio::{sync::oneshot, time::sleep};

use super::{
    Error, Phase, Reason, Sandbox, SandboxId, Sandboxes, Tenant, claim,
    ended::Remembered,
    layers::{Kept, PauseMode},
    life::Life,
    record::Record,
    steps::{STEP, step},
    trash,
};
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// Sandboxes looked at together.
const AT_ONCE: usize = 16;

impl Sandboxes {
    /// Goes on with the sandboxes that live and removes what is left of the others. To be called
    /// once, before anything else.
    pub async fn adopt_all(&self) -> Result<(), Error> {
        self.load_snapshots()?;
        self.load_pools()?;
        self.load_batches()?;
        let found = self.directories()?;
        let orphans = self.0.backend.list().await?;
        let orphans = orphans.into_iter().filter(|id| !found.iter().any(|(known, _)| known == id));
        for id in orphans.collect::<Vec<_>>() {
            self.give_up(id, self.0.home.join(id.to_string()), Reason::NoRecord);
        }
        stream::iter(found)
            .for_each_concurrent(AT_ONCE, |(id, dir)| async move { self.adopt(id, dir).await })
            .await;
        self.adopt_batches();
        self.0.snapshots.sweep();
        Ok(())
    }

    /// Ends every sandbox of this data directory, whoever made it, and empties the trash. For
    /// when no gateway runs.
    pub async fn end_all_found(&self) -> Result<usize, Error> {
        let mut ids: Vec<SandboxId> = self.directories()?.into_iter().map(|(id, _)| id).collect();
        ids.extend(self.0.backend.list().await?);
        ids.sort();
        ids.dedup();
        stream::iter(&ids)
            .for_each_concurrent(AT_ONCE, |id| async {
                let dir = self.0.home.join(id.to_string());
                self.withdraw_found(*id, &dir).await;
                self.remove(*id, dir).await;
            })
            .await;
        self.forget_batches()?;
        let dir = self.0.trash.dir().to_owned();
        let emptied = tokio::task::spawn_blocking(move || trash::empty(&dir)).await;
        emptied.map_err(|e| Error::BrokenOff(e.to_string()))??;
        Ok(ids.len())
    }

    /// Undoes what the host was prepared with. For when no sandbox is left.
    pub async fn retire(&self) -> Result<(), Error> {
        Ok(self.0.backend.retire().await?)
    }

    fn directories(&self) -> Result<Vec<(SandboxId, PathBuf)>, Error> {
        let home = &self.0.home;
        let failed = |e| Error::io("cannot read", home, e);
        let mut found = Vec::new();
        for entry in fs::read_dir(home).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.parse() {
                Ok(id) => found.push((id, path)),
                Err(_) => tracing::warn!("{} is not a sandbox: left alone", path.display()),
            }
        }
        Ok(found)
    }

    async fn adopt(&self, id: SandboxId, dir: PathBuf) {
        let record = match self.read(&dir).await {
            Ok(record) if record.facts.id == id => record,
            Ok(record) => {
                tracing::warn!(sandbox = %id, "its record is that of {}", record.facts.id);
                return self.give_up(id, dir, Reason::NoRecord);
            }
            Err(error) if error.is_not_there() => {
                return match Record::of_ended(&dir) {
                    Some((record, reason, at)) => {
                        self.go_on_removing(&record, dir, reason, at);
                    }
                    // It was being made, or waited in the pool.
                    None => self.give_up(id, dir, Reason::NoRecord),
                };
            }
            Err(error) if error.is_of_no_use() => {
                tracing::warn!(sandbox = %id, "{error}");
                return self.give_up(id, dir, Reason::NoRecord);
            }
            Err(error) => {
                // Nothing is wrong with it for all we know.
                return tracing::error!(sandbox = %id, "left to the next gateway: {error}");
            }
        };
        let moment = record.moment();
        if moment.is_due(Utc::now()) && !record.facts.auto_pause {
            return self.give_up_known(&record, dir, Reason::Deadline);
        }
        let files_only = record.kept().is_some_and(|kept| kept.mode == PauseMode::Filesystem);
        let adopt = || step("the adoption of a sandbox", STEP, self.0.backend.adopt(id));
        let cell = match patiently(adopt).await {
            Ok(Some(cell)) if !files_only && record.is_spoken_with() => cell,
            _ if self.has_its_files(&record) => return self.adopt_files(record, dir).await,
            Ok(Some(_)) if !files_only => {
                return self.give_up_known(&record, dir, Reason::OtherVersion);
            }
            Ok(_) => {
                let reason = self.why_gone(&record).await;
                return self.give_up_known(&record, dir, reason);
            }
            Err(error) => {
                tracing::error!(sandbox = %id, "cannot adopt: {error}");
                let stuck = matches!(error, Error::Stuck(..));
                let reason = if stuck { Reason::Stuck } else { Reason::EnvdDied };
                return self.give_up_known(&record, dir, reason);
            }
        };
        let mut moment = moment;
        let fence = || self.fence(id, &record.policy, record.facts.network, record.facts.limits);
        if let Err(error) = patiently(fence).await {
            tracing::error!(sandbox = %id, "cannot be kept to its network policy: {error}");
            return self.give_up_known(&record, dir, error.reason());
        }
        match patiently(|| self.agree(id, &dir, moment.phase)).await {
            Ok(()) => {}
            Err(error) if moment.phase == Phase::Paused && self.has_its_files(&record) => {
                tracing::error!(sandbox = %id, "does not stand still: {error}");
                return self.adopt_files(record, dir).await;
            }
            Err(error) if moment.phase == Phase::Paused || matches!(error, Error::Stuck(..)) => {
                tracing::error!(sandbox = %id, "{error}");
                return self.give_up_known(&record, dir, Reason::Stuck);
            }
            Err(error) => {
                tracing::error!(sandbox = %id, "cannot be put as its record says: {error}");
                moment.cannot_go_on(Utc::now());
            }
        }
        // One that cannot go on was written as running.
        let stands = moment.phase == Phase::Paused;
        let kept = record.kept().or_else(|| stands.then(|| Kept::new(PauseMode::Full)));
        let sandbox = Sandbox::found(record.facts, dir, moment, kept);
        let sandbox = Arc::new(sandbox.under(record.policy));
        self.settle(&sandbox);
        self.0.registry.readmit(sandbox.clone());
        self.begin(&sandbox, Some(&cell));
        self.flush_soon(&sandbox);
        self.tell_adopted(&sandbox, moment.phase);
        tracing::info!(sandbox = %id, phase = ?moment.phase, "adopted");
    }

    async fn read(&self, dir: &Path) -> Result<Record, Error> {
        patiently(|| async {
            let dir = dir.to_owned();
            let read = tokio::task::spawn_blocking(move || Record::read(&dir)).await;
            read.map_err(|e| Error::BrokenOff(e.to_string()))?
        })
        .await
    }

    /// The one before may have died between the kernel and the record.
    async fn agree(&self, id: SandboxId, dir: &Path, phase: Phase) -> Result<(), Error> {
        let backend = &self.0.backend;
        let frozen = step("a look at a sandbox", STEP, backend.frozen(id)).await?;
        match (phase, frozen) {
            (Phase::Running, true) => {
                step("the flush of a record", STEP, withdrawn(dir)).await?;
                step("the thawing of a sandbox", STEP, backend.thaw(id)).await
            }
            // Once more where it is: it may not have come to a halt.
            (Phase::Paused, _) => step("the freezing of a sandbox", STEP, backend.freeze(id)).await,
            _ => Ok(()),
        }
    }

    /// Of one that is about to be removed.
    async fn withdraw_found(&self, id: SandboxId, dir: &Path) {
        if let Err(error) = step("the flush of a record", STEP, withdrawn(dir)).await {
            tracing::error!(sandbox = %id, "{error}");
        }
    }

    /// Removes one that was visible to the gateway before.
    pub(super) fn give_up_known(&self, record: &Record, dir: PathBuf, reason: Reason) {
        self.0.metrics.sandbox_ended(reason);
        let (now, moment) = (Utc::now(), record.moment());
        // Since when it has not run nobody knows, but not past its deadline: the host may have been
        // down for days, which nobody is to pay for.
        let at = match moment.phase {
            Phase::Running => now.min(moment.deadline.max(moment.runs_since)),
            _ => now,
        };
        self.go_on_removing(record, dir, reason, Some(at));
    }

    /// Removes one that the gateway before has ended, and has counted. Whether it came to tell of
    /// it nobody knows, so it is told again, under the same ids.
    fn go_on_removing(
        &self,
        record: &Record,
        dir: PathBuf,
        reason: Reason,
        at: Option<DateTime<Utc>>,
    ) {
        let life = Arc::new(Life::at(record.moment()));
        if let Some(at) = at
            && life.make(|moment, _| moment.end(reason, at)).is_ok()
        {
            self.tell_ended(&record.facts, &life);
        }
        self.remove_found(record.facts.id, dir, reason, Remembered::new(&life, &record.facts));
    }

    /// Removes what nothing is known of.
    fn give_up(&self, id: SandboxId, dir: PathBuf, reason: Reason) {
        self.0.metrics.sandbox_ended(reason);
        self.tell_lost(id, reason);
        let life = Arc::new(Life::pending());
        self.remove_found(id, dir, reason, Remembered::unborn(&life, Tenant::default()));
    }

    fn remove_found(&self, id: SandboxId, dir: PathBuf, reason: Reason, one: Remembered) {
        tracing::info!(sandbox = %id, %reason, "removing");
        let life = one.life.clone();
        life.end(reason);
        let tenant = one.tenant.clone();
        self.0.ended.remember(id, one);
        self.0.registry.hide(id, &tenant);
        let sandboxes = self.clone();
        self.0.tasks.spawn(async move {
            let (tried, _) = oneshot::channel();
            sandboxes.withdraw_found(id, &dir).await;
            sandboxes.remove_telling(id, &dir, Some(&life), tried).await;
        });
    }
}

/// When it returns a sandbox of a gateway before is not told as being on the disk any more.
async fn withdrawn(dir: &Path) -> Result<(), Error> {
    let dir = dir.to_owned();
    let withdrawn = tokio::task::spawn_blocking(move || claim::withdraw(&dir)).await;
    withdrawn.map_err(|e| Error::BrokenOff(e.to_string()))?
}

/// Tries again what fails for a reason that may pass: no memory, no descriptors.
pub(super) async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    attempt: impl Fn() -> F,
) -> Result<T, Error> {
    let mut wait = FIRST_RETRY;
    loop {
        match attempt().await {
            Err(error)
                if wait <= LAST_RETRY
                    && !matches!(error, Error::Stuck(..))
                    && !error.is_not_there()
                    && !error.is_of_no_use() =>
            {
                tracing::warn!("again in {wait:?}: {error}");
            }
            done => return done,
        }
        sleep(wait).await;
        wait *= 2;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::sandbox::{
        Pausing, Wanted,
        testing::{self, TestBackend},
    };

    #[tokio::test]
    async fn after_a_restart_the_living_go_on_and_nothing_is_left_of_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Arc::new(TestBackend::default());
        let before = testing::sandboxes(dir.path(), &backend, testing::rules());
        let create = |timeout| before.create(Wanted { timeout, ..testing::wanted() }, None);
        let long = Duration::from_secs(60);
        let living = create(long).await.unwrap();
        let late = create(Duration::from_millis(1)).await.unwrap();
        let dead = create(long).await.unwrap();
        let torn = create(long).await.unwrap();
        let unrecorded = create(long).await.unwrap();
        let orphan = create(long).await.unwrap();
        backend.end_cell(dead.id());
        fs::write(torn.dir().join("sandbox.json"), "{").unwrap();
        fs::remove_file(unrecorded.dir().join("sandbox.json")).unwrap();
        fs::remove_dir_all(orphan.dir()).unwrap();
        let killed = create(long).await.unwrap();
        Record::remove(killed.dir(), Some((Reason::User, Utc::now()))).await.unwrap();
        fs::create_dir(dir.path().join("sandboxes").join("not an id")).unwrap();
        fs::create_dir_all(dir.path().join("trash/old/er")).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;

        let after = testing::sandboxes(dir.path(), &backend, testing::rules());
        after.adopt_all().await.unwrap();
        let running: Vec<SandboxId> =
            after.registry().all_running().iter().map(|sandbox| sandbox.id()).collect();
        assert_eq!(running, [living.id()]);
        let adopted = after.running(living.id()).unwrap();
        assert_eq!(adopted.facts(), living.facts());
        assert_eq!(adopted.ends_at(), living.ends_at());
        after.0.tasks.close();
        after.0.tasks.wait().await;
        assert_eq!(backend.cells.lock().keys().collect::<Vec<_>>(), [&living.id()]);
        let why = |sandbox: &Arc<Sandbox>| after.see(sandbox.id()).unwrap().status.reason.unwrap();
        for (gone, reason) in [
            (&late, Reason::Deadline),
            (&torn, Reason::NoRecord),
            (&unrecorded, Reason::NoRecord),
            (&killed, Reason::User),
        ] {
            assert_eq!(why(gone), reason);
        }
        for gone in [late, dead, torn, unrecorded, killed] {
            assert!(!gone.dir().exists());
        }

        assert_eq!(after.end_all_found().await.unwrap(), 1);
        assert!(backend.cells.lock().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 0);
    }

    fn change(sandbox: &Sandbox, change: impl FnOnce(&mut serde_json::Value)) {
        let path = sandbox.dir().join("sandbox.json");
        let mut record = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut record);
        fs::write(path, record.to_string()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_a_while_costs_no_sandbox_and_what_is_paused_keeps_its_files() {
        let bed = testing::bed(testing::rules());
        let running = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.backend.failing_adopts.store(2, SeqCst);
        let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
        after.adopt_all().await.unwrap();
        assert!(after.running(running.id()).is_ok());
        bed.sandboxes.kill(running.id()).await.unwrap();
        bed.until_nothing_is_left().await;

        let paused = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.sandboxes.pause(paused.id(), Pausing::default()).await.unwrap();
        bed.backend.failing_adopts.store(100, SeqCst);
        let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
        after.adopt_all().await.unwrap();
        bed.backend.failing_adopts.store(0, SeqCst);
        let found = after.present(paused.id()).unwrap();
        assert_eq!(found.pause_mode(), Some(PauseMode::Filesystem));
        assert!(bed.backend.cells.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_told_as_paused_stands_still_or_has_no_processes_or_is_ended() {
        for shut_downs in [0, 100] {
            let bed = testing::bed(testing::rules());
            let paused = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
            bed.sandboxes.pause(paused.id(), Pausing::default()).await.unwrap();
            bed.backend.thaw_quietly(paused.id());
            bed.backend.failing_freezes.store(100, SeqCst);
            bed.backend.failing_shut_downs.store(shut_downs, SeqCst);
            let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
            after.adopt_all().await.unwrap();
            if shut_downs == 0 {
                let found = after.present(paused.id()).unwrap();
                assert_eq!(found.pause_mode(), Some(PauseMode::Filesystem));
                assert!(bed.backend.cells.lock().is_empty());
            } else {
                let why = after.see(paused.id()).unwrap().status.reason;
                assert_eq!(why, Some(Reason::Stuck));
                after.0.tasks.close();
                after.0.tasks.wait().await;
                assert!(bed.backend.cells.lock().is_empty());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_cannot_be_read_now_is_left_to_the_next_gateway() {
        let bed = testing::bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let (path, aside) = (sandbox.dir().join("sandbox.json"), sandbox.dir().join("aside"));
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
        let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
        after.adopt_all().await.unwrap();
        assert!(after.present(sandbox.id()).is_err());
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
        after.adopt_all().await.unwrap();
        assert!(after.running(sandbox.id()).is_ok());
    }

    #[tokio::test]
    async fn of_one_whose_envd_speaks_another_protocol_the_files_go_on_where_it_is_paused() {
        let bed = testing::bed(testing::rules());
        let running = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let paused = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.sandboxes.pause(paused.id(), Pausing::default()).await.unwrap();
        testing::until(|| paused.durable_at().is_some()).await;
        for sandbox in [&running, &paused] {
            change(sandbox, |record| record["protocol"] = 999.into());
        }
        let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
        after.adopt_all().await.unwrap();
        let why = |sandbox: &Sandbox| after.see(sandbox.id()).unwrap().status.reason;
        assert_eq!(why(&running), Some(Reason::OtherVersion));
        assert_eq!(why(&paused), Some(Reason::OtherVersion));
        let found = after.present(paused.id()).unwrap();
        assert_eq!(found.pause_mode(), Some(PauseMode::Filesystem));
        assert_eq!(found.between.kept().unwrap().durable_at, paused.durable_at());
    }
}
