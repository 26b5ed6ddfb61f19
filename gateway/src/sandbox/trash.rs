//! Directories of ended sandboxes, on their way out.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::Notify, task, time};

use super::{Error, SandboxId};
use crate::backend;

/// Entries looked at in one go; bounds the memory a sandbox with millions of files can claim.
const BATCH: usize = 512;

/// What could not be deleted is tried again after so long.
pub(super) const RETRY: Duration = Duration::from_secs(60);

pub(super) struct Trash {
    dir: PathBuf,
    filled: Notify,
}

impl Trash {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, filled: Notify::new() }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Moves a sandbox's directory here; one that is not there is a success.
    pub(super) async fn take(&self, id: SandboxId, dir: &Path) -> Result<(), Error> {
        match tokio::fs::rename(dir, self.dir.join(id.to_string())).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("cannot move to the trash", dir, e))
            }
            _ => {
                self.filled.notify_one();
                Ok(())
            }
        }
    }

    /// There is something new in it.
    pub(super) fn stir(&self) {
        self.filled.notify_one();
    }

    /// Empties the trash now and whenever something is put in, and again after `retry` when that
    /// failed.
    pub(super) async fn keep_empty(&self, retry: Duration) {
        loop {
            let dir = self.dir.clone();
            let emptied = match task::spawn_blocking(move || empty(&dir)).await {
                Ok(emptied) => emptied,
                Err(e) => Err(Error::BrokenOff(e.to_string())),
            };
            match emptied {
                Ok(()) => self.filled.notified().await,
                Err(error) => {
                    tracing::warn!("cannot empty the trash, again in {retry:?}: {error}");
                    // Sooner when something is put in, which may be what can be deleted.
                    let _ = time::timeout(retry, self.filled.notified()).await;
                }
            }
        }
    }
}

/// Deletes all that is in `dir`.
///
/// A sandbox may have left a tree deeper than any stack, any path and any number of open
/// directories would reach, so every directory found is first moved up to `dir` itself: nothing is
/// ever deeper than one level, and one directory is open at a time.
pub(super) fn empty(dir: &Path) -> Result<(), Error> {
    let mut moved = 0_u64;
    // What cannot be deleted is left for the next time, and must not keep this loop alive.
    let mut stuck = HashSet::new();
    let mut trouble = None;
    loop {
        let entries = fs::read_dir(dir).map_err(|e| Error::io("cannot read", dir, e))?;
        let batch: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| !stuck.contains(path))
            .take(BATCH)
            .collect();
        if batch.is_empty() {
            return trouble.map_or(Ok(()), Err);
        }
        for path in batch {
            if let Err(error) = remove(dir, &path, &mut moved) {
                trouble.get_or_insert(error);
                stuck.insert(path);
            }
        }
    }
}

fn remove(dir: &Path, path: &Path, moved: &mut u64) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::io("cannot delete", path, source)
    };
    if !fs::symlink_metadata(path).map_err(failed(path))?.is_dir() {
        return unlocked(&[path], || fs::remove_file(path)).map_err(failed(path));
    }
    if backend::remove_whole(path) {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(failed(path))? {
        let entry = entry.map_err(failed(path))?;
        let found = entry.path();
        if entry.file_type().map_err(failed(&found))?.is_dir() {
            let aside = free_name(dir, moved);
            unlocked(&[&found, path], || fs::rename(&found, &aside)).map_err(failed(&found))?;
        } else {
            unlocked(&[&found, path], || fs::remove_file(&found)).map_err(failed(&found))?;
        }
    }
    unlocked(&[path], || fs::remove_dir(path)).map_err(failed(path))
}

/// Once more without their flags, where that is what the system says no for.
fn unlocked(paths: &[&Path], act: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match act() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let mut some = false;
            for path in paths {
                some |= backend::unlock(path);
            }
            if some { act() } else { Err(error) }
        }
        result => result,
    }
}

fn free_name(dir: &Path, moved: &mut u64) -> PathBuf {
    loop {
        *moved += 1;
        let name = dir.join(format!("moved-{moved}"));
        if fs::symlink_metadata(&name).is_err() {
            return name;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_deleted_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (trash, outside) = (dir.path().join("trash"), dir.path().join("outside"));
        fs::create_dir_all(&trash).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        // Built from the bottom up, as no path reaches that far down.
        let mut inner = dir.path().join("inner-0");
        fs::create_dir(&inner).unwrap();
        std::os::unix::fs::symlink(&outside, inner.join("link")).unwrap();
        for n in 1..3000 {
            let outer = dir.path().join(format!("inner-{n}"));
            fs::create_dir(&outer).unwrap();
            fs::write(outer.join("file"), "x").unwrap();
            fs::rename(&inner, outer.join("nested")).unwrap();
            inner = outer;
        }
        fs::rename(&inner, trash.join("moved-1")).unwrap();
        empty(&trash).unwrap();
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
        assert!(outside.join("file").exists());
    }

    #[tokio::test]
    async fn a_deletion_that_failed_is_tried_again_though_nothing_new_is_put_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trash");
        // As good as unreadable, for root too.
        fs::write(&path, "").unwrap();
        let trash = std::sync::Arc::new(Trash::new(path.clone()));
        let keeper = tokio::spawn({
            let trash = trash.clone();
            async move { trash.keep_empty(Duration::from_millis(20)).await }
        });
        time::sleep(Duration::from_millis(50)).await;
        fs::remove_file(&path).unwrap();
        let old = path.join("old");
        fs::create_dir_all(&old).unwrap();
        time::timeout(Duration::from_secs(5), async {
            while old.exists() {
                time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("it is still there");
        keeper.abort();
    }

    #[tokio::test]
    async fn taking_what_is_not_there_is_a_success() {
        let dir = tempfile::tempdir().unwrap();
        let trash = Trash::new(dir.path().join("trash"));
        fs::create_dir(dir.path().join("trash")).unwrap();
        trash.take(SandboxId::random(), &dir.path().join("nowhere")).await.unwrap();
    }
}
