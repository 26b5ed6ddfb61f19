//! Roots that are clones of a template's snapshot, where the data directory is on ZFS.

use std::path::Path;

use crate::{
    backend::{Error, Settings},
    sandbox::SandboxId,
};

/// The datasets of one data directory. All of it blocks.
pub(super) struct Zfs;

impl Zfs {
    /// `None` where the data directory is not on ZFS.
    pub(super) fn detect(_settings: &Settings) -> Result<Option<Self>, Error> {
        Ok(None)
    }

    /// Whether a template's layer has a snapshot to clone; a thin root is made of it otherwise.
    pub(super) fn has(&self, _layer: &Path) -> bool {
        false
    }

    /// The dataset of a sandbox, whether it is there or not.
    pub(super) fn dataset(&self, _id: SandboxId) -> String {
        String::new()
    }

    /// Clones a layer's snapshot to [`Zfs::dataset`] of `id`, which is mounted by the caller with
    /// nmount(2).
    pub(super) fn clone_layer(&self, _layer: &Path, _id: SandboxId) -> Result<(), Error> {
        Err(Error::Unsupported("clones are not there yet".to_owned()))
    }

    /// Destroys a sandbox's dataset, which is not mounted any more. Idempotent.
    pub(super) fn destroy(&self, _id: SandboxId) -> Result<(), Error> {
        Ok(())
    }

    /// The sandboxes that have a dataset.
    pub(super) fn list(&self) -> Result<Vec<SandboxId>, Error> {
        Ok(Vec::new())
    }
}
