//! A copy of a sandbox's writable layer: on btrfs, where it is a subvolume, a snapshot of it, and
//! elsewhere as `backend::copy` has it.
//!
//! The tree is as the overlay wrote it: whiteouts (character device 0, 0) and `user.overlay.*` are
//! copied as they are, so that it means the same as a layer below another one. Owners are those on
//! the disk, which each sandbox's own mount shifts into its user namespace.

use std::{fs, path::Path, time::Instant};

use tokio_util::sync::CancellationToken;

use super::{btrfs, error::Call, freezer::Freezer, layer};
use crate::backend::{
    Copied, Error,
    copy::{self, Still, UPPER},
};

/// Copies `upper` of the layer `from` to `to/upper`. Blocks. What is left at `to` on error is the
/// caller's to remove.
pub(super) fn copy(
    from: &Path,
    to: &Path,
    freezer: &Freezer,
    stop: CancellationToken,
) -> Result<Copied, Error> {
    if btrfs::is_subvolume(from)? {
        return snapshot(from, to, freezer);
    }
    let is_enough = || stop.is_cancelled();
    let still = Still { freeze: &|| freezer.freeze(), thaw: &|| freezer.thaw() };
    copy::layer(&from.join(UPPER), to, &still, &[], &is_enough)
}

fn snapshot(from: &Path, to: &Path, freezer: &Freezer) -> Result<Copied, Error> {
    // What is to be written is written within the snapshot's call, and by now is not much.
    layer::flush_files(from)?;
    freezer.freeze()?;
    let still = Instant::now();
    let copied = btrfs::snapshot(from, to);
    // Whatever came of it.
    freezer.thaw()?;
    let stood_still = still.elapsed();
    copied?;
    // The kernel's own, of the overlay that is still mounted.
    let work = to.join("work");
    fs::remove_dir_all(&work).call("remove", work.display())?;
    Ok(Copied { root: to.join(UPPER), by: "a snapshot", stood_still, whole: false })
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
