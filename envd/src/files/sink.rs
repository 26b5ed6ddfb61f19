//! A file being received: in bounded pieces, off the threads that serve.
//!
//! What fits into one piece is written in place once all of it is there, so that an overwritten
//! file keeps its inode. Anything longer grows under a name of its own beside the final one, and
//! gets that when it is whole: an upload that breaks, or finds the disk full, leaves what was there.

use std::{
    io, mem,
    path::PathBuf,
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{
    bad_request, internal,
    place::{Partial, Target},
};
use crate::{filesystem::metadata::Metadata, rest::RestError, users::User};

/// Received bytes held before they are written; as many again may be on their way to the disk.
const PIECE: usize = 256 << 10;

/// How long a client may go on sending what is thrown away.
const DISCARD: Duration = Duration::from_secs(60);

pub(super) struct Sink {
    path: PathBuf,
    user: User,
    metadata: Metadata,
    filling: Vec<u8>,
    written: Written,
    received: u64,
}

/// What has gone to disk.
enum Written {
    Nothing,
    /// The piece last given away is on its way, or was: the file comes back with its buffer.
    Some(JoinHandle<io::Result<(Partial, Vec<u8>)>>),
    /// A write failed then, and what more comes is thrown away: a client that still sends would
    /// not read why it should not.
    Failed(Instant, RestError),
}

impl Sink {
    pub(super) fn new(path: PathBuf, user: User, metadata: Metadata) -> Self {
        let (filling, written) = (Vec::new(), Written::Nothing);
        Self { path, user, metadata, filling, written, received: 0 }
    }

    /// Fails, after a while, with what [`Sink::finish`] would.
    pub(super) async fn write(&mut self, mut bytes: Bytes) -> Result<(), RestError> {
        self.received += bytes.len() as u64;
        while !bytes.is_empty() {
            if let Written::Failed(at, error) = &self.written {
                let patient = at.elapsed() < DISCARD;
                return if patient { Ok(()) } else { Err(error.clone()) };
            }
            if self.filling.len() == PIECE
                && let Err(error) = self.spill().await
            {
                self.written = Written::Failed(Instant::now(), error);
                continue;
            }
            let fits = bytes.len().min(PIECE - self.filling.len());
            self.filling.extend_from_slice(&bytes.split_to(fits));
        }
        Ok(())
    }

    /// The bytes received, all in the file, and whether it was not there before.
    pub(super) async fn finish(mut self) -> Result<(u64, bool), RestError> {
        let beginning = self.landed().await?.map(|(partial, _)| partial);
        let (path, user) = (self.path.clone(), self.user.clone());
        let (metadata, rest) = (mem::take(&mut self.metadata), mem::take(&mut self.filling));
        let finishing = move || match beginning {
            None => Target::find(path, &user)?.write(&rest, &user, &metadata),
            Some(mut partial) => {
                partial.write(&rest)?;
                partial.finish(&user, &metadata)
            }
        };
        match tokio::task::spawn_blocking(finishing).await {
            Ok(Ok(created)) => Ok((self.received, created)),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(error) => Err(internal(error.to_string())),
        }
    }

    /// Gives the piece that is full away, after the one before it.
    async fn spill(&mut self) -> Result<(), RestError> {
        let (beginning, spare) = match self.landed().await? {
            None => (None, Vec::with_capacity(PIECE)),
            Some((partial, spare)) => (Some(partial), spare),
        };
        let piece = mem::replace(&mut self.filling, spare);
        let (path, user) = (self.path.clone(), self.user.clone());
        self.written = Written::Some(tokio::task::spawn_blocking(move || {
            let mut partial = match beginning {
                None => Target::find(path, &user)?.begin()?,
                Some(partial) => partial,
            };
            partial.write(&piece)?;
            Ok((partial, piece))
        }));
        Ok(())
    }

    /// The file once the piece on its way is in it, and that piece's buffer, empty.
    async fn landed(&mut self) -> Result<Option<(Partial, Vec<u8>)>, RestError> {
        match mem::replace(&mut self.written, Written::Nothing) {
            Written::Nothing => Ok(None),
            Written::Failed(_, error) => Err(error),
            Written::Some(writing) => match writing.await {
                Ok(Ok((partial, mut buffer))) => {
                    buffer.clear();
                    Ok(Some((partial, buffer)))
                }
                Ok(Err(error)) => Err(self.failed(&error)),
                Err(error) => Err(internal(error.to_string())),
            },
        }
    }

    fn failed(&self, error: &io::Error) -> RestError {
        let shown = self.path.display();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => RestError::new(
                StatusCode::INSUFFICIENT_STORAGE,
                format!(
                    "attempted to write {} bytes: not enough disk space available",
                    self.received
                ),
            ),
            io::ErrorKind::IsADirectory => bad_request(format!("path is a directory: {shown}")),
            io::ErrorKind::InvalidInput => {
                bad_request(format!("path is not a regular file: {shown}"))
            }
            io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
                bad_request(format!("error writing '{shown}': {error}"))
            }
            _ => internal(format!("error writing '{shown}': {error}")),
        }
    }
}
