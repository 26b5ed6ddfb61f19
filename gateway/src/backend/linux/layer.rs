//! A writable layer when no sandbox writes to it: brought to the disk, and taken up again.
//!
//! Linux (overlayfs.rst, "Volatile mount"): ours are mounted `volatile`, so nothing that is done
//! inside writes anything out; what is in `work/incompat/volatile` then says that the layer may
//! not be mounted again, which is for whoever knows better to remove. We do: the layer was flushed
//! on the file system that holds it, or the kernel that has it in its cache still runs. What went
//! wrong between is what an overlay's own syncfs(2) tells: it writes nothing, but fails for good
//! once anything could not be written since the overlay was mounted.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use nix::unistd::syncfs;

use super::{error::Call, process};
use crate::backend::Error;

/// Where the kernel says which run of it this is: random(4).
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

pub(super) fn boot() -> Option<String> {
    let text = fs::read_to_string(BOOT).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Writes out the file system that a directory is on. Blocks, for long.
pub(super) fn flush_files(directory: &Path) -> Result<(), Error> {
    let opened = File::open(directory).call("open", directory.display())?;
    syncfs(&opened).call("syncfs", directory.display())
}

/// Whether the overlay that this process has as its root has had all of its writes taken.
pub(super) fn nothing_is_lost(first: &OwnedFd, whose: impl std::fmt::Display) -> Result<(), Error> {
    match process::root_of(first).call("open the root of", &whose)? {
        Some(root) => syncfs(&root).call("syncfs the root of", &whose),
        None => Ok(()),
    }
}

/// Has a layer that an overlay was mounted on mounted again.
pub(super) fn take_up(layer: &Path) -> Result<(), Error> {
    let marker = layer.join("work/work/incompat");
    match fs::remove_dir_all(&marker) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).call("remove", marker.display());
        }
        _ => {}
    }
    // What is not there cannot be taken up, and is not to be made anew either.
    let upper = layer.join("upper");
    fs::symlink_metadata(&upper).map(drop).call("stat", upper.display())
}
