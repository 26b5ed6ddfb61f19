//! What a gateway finds when it starts: the sandboxes of the one before.
//!
//! Directories are compared with what the kernel has. A sandbox with a record and a living first
//! process goes on, paused where it was, or ends if its time is over; everything else is removed.

use std::{fs, path::PathBuf, sync::Arc};

use chrono::Utc;
use futures_util::{StreamExt, stream};

use super::{Error, Phase, Sandbox, SandboxId, Sandboxes, ending::Reason, record::Record, trash};
use crate::backend;

/// Sandboxes looked at together.
const AT_ONCE: usize = 16;

impl Sandboxes {
    /// Goes on with the sandboxes that live and removes what is left of the others. To be called
    /// once, before anything else.
    pub async fn adopt_all(&self) -> Result<(), Error> {
        let found = self.directories()?;
        let orphans = self.0.backend.list().await?;
        let orphans = orphans.into_iter().filter(|id| !found.iter().any(|(known, _)| known == id));
        for id in orphans.collect::<Vec<_>>() {
            self.give_up(id, self.0.home.join(id.to_string()), Reason::NoRecord);
        }
        stream::iter(found)
            .for_each_concurrent(AT_ONCE, |(id, dir)| async move { self.adopt(id, dir).await })
            .await;
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
            .for_each_concurrent(AT_ONCE, |id| self.remove(*id, self.0.home.join(id.to_string())))
            .await;
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
        let record = match Record::read(&dir) {
            Ok(record) if record.facts.id == id => record,
            Ok(record) => {
                tracing::warn!(sandbox = %id, "its record is that of {}", record.facts.id);
                return self.give_up(id, dir, Reason::NoRecord);
            }
            // It was being made, or waited in the pool.
            Err(error) if error.is_not_there() => {
                return self.give_up(id, dir, Reason::NoRecord);
            }
            Err(error) => {
                tracing::warn!(sandbox = %id, "{error}");
                return self.give_up(id, dir, Reason::NoRecord);
            }
        };
        let moment = record.moment();
        let over = moment.phase == Phase::Running && moment.deadline <= Utc::now();
        if over && !record.facts.auto_pause {
            return self.give_up(id, dir, Reason::TimedOut);
        }
        match self.0.backend.adopt(id).await {
            Ok(Some(cell)) => {
                let mut moment = moment;
                if let Err(error) = self.agree(id, moment.phase).await {
                    tracing::error!(sandbox = %id, "cannot be put as its record says: {error}");
                    // One that does not go on is not to be sent anything: who connects tries again.
                    if moment.phase == Phase::Running {
                        moment.phase = Phase::Paused;
                        moment.paused_at = Some(Utc::now());
                    }
                }
                let sandbox = Arc::new(Sandbox::found(record.facts, dir, moment));
                self.0.registry.readmit(sandbox.clone());
                self.begin(&sandbox, &cell);
                tracing::info!(sandbox = %id, phase = ?moment.phase, "adopted");
            }
            Ok(None) => self.give_up(id, dir, Reason::EnvdDied),
            Err(error) => {
                tracing::error!(sandbox = %id, "cannot adopt: {error}");
                self.give_up(id, dir, Reason::EnvdDied);
            }
        }
    }

    /// The one before may have died between the kernel and the record.
    async fn agree(&self, id: SandboxId, phase: Phase) -> Result<(), backend::Error> {
        let backend = &self.0.backend;
        match (phase, backend.frozen(id).await?) {
            (Phase::Running, true) => backend.thaw(id).await,
            // Once more where it is: it may not have come to a halt.
            (Phase::Paused, _) => backend.freeze(id).await,
            _ => Ok(()),
        }
    }

    /// Removes what was never visible in this gateway's life.
    fn give_up(&self, id: SandboxId, dir: PathBuf, reason: Reason) {
        tracing::info!(sandbox = %id, %reason, "removing");
        self.0.metrics.sandbox_ended(reason);
        self.0.registry.hide(id);
        let sandboxes = self.clone();
        self.0.tasks.spawn(async move {
            sandboxes.remove(id, dir).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sandbox::{
        Wanted,
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
        for gone in [late, dead, torn, unrecorded] {
            assert!(!gone.dir().exists());
        }

        assert_eq!(after.end_all_found().await.unwrap(), 1);
        assert!(backend.cells.lock().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("trash")).unwrap().count(), 0);
    }
}
