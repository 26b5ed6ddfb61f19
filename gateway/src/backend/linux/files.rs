//! What a copy of a tree asks of the system in its own way: see `backend::copy`.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    fs::File,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat},
    sys::{
        stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, mknodat},
        statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, XFS_SUPER_MAGIC, fstatfs},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, fchownat, symlinkat},
};

use super::error::Call;
use crate::backend::{
    Error,
    copy::walk::{Entry, kind, shown},
};

/// A directory is read without a trace.
pub(in crate::backend) const READING: OFlag = OFlag::O_NOATIME;

/// What it fails with when a name has come to stand for something else since it was read.
pub(in crate::backend) const PASSING: [Errno; 5] =
    [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP, Errno::ESTALE, Errno::ENXIO];

/// A layer is the upper directory of an overlay: there is nothing mounted in it.
pub(in crate::backend) const LEAVES_MOUNTS_OUT: bool = false;

/// Whether there are file systems on which files share blocks: ioctl_ficlone(2).
pub(in crate::backend) const SHARES_BLOCKS: bool = true;

/// The kernel's bounds: xattr(7).
const MOST_NAMES: usize = 64 << 10;
const LONGEST_VALUE: usize = 64 << 10;

/// Opens a file, whatever has taken its place: a file is opened, and nothing else.
pub(in crate::backend) fn open_file(parent: BorrowedFd, name: &CStr) -> Result<File, Error> {
    let held = hold(parent, name).call("open", shown(name))?;
    let found = fstat(&held).call("stat", shown(name))?;
    if kind(&found) != SFlag::S_IFREG {
        return Err(Errno::ENOENT).call("open the file", shown(name));
    }
    // By the name of the descriptor; nothing is looked up again.
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOATIME | libc::O_NONBLOCK);
    options.open(format!("/proc/self/fd/{}", held.as_raw_fd())).call("open", shown(name))
}

/// Whatever it is, without a look into it.
fn hold(parent: impl AsFd, name: &CStr) -> nix::Result<OwnedFd> {
    openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// File systems on which whoever writes to a page by mmap(2) is taken note of, the first time after
/// each time that it was written out: their `page_mkwrite` sets the times (`file_update_time`).
///
/// tmpfs has none, and never writes out: there the times are set when a process first writes to a
/// page, and not again for as long as it has it mapped (`fault_dirty_shared_page`, mm/memory.c).
const NOTING: [FsType; 3] = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];

/// Whether what has changed of a file can be told by its ctime, on the file system of `tree`.
pub(in crate::backend) fn tells_changes(tree: &File) -> Result<bool, Error> {
    let kind = fstatfs(tree).call("statfs", "the layer")?.filesystem_type();
    Ok(NOTING.contains(&kind))
}

/// Before a file is copied that may be written to meanwhile: has the kernel take note of whoever
/// writes to it by mmap(2) from now on; false where it will not. It does only when a page is first
/// written to, which one that is dirty was before: so those are written out, which makes them
/// read-only (`folio_clear_dirty_for_io`, mm/page-writeback.c). With DAX there are no such pages,
/// and what there is of them is not made read-only unless the disk is waited for
/// (`dax_writeback_mapping_range`, fs/dax.c).
pub(in crate::backend) fn watch_pages(file: &File) -> Result<bool, Error> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: no memory is passed.
    let written = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
    Ok(written == 0 && !has_dax(file)?)
}

fn has_dax(file: &File) -> Result<bool, Error> {
    let mut found = MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path ends with a null, and the kernel writes one such structure.
    let asked = Errno::result(unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, 0, found.as_mut_ptr())
    });
    asked.call("statx", "a file of the layer")?;
    // SAFETY: it succeeded, so all of it is written.
    let found = unsafe { found.assume_init() };
    Ok(found.stx_attributes & libc::STATX_ATTR_DAX as u64 != 0)
}

/// When a file that was copied so has changed: it was taken note of.
pub(in crate::backend) fn changed(entry: &Entry) -> Result<TimeSpec, Error> {
    Ok(TimeSpec::new(entry.stat.st_ctime, entry.stat.st_ctime_nsec))
}

/// By how much the clocks of file systems may differ (seconds): there is one only.
pub(in crate::backend) const CLOCKS_DIFFER: i64 = 0;

/// Has `to` share the blocks of `from`; false where the file system does not.
pub(in crate::backend) fn share(from: &File, to: &File) -> nix::Result<bool> {
    // SAFETY: two descriptors, and no memory of ours.
    match Errno::result(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) }) {
        Ok(_) => Ok(true),
        Err(Errno::EOPNOTSUPP | Errno::EXDEV | Errno::EINVAL | Errno::ENOTTY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Copies without us; `None` where that is not to be had.
pub(in crate::backend) fn copy_range(
    from: &File,
    to: &File,
    at: u64,
    length: u64,
) -> nix::Result<Option<u64>> {
    let (mut read, mut write) = (at as libc::off64_t, at as libc::off64_t);
    // SAFETY: both offsets live for the call.
    let copied = Errno::result(unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            &raw mut read,
            to.as_raw_fd(),
            &raw mut write,
            length as usize,
            0,
        )
    });
    match copied {
        Ok(copied) => Ok(Some(copied as u64)),
        Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Makes what is neither a file nor a directory, and says whether it did. A device can only be a
/// whiteout.
pub(in crate::backend) fn special(above: BorrowedFd, entry: &Entry) -> Result<bool, Error> {
    let (name, stat) = (entry.name, &entry.stat);
    let held = hold(entry.parent, name).call("open", shown(name))?;
    match kind(stat) {
        SFlag::S_IFLNK => {
            let to = readlinkat(&held, "").call("readlink", shown(name))?;
            symlinkat(to.as_os_str(), above, name).call("symlink", shown(name))?;
        }
        SFlag::S_IFCHR if stat.st_rdev != 0 => {
            return Err(Error::Unfit(format!("{} is a device", shown(name))));
        }
        kind @ (SFlag::S_IFCHR | SFlag::S_IFIFO | SFlag::S_IFSOCK) => {
            let mode = Mode::from_bits_truncate(stat.st_mode);
            mknodat(above, name, kind, mode, 0).call("mknod", shown(name))?;
        }
        _ => return Err(Error::Unfit(format!("{} is of no known kind", shown(name)))),
    }
    let made = hold(above, name).call("open the copy of", shown(name))?;
    describe_held(&held, &made, stat)?;
    Ok(true)
}

fn describe_held(from: &OwnedFd, to: &OwnedFd, stat: &FileStat) -> Result<(), Error> {
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let flag = AtFlags::AT_EMPTY_PATH;
    fchownat(to, c"", Some(owner), Some(group), flag).call("chown", "a copied file")?;
    // Linux: a symbolic link has none.
    if kind(stat) != SFlag::S_IFLNK {
        let mode = Mode::from_bits_truncate(stat.st_mode);
        let path = format!("/proc/self/fd/{}", to.as_raw_fd());
        let flag = FchmodatFlags::FollowSymlink;
        fchmodat(AT_FDCWD, &*path, mode, flag).call("chmod", "a copied file")?;
    }
    attributes(from.as_fd(), to.as_fd())
}

/// All that root may read, but labels that the host's own security gives its files. By the names
/// of descriptors, so that what was opened without being looked into has them too, a symbolic link
/// for one.
pub(in crate::backend) fn attributes(from: BorrowedFd, to: BorrowedFd) -> Result<(), Error> {
    let name = |fd: BorrowedFd| {
        CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
    };
    let (source, target) = (name(from), name(to));
    let mut names = vec![0_u8; 1 << 10];
    let names = loop {
        // SAFETY: the buffer is as long as is said.
        match Errno::result(unsafe {
            libc::listxattr(source.as_ptr(), names.as_mut_ptr().cast(), names.len())
        }) {
            Ok(length) => break &names[..length as usize],
            Err(Errno::ERANGE) if names.len() < MOST_NAMES => names.resize(MOST_NAMES, 0),
            Err(Errno::EOPNOTSUPP) => return Ok(()),
            Err(errno) => return Err(errno).call("listxattr", "a file of the layer"),
        }
    };
    let mut value = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if is_the_hosts(name) {
            continue;
        }
        value.resize(LONGEST_VALUE, 0_u8);
        // SAFETY: the strings end with a null, and the buffer is as long as is said.
        let read = Errno::result(unsafe {
            libc::getxattr(source.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        });
        let length = match read {
            Ok(length) => length as usize,
            // Removed meanwhile.
            Err(Errno::ENODATA) => continue,
            Err(errno) => return Err(errno).call("getxattr", name.to_string_lossy()),
        };
        // SAFETY: as above.
        Errno::result(unsafe {
            libc::setxattr(target.as_ptr(), name.as_ptr(), value.as_ptr().cast(), length, 0)
        })
        .call("setxattr", name.to_string_lossy())?;
    }
    Ok(())
}

fn is_the_hosts(name: &CStr) -> bool {
    let name = name.to_bytes();
    name.starts_with(b"security.") && name != b"security.capability"
}

#[cfg(test)]
pub(super) mod tests {
    use std::{os::unix::ffi::OsStrExt, path::Path, ptr, slice};

    use super::*;

    /// Names and values, in order.
    pub(in crate::backend) fn xattrs(path: &CStr) -> Vec<String> {
        let mut names = vec![0_u8; MOST_NAMES];
        // SAFETY: the buffer is as long as is said.
        let length = Errno::result(unsafe {
            libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len())
        });
        let names = &names[..length.unwrap() as usize];
        let mut found: Vec<String> = names
            .split_inclusive(|byte| *byte == 0)
            .map(|name| {
                let name = CStr::from_bytes_with_nul(name).unwrap();
                let mut value = vec![0_u8; LONGEST_VALUE];
                // SAFETY: as above.
                let length = Errno::result(unsafe {
                    let (to, size) = (value.as_mut_ptr().cast(), value.len());
                    libc::getxattr(path.as_ptr(), name.as_ptr(), to, size)
                });
                value.truncate(length.unwrap() as usize);
                format!("{}={value:?}", name.to_string_lossy())
            })
            .collect();
        found.sort();
        found
    }

    pub(in crate::backend) fn set_xattr(path: &Path, name: &CStr, value: &[u8]) {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the strings end with a null, and the value is as long as is said.
        let set = Errno::result(unsafe {
            let (value, size) = (value.as_ptr().cast(), value.len());
            libc::lsetxattr(path.as_ptr(), name.as_ptr(), value, size, 0)
        });
        set.unwrap();
    }

    /// A file in memory, as others have it in theirs.
    pub(in crate::backend) struct Mapping {
        at: *mut u8,
        size: usize,
    }

    impl Mapping {
        pub(in crate::backend) fn new(file: &File, size: usize) -> Self {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: anywhere, and nobody else has it.
            let at = unsafe {
                libc::mmap(ptr::null_mut(), size, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
            };
            assert_ne!(at, libc::MAP_FAILED);
            Self { at: at.cast(), size }
        }

        pub(in crate::backend) fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: mapped for as long as this lives, and so long.
            unsafe { slice::from_raw_parts_mut(self.at, self.size) }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: what was mapped, once.
            unsafe { libc::munmap(self.at.cast(), self.size) };
        }
    }
}
