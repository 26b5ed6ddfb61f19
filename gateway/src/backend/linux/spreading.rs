//! Keeping directories that come and go apart on disk.
//!
//! Linux: ext4 gives nobody an inode that was deleted within the last minute, and looks at each of
//! those in the group of the directory before it finds another. Where hundreds of sandboxes come
//! and go that is milliseconds for each of them. Under a directory marked as the top of a
//! hierarchy every new one is put into a group of its own.

#![allow(unsafe_code)]

use std::{fs::File, io, os::fd::AsRawFd, path::Path};

use nix::errno::Errno;
use tracing::debug;

/// `FS_TOPDIR_FL` of <linux/fs.h>; `chattr +T`.
const TOP: libc::c_int = 0x0002_0000;

/// Other file systems neither know nor need it.
pub(super) fn turn_on(directory: &Path) {
    if let Err(error) = mark(directory) {
        debug!(%error, "{} is not marked as a top directory", directory.display());
    }
}

fn mark(directory: &Path) -> io::Result<()> {
    let file = File::open(directory)?;
    let mut flags: libc::c_int = 0;
    // SAFETY: the kernel writes one number, which lives for the call.
    let got = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags) };
    Errno::result(got)?;
    if flags & TOP == 0 {
        flags |= TOP;
        // SAFETY: the kernel reads one number, which lives for the call.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags) };
        Errno::result(set)?;
    }
    Ok(())
}
