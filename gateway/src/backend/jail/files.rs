//! What a copy of a tree asks of the system in its own way: see `backend::copy`.
//!
//! Left out are file flags, chflags(2), as root in a sandbox could not take `schg` off; access
//! control lists; what is mounted in the tree; sockets and devices; and the attributes of what is
//! neither a file nor a directory, since no call reads them but by a path.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    fs::File,
    os::{
        fd::{AsRawFd, BorrowedFd},
        raw::{c_int, c_void},
    },
    ptr,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::{
        stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchownat, mkfifoat, symlinkat},
};

use super::error::Call;
use crate::backend::{
    Error,
    copy::walk::{Entry, kind, shown},
};

/// FreeBSD has no `O_NOATIME`: open(2).
pub(in crate::backend) const READING: OFlag = OFlag::empty();

/// What open(2) and others fail with when a name has come to stand for something else since it was
/// read: `EMLINK` for a symbolic link with `O_NOFOLLOW`, `EOPNOTSUPP` for a socket (`vn_open_vnode`,
/// sys/kern/vfs_vnops.c).
pub(in crate::backend) const PASSING: [Errno; 7] = [
    Errno::ENOENT,
    Errno::ENOTDIR,
    Errno::EMLINK,
    Errno::ELOOP,
    Errno::ESTALE,
    Errno::ENXIO,
    Errno::EOPNOTSUPP,
];

/// A thin root has the template's directories mounted in it.
pub(in crate::backend) const LEAVES_MOUNTS_OUT: bool = true;

/// Where it is to be had, copies are snapshots.
pub(in crate::backend) const SHARES_BLOCKS: bool = false;

/// UFS tells the time as `vfs.timestamp_precision` says, ZFS to a tick of the clock (seconds).
pub(in crate::backend) const CLOCKS_DIFFER: i64 = 1;

/// Those of its user; others are the system's own, such as access control lists.
const NAMESPACE: c_int = libc::EXTATTR_NAMESPACE_USER;
/// ZFS has no bounds.
const MOST_NAMES: usize = 64 << 10;
const LONGEST_VALUE: usize = 64 << 10;

/// Opens a file, whatever has taken its place: a file is opened, and nothing else. A pipe does not
/// block; devices there are none outside of devfs(5), which is another file system and was not
/// entered.
pub(in crate::backend) fn open_file(parent: BorrowedFd, name: &CStr) -> Result<File, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty()).call("open", shown(name))?;
    let found = fstat(&file).call("stat", shown(name))?;
    if kind(&found) != SFlag::S_IFREG {
        return Err(Errno::ENOENT).call("open the file", shown(name));
    }
    Ok(file.into())
}

/// Before a file is copied that may be written to meanwhile: what somebody has written to it by
/// mmap(2) becomes a write like any other, which changes its ctime, and a later one is taken note
/// of anew. So fdatasync(2) has it (`vm_object_page_clean` in `kern_fsync`,
/// sys/kern/vfs_syscalls.c; tmpfs: `tmpfs_fsync`).
pub(in crate::backend) fn watch_pages(file: &File) -> Result<bool, Error> {
    file.sync_data().call("fdatasync", "a file of the layer")?;
    Ok(true)
}

/// Whether what has changed of a file can be told by its ctime: by the above, everywhere.
pub(in crate::backend) fn tells_changes(_tree: &File) -> Result<bool, Error> {
    Ok(true)
}

/// When a file that was copied so has changed, by mmap(2) too.
pub(in crate::backend) fn changed(entry: &Entry) -> Result<TimeSpec, Error> {
    let file = open_file(entry.parent, entry.name)?;
    watch_pages(&file)?;
    let stat = fstat(&file).call("stat", shown(entry.name))?;
    Ok(TimeSpec::new(stat.st_ctime, stat.st_ctime_nsec))
}

pub(in crate::backend) fn share(_from: &File, _to: &File) -> nix::Result<bool> {
    Ok(false)
}

/// Not by copy_file_range(2): on ZFS it shares blocks, and did so wrongly in 14.0
/// (FreeBSD-EN-23:16.openzfs).
pub(in crate::backend) fn copy_range(
    _from: &File,
    _to: &File,
    _at: u64,
    _length: u64,
) -> nix::Result<Option<u64>> {
    Ok(None)
}

/// Makes what is neither a file nor a directory, and says whether it did.
pub(in crate::backend) fn special(above: BorrowedFd, entry: &Entry) -> Result<bool, Error> {
    let (name, stat) = (entry.name, &entry.stat);
    let flag = AtFlags::AT_SYMLINK_NOFOLLOW;
    let own = || {
        let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        fchownat(above, name, Some(owner), Some(group), flag).call("chown", shown(name))
    };
    match kind(stat) {
        SFlag::S_IFLNK => {
            let to = readlinkat(entry.parent, name).call("readlink", shown(name))?;
            symlinkat(to.as_os_str(), above, name).call("symlink", shown(name))?;
            own()?;
        }
        SFlag::S_IFIFO => {
            mkfifoat(above, name, Mode::from_bits_truncate(0o600)).call("mkfifo", shown(name))?;
            own()?;
            let mode = Mode::from_bits_truncate(stat.st_mode);
            let flag = FchmodatFlags::NoFollowSymlink;
            fchmodat(above, name, mode, flag).call("chmod", shown(name))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Copies extended attributes, extattr(2), of what is open.
pub(in crate::backend) fn attributes(from: BorrowedFd, to: BorrowedFd) -> Result<(), Error> {
    let names = match read(MOST_NAMES, |at, size| {
        // SAFETY: the buffer is as long as is said, or there is none.
        unsafe { libc::extattr_list_fd(from.as_raw_fd(), NAMESPACE, at, size) }
    }) {
        Ok(names) => names,
        // A file system without them has none to copy.
        Err(Errno::EOPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno).call("extattr_list_fd", "a file of the layer"),
    };
    let mut names = names.as_slice();
    // Each with its length before it.
    while let [length, rest @ ..] = names {
        let Some((name, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        names = rest;
        let Ok(name) = CString::new(name) else { continue };
        let value = match read(LONGEST_VALUE, |at, size| {
            // SAFETY: as above, and the name ends with a null.
            unsafe { libc::extattr_get_fd(from.as_raw_fd(), NAMESPACE, name.as_ptr(), at, size) }
        }) {
            Ok(value) => value,
            // Removed meanwhile.
            Err(Errno::ENOATTR) => continue,
            Err(errno) => {
                return Err(errno).call("extattr_get_fd", name.to_string_lossy());
            }
        };
        // SAFETY: the name ends with a null, and the value is as long as is said.
        Errno::result(unsafe {
            let (value, size) = (value.as_ptr().cast(), value.len());
            libc::extattr_set_fd(to.as_raw_fd(), NAMESPACE, name.as_ptr(), value, size)
        })
        .call("extattr_set_fd", name.to_string_lossy())?;
    }
    Ok(())
}

/// What a call says that is asked for the size first, but no more than `most`: E2BIG.
fn read(most: usize, call: impl Fn(*mut c_void, usize) -> libc::ssize_t) -> nix::Result<Vec<u8>> {
    let size = Errno::result(call(ptr::null_mut(), 0))?.unsigned_abs();
    if size > most {
        return Err(Errno::E2BIG);
    }
    let mut found = vec![0; size];
    if size > 0 {
        let length = Errno::result(call(found.as_mut_ptr().cast(), size))?.unsigned_abs();
        found.truncate(length);
    }
    Ok(found)
}
