//! What says on the disk that the files of a paused sandbox are there too.
//!
//! A record gets to the disk when the file system likes, so after a power failure it may be any
//! that was written since the one before was waited for; and what a sandbox writes gets there in
//! no order with it. So a record that says since when its sandbox is on the disk counts only while
//! `flushed`, beside it, says the same. That file is overwritten in place, which takes no more
//! than one write of the disk's own: no journal, and no data of others, is waited for. What is in
//! it gets there last when a sandbox is flushed, and is taken back, for good, before anything of
//! the sandbox runs again and before anybody is told that it has ended.
//!
//! | power fails after | the disk may have | the next gateway makes of it |
//! |---|---|---|
//! | the pause | a record of it or not, some of its files | nothing: it is lost, `host_rebooted` |
//! | its files were flushed | the same, with all of its files | the same |
//! | its record was | that it is on the disk, and no claim | the same |
//! | the claim was, and whoever asks was told | both | it is paused, with its files |
//! | the claim was taken back, by a resume or a kill | any record, any files, no claim | it is lost |
//!
//! Without that file the record alone counts: gateways of before had none.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{Error, Sandbox, Sandboxes, steps::STEP};

const NAME: &str = "flushed";
/// As long as any claim, so that none is ever longer than the one before.
const NOTHING: &str = "00000000000000000000\n";

/// Of one sandbox.
#[derive(Default)]
pub(super) struct Claim {
    /// The disk may have it.
    held: AtomicBool,
    writing: Mutex<()>,
    /// Of whoever flushes the sandbox.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl Claim {
    /// What may be there of the gateway before; `told` where its record says that it is flushed.
    pub(super) fn found(dir: &Path, told: bool) -> Self {
        let held = AtomicBool::new(told || path(dir).exists());
        Self { held, ..Self::default() }
    }

    /// Whether it is to be [withdrawn](Self::withdraw). Whoever changes what a
    /// [stake](Self::stake) depends on first sees any that comes to be nevertheless.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Claims that the record which is on the disk, and says `at`, is that of files that are
    /// there; not unless it `stands` still. Whether that is so. Blocks.
    pub(super) fn stake(
        &self,
        dir: &Path,
        at: DateTime<Utc>,
        stands: impl FnOnce() -> bool,
    ) -> Result<bool, Error> {
        let writing = self.writing.lock();
        let before = self.held.swap(true, Ordering::SeqCst);
        if !stands() {
            self.held.store(before, Ordering::SeqCst);
            return Ok(false);
        }
        let file = put(dir, &text(at))?;
        drop(writing);
        // Who withdraws it meanwhile waits for that itself.
        file.sync_data().map_err(failed(dir))?;
        Ok(true)
    }

    /// When it returns no claim is on the disk. Blocks.
    pub(super) fn withdraw(&self, dir: &Path) -> Result<(), Error> {
        let _writing = self.writing.lock();
        if self.is_held() {
            prepare(dir)?;
            withdraw(dir)?;
            self.held.store(false, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Has the file there, and on the disk, with no claim in it unless there is one. Blocks.
pub(super) fn prepare(dir: &Path) -> Result<(), Error> {
    let path = path(dir);
    let mut new = OpenOptions::new();
    let made = match new.write(true).create_new(true).mode(0o600).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made.map_err(failed(dir))?,
    };
    made.write_all_at(NOTHING.as_bytes(), 0).map_err(failed(dir))?;
    made.sync_all().and_then(|()| File::open(dir)?.sync_all()).map_err(failed(dir))
}

/// As [`Claim::withdraw`], of a sandbox that nobody flushes; where there is no such file there is
/// nothing to do. Blocks.
pub(super) fn withdraw(dir: &Path) -> Result<(), Error> {
    match put(dir, NOTHING) {
        Err(error) if error.is_not_there() => Ok(()),
        file => file?.sync_data().map_err(failed(dir)),
    }
}

/// Whether a record of that directory that says it is on the disk since `at` is to be believed.
/// Blocks.
pub(super) fn stands(dir: &Path, at: DateTime<Utc>) -> Result<bool, Error> {
    let file = match File::open(path(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        file => file.map_err(failed(dir))?,
    };
    let (claim, mut found) = (text(at), Vec::new());
    file.take(claim.len() as u64 + 1).read_to_end(&mut found).map_err(failed(dir))?;
    Ok(found == claim.as_bytes())
}

/// Whether there is such a file, with a claim in it or not. Blocks.
pub(super) fn exists(dir: &Path) -> Result<bool, Error> {
    path(dir).try_exists().map_err(failed(dir))
}

fn put(dir: &Path, text: &str) -> Result<File, Error> {
    let file = OpenOptions::new().write(true).open(path(dir)).map_err(failed(dir))?;
    file.write_all_at(text.as_bytes(), 0).map_err(failed(dir))?;
    Ok(file)
}

fn text(at: DateTime<Utc>) -> String {
    format!("{:020}\n", at.timestamp_millis())
}

fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

fn failed(dir: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path(dir);
    move |source| Error::io("cannot bring to the disk", path, source)
}

impl Sandboxes {
    /// When it returns no gateway would take a sandbox's files for whole after a power failure.
    pub(super) async fn withdraw(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        if !sandbox.claim.is_held() {
            return Ok(());
        }
        let withdrawn = sandbox.clone();
        let withdrawn = move || withdrawn.claim.withdraw(withdrawn.dir());
        match timeout(STEP, self.0.tasks.spawn_blocking(withdrawn)).await {
            Ok(done) => done.map_err(|e| Error::BrokenOff(e.to_string()))?,
            Err(_) => Err(failed(sandbox.dir())(io::ErrorKind::TimedOut.into())),
        }
    }
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
