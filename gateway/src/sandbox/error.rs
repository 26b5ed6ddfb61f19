//! What can go wrong with a sandbox.

use std::{io, path::PathBuf, time::Duration};

use crate::{
    backend,
    limits::{Limit, TooMuch},
    template::FindError,
};

use super::{BatchId, Phase, Reason, SandboxId, Tenant};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("template '{name}': {source}")]
    Template { name: String, source: FindError },
    #[error("no room for another sandbox: {0}")]
    Full(String),
    /// Too many were being made before it, for as long as that.
    #[error("other sandboxes are being made; this one had no turn within {} s", .0.as_secs())]
    Busy(Duration),
    #[error("tenant '{tenant}' has {most} sandboxes, as many as it may have at once")]
    Quota { tenant: Tenant, most: usize },
    #[error("tenant '{tenant}' has {most} snapshots, as many as it may have")]
    TooManySnapshots { tenant: Tenant, most: usize },
    /// It may again after so long.
    #[error("tenant '{tenant}' may make {most} sandboxes a minute, and has")]
    TooOften { tenant: Tenant, most: u32, again: Duration },
    #[error(transparent)]
    TooMuch(#[from] TooMuch),
    #[error("{0}: this host has nothing that enforces it")]
    NoSuchLimit(Limit),
    #[error("the gateway is stopping")]
    Stopping,
    /// Never existed, or has ended.
    #[error("sandbox {0} is not there")]
    NotFound(SandboxId),
    /// What it is at does not allow it.
    #[error("sandbox {0} is {1:?}")]
    NotNow(SandboxId, Phase),
    /// Its files are.
    #[error("sandbox {0} is being snapshotted")]
    BeingCopied(SandboxId),
    #[error("the envd of sandbox {0} does not answer")]
    Unresponsive(SandboxId),
    /// Its envd did not answer when it was paused.
    #[error("sandbox {0} was paused while its envd did not answer: it can only be booted")]
    OnlyFiles(SandboxId),
    /// So many snapshots it lies over.
    #[error("{0} snapshots lie over each other, as many as may")]
    TooManyLayers(usize),
    #[error("there is a template of the name {0}")]
    NameTaken(String),
    #[error("{1} sandboxes were made from snapshot {0}")]
    SnapshotInUse(String, usize),
    /// Deleted before it was ready.
    #[error("sandbox {0} was ended while it was being made")]
    EndedInCreation(SandboxId),
    /// By its name or id.
    #[error("pool '{0}' is not there")]
    NoPool(String),
    #[error("there is a pool of the name {0}")]
    PoolNameTaken(String),
    #[error("pool '{0}' is one of the gateway's settings: change --pool, and start it anew")]
    PoolOfSettings(String),
    #[error("there are {0} pools, as many as may be")]
    TooManyPools(usize),
    #[error("batch {0} is not there")]
    NoBatch(BatchId),
    #[error("tenant '{tenant}' has {most} batches, as many as it may have: delete one")]
    TooManyBatches { tenant: Tenant, most: usize },
    #[error("the idempotency key was used for a different sandbox")]
    KeyReused,
    /// Has lived as long as a sandbox may.
    #[error("sandbox {0} has lived as long as a sandbox may")]
    TooOld(SandboxId),
    /// So many bytes it may have.
    #[error("its metadata would have more than {0} bytes")]
    TooMuchMetadata(usize),
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// A step was not over in time; what it did nobody knows.
    #[error("{0} was not over within {1:?}")]
    Stuck(&'static str, Duration),
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A task panicked, or gave up.
    #[error("broken off: {0}")]
    BrokenOff(String),
}

impl Error {
    /// Why there is no sandbox, when this came of making one.
    pub(crate) fn reason(&self) -> Reason {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Full(_)
            | Self::Busy(_)
            | Self::Quota { .. }
            | Self::TooManySnapshots { .. }
            | Self::TooOften { .. }
            | Self::Backend(backend::Error::Full(_)) => Reason::Capacity,
            Self::Io { source, .. } | Self::Backend(backend::Error::Call { source, .. })
                if matches!(source.kind(), StorageFull | QuotaExceeded) =>
            {
                Reason::Disk
            }
            Self::Stuck(..) => Reason::Stuck,
            Self::Stopping => Reason::Admin,
            Self::EndedInCreation(_) => Reason::User,
            _ => Reason::CreateFailed,
        }
    }

    /// It asked for more than it may have, and nothing has failed.
    pub(super) fn refuses_the_client(&self) -> bool {
        matches!(self, Self::Quota { .. } | Self::TooMuch(_) | Self::NoSuchLimit(_))
    }

    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { doing, path: path.into(), source }
    }

    /// Something was read, and nobody can make anything of it.
    pub(super) fn is_of_no_use(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::InvalidData)
    }

    pub(super) fn is_not_there(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
