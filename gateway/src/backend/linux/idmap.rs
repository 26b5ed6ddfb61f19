//! Detached mounts whose owners are shifted into a sandbox's user namespace.

#![allow(unsafe_code)]

use std::{
    ffi::CString,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::errno::Errno;

use super::error::Call;
use crate::backend::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

/// A copy of the mount at `path` for whoever holds the descriptor; what root owns on disk is
/// owned by the namespace's root there. Setuid files stay so: the sandbox's own sudo is one.
pub(super) fn mount(
    path: &Path,
    user_namespace: BorrowedFd<'_>,
    access: Access,
) -> Result<OwnedFd, Error> {
    let text = CString::new(path.as_os_str().as_bytes())
        .map_err(std::io::Error::from)
        .call("open_tree", path.display())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the string lives for the call, which touches no other memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, text.as_ptr(), flags) };
    let fd = Errno::result(fd).call("open_tree", path.display())?;
    // SAFETY: the kernel has just made this descriptor for us alone; descriptors fit an i32.
    let tree = unsafe { OwnedFd::from_raw_fd(fd as i32) };

    let read_only = match access {
        Access::ReadOnly => libc::MOUNT_ATTR_RDONLY,
        Access::ReadWrite => 0,
    };
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | read_only,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.as_raw_fd() as u64,
    };
    // SAFETY: the structure lives for the call and its size is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    Errno::result(result).call("mount_setattr (idmap)", path.display())?;
    Ok(tree)
}
