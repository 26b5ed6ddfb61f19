//! What can go wrong with a sandbox.

use std::{io, path::PathBuf, time::Duration};

use crate::{backend, template::FindError};

use super::{Phase, SandboxId};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("template '{name}': {source}")]
    Template { name: String, source: FindError },
    #[error("no room for another sandbox: {0}")]
    Full(String),
    /// Too many were being made before it, for as long as that.
    #[error("other sandboxes are being made; this one had no turn within {} s", .0.as_secs())]
    Busy(Duration),
    #[error("the gateway is stopping")]
    Stopping,
    /// Never existed, or has ended.
    #[error("sandbox {0} is not there")]
    NotFound(SandboxId),
    /// What it is at does not allow it.
    #[error("sandbox {0} is {1:?}")]
    NotNow(SandboxId, Phase),
    /// Deleted before it was ready.
    #[error("sandbox {0} was ended while it was being made")]
    EndedInCreation(SandboxId),
    #[error("the idempotency key was used for a different sandbox")]
    KeyReused,
    /// Has lived as long as a sandbox may.
    #[error("sandbox {0} has lived as long as a sandbox may")]
    TooOld(SandboxId),
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A task panicked, or gave up.
    #[error("broken off: {0}")]
    BrokenOff(String),
}

impl Error {
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { doing, path: path.into(), source }
    }

    pub(super) fn is_not_there(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
