//! A file being received: written in place, in bounded pieces, off the threads that serve.
//!
//! In place rather than beside and renamed: an overwritten file keeps its inode, watchers see the
//! `create` and `write` of the name itself, and the disk need not hold the file twice. The price
//! is that a broken upload leaves an existing file cut short; a new one is removed again.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use axum::http::StatusCode;
use bytes::Bytes;

use super::{bad_request, internal};
use crate::{
    filesystem::{
        metadata::{self, Metadata},
        tree,
    },
    rest::RestError,
    users::User,
};

/// Received bytes held before they are written.
const BUFFER: usize = 512 << 10;

pub(super) struct Sink {
    path: PathBuf,
    /// `None` while a piece is being written, and after a failure.
    file: Option<File>,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    received: u64,
    unfinished: Unfinished,
}

/// A new file that is not whole yet. Dropped with the upload, it takes the file along.
struct Unfinished(Option<New>);

struct New {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(New { path, identity }) = self.0.take() else { return };
        let remove = move || {
            // Somebody may have put another file there.
            if fs::symlink_metadata(&path).is_ok_and(|found| (found.dev(), found.ino()) == identity)
            {
                let _ = fs::remove_file(&path);
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl Sink {
    pub(super) async fn create(
        path: PathBuf,
        user: User,
        metadata: Metadata,
    ) -> Result<Self, RestError> {
        let opened = tokio::task::spawn_blocking(move || open(path, &user, &metadata)).await;
        opened.map_err(|error| internal(error.to_string()))?
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> Result<(), RestError> {
        self.received += bytes.len() as u64;
        self.pending_bytes += bytes.len();
        self.pending.push(bytes);
        // Many tiny pieces cost more than their bytes.
        if self.pending_bytes >= BUFFER || self.pending.len() >= 1024 {
            self.flush().await?;
        }
        Ok(())
    }

    /// The bytes received, all written.
    pub(super) async fn finish(mut self) -> Result<u64, RestError> {
        self.flush().await?;
        self.unfinished.0 = None;
        Ok(self.received)
    }

    async fn flush(&mut self) -> Result<(), RestError> {
        let Some(mut file) = self.file.take() else {
            return Err(internal("the file is no longer being written"));
        };
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let writing = tokio::task::spawn_blocking(move || {
            pending.iter().try_for_each(|bytes| file.write_all(bytes)).map(|()| file)
        });
        match writing.await {
            Ok(Ok(file)) => {
                self.file = Some(file);
                Ok(())
            }
            Ok(Err(error)) => Err(failed(&self.path, self.received, "writing", &error)),
            Err(error) => Err(internal(error.to_string())),
        }
    }
}

fn open(path: PathBuf, user: &User, metadata: &Metadata) -> Result<Sink, RestError> {
    let shown = path.display();
    let fail = |doing: &str, error: io::Error| failed(&path, 0, doing, &error);
    let is_new = match fs::metadata(&path) {
        Ok(found) if found.is_dir() => {
            return Err(bad_request(format!("path is a directory: {shown}")));
        }
        Ok(found) if !found.is_file() => {
            return Err(bad_request(format!("path is not a regular file: {shown}")));
        }
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link to nothing: what is made is its target, but the name was there before.
            !path.is_symlink()
        }
        Err(error) => return Err(fail("looking at", error)),
    };
    if let Some(parent) = path.parent() {
        tree::ensure_dirs(parent, user)
            .map_err(|error| fail("creating the directory of", error))?;
    }
    // Should a pipe have come in its place, opening does not wait for the other end.
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(flags.bits())
        .open(&path)
        .map_err(|error| fail("opening", error))?;
    let found = file.metadata().map_err(|error| fail("looking at", error))?;
    if !found.is_file() {
        return Err(bad_request(format!("path is not a regular file: {shown}")));
    }
    let identity = (found.dev(), found.ino());
    let unfinished = Unfinished(is_new.then(|| New { path: path.clone(), identity }));
    file.set_len(0).map_err(|error| fail("truncating", error))?;
    fchown(&file, Some(user.uid), Some(user.gid)).map_err(|error| fail("giving away", error))?;
    metadata::replace(&file, metadata).map_err(|error| fail("setting the metadata of", error))?;
    Ok(Sink {
        path,
        file: Some(file),
        pending: Vec::new(),
        pending_bytes: 0,
        received: 0,
        unfinished,
    })
}

fn failed(path: &Path, received: u64, doing: &str, error: &io::Error) -> RestError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RestError::new(
            StatusCode::INSUFFICIENT_STORAGE,
            format!("attempted to write {received} bytes: not enough disk space available"),
        ),
        io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            bad_request(format!("error {doing} '{}': {error}", path.display()))
        }
        _ => internal(format!("error {doing} '{}': {error}", path.display())),
    }
}
