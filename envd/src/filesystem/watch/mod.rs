//! Watches: a directory, or a tree, and the events a client is told of it.
//!
//! Everything a watch holds is bounded; one whose client does not keep up ends with an error
//! rather than with a gap.

mod network;
mod polled;
mod source;
mod stream;
mod tree;

use std::{path::PathBuf, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};

pub(super) use self::{polled::Polled, stream::stream};
use self::{
    source::{Failure, Raw},
    tree::{Batch, Tree},
};
use super::error::Error;

/// Watches at once, streamed and polled together: each is an inotify instance and a thread.
const MAX_WATCHES: usize = 64;

/// Kernel events translated at once.
const BATCH: usize = 256;

pub(super) struct Allowance(Arc<Semaphore>);

impl Default for Allowance {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_WATCHES)))
    }
}

#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) recursive: bool,
    /// Describe the file in events that have one.
    pub(super) entries: bool,
    /// Watch them although the kernel does not see changes made elsewhere.
    pub(super) network_mounts: bool,
}

pub(super) struct Watch {
    raw: mpsc::Receiver<Raw>,
    failure: Failure,
    /// `None` while a batch is being translated, and after the end.
    tree: Option<Tree>,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// Events from the moment it returns on are not missed.
    pub(super) async fn open(
        allowance: &Allowance,
        root: PathBuf,
        want: Wanted,
    ) -> Result<Self, Error> {
        let permit = allowance.0.clone().try_acquire_owned().map_err(|_| {
            Error::Exhausted(format!(
                "there are already {MAX_WATCHES} watches in this sandbox; stop one of them first"
            ))
        })?;
        let (sender, raw, failure) = source::channel();
        let opened = tokio::task::spawn_blocking(move || Tree::open(root, want, sender)).await;
        let tree = Some(opened.map_err(broken)??);
        Ok(Self { raw, failure, tree, _permit: permit })
    }

    /// The next events, or `None` when there were none until then. Not to be called after an end.
    async fn next(&mut self, until: Option<Instant>) -> Option<Batch> {
        let mut raw = Vec::new();
        let received = self.raw.recv_many(&mut raw, BATCH);
        let count = match until {
            Some(until) => tokio::time::timeout_at(until, received).await.ok()?,
            None => received.await,
        };
        Some(match self.tree.take() {
            Some(mut tree) if count > 0 => {
                let translated = tokio::task::spawn_blocking(move || {
                    let batch = tree.translate(raw);
                    (tree, batch)
                });
                match translated.await {
                    Ok((tree, batch)) => {
                        self.tree = Some(tree);
                        batch
                    }
                    Err(error) => Batch { end: Some(broken(error)), ..Batch::default() },
                }
            }
            _ => {
                let why = self.failure.lock().take();
                let why = why.unwrap_or_else(|| "the watch has ended".into());
                Batch { end: Some(Error::Exhausted(why)), ..Batch::default() }
            }
        })
    }
}

fn broken(error: tokio::task::JoinError) -> Error {
    Error::io("watching", std::io::Error::other(error))
}
