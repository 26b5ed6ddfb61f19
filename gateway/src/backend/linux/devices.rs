//! A sandbox's `/dev`: a small file system in memory with the few devices there are in it.
//!
//! The nodes are its own, and not the host's mounted into it: whoever watches one (inotify) would
//! hear of each time that anybody on the host opens it, and a lock on one would be a lock for all.
//! Nodes are made only by the host's root, and open only where it was he who mounted.

#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use envd::walls::{self, Wall};
use nix::errno::Errno;

use super::error::Call;
use crate::backend::Error;

/// By their numbers, which are as old as Linux (its `admin-guide/devices.txt`).
const DEVICES: [(&CStr, u32, u32); 6] = [
    (c"null", 1, 3),
    (c"zero", 1, 5),
    (c"full", 1, 7),
    (c"random", 1, 8),
    (c"urandom", 1, 9),
    (c"tty", 5, 0),
];

/// A mount for whoever holds the descriptor, all in it owned by the user with that id.
pub(super) fn mount(owner: u32) -> Result<OwnedFd, Error> {
    let owner = if walls::is_down(Wall::Ids) { 0 } else { owner };
    let mount = file_system(owner).call("make a tmpfs for", "/dev")?;
    for (name, major, minor) in DEVICES {
        make(&mount, name, libc::makedev(major, minor), owner)
            .call("mknod", name.to_string_lossy())?;
    }
    Ok(mount)
}

fn file_system(owner: u32) -> io::Result<OwnedFd> {
    // SAFETY: the string lives for the call.
    let context = descriptor(unsafe {
        libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), libc::FSOPEN_CLOEXEC)
    })?;
    let owner = std::ffi::CString::new(owner.to_string())?;
    for (key, value) in [
        (c"size", c"256k"),
        (c"nr_inodes", c"1024"),
        (c"mode", c"0755"),
        (c"uid", owner.as_c_str()),
        (c"gid", owner.as_c_str()),
    ] {
        configure(&context, libc::FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())?;
    }
    configure(&context, libc::FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
    let (flags, attributes) = (libc::FSMOUNT_CLOEXEC, libc::MOUNT_ATTR_NOSUID);
    // SAFETY: no memory is passed.
    descriptor(unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), flags, attributes as libc::c_uint)
    })
}

fn configure(
    context: &OwnedFd,
    command: libc::c_uint,
    key: *const libc::c_char,
    value: *const libc::c_char,
) -> io::Result<()> {
    // SAFETY: both are strings that live for the call, or null where the command takes none.
    let configured =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
    Ok(Errno::result(configured).map(drop)?)
}

/// Of a node it is the kernel's and not the umask's business who may use it.
fn make(mount: &OwnedFd, name: &CStr, device: libc::dev_t, owner: u32) -> io::Result<()> {
    let at = mount.as_raw_fd();
    // SAFETY: in all three the name lives for the call, and no other memory is passed.
    unsafe {
        Errno::result(libc::mknodat(at, name.as_ptr(), libc::S_IFCHR | 0o666, device))?;
        Errno::result(libc::fchmodat(at, name.as_ptr(), 0o666, 0))?;
        Errno::result(libc::fchownat(at, name.as_ptr(), owner, owner, 0))?;
    }
    Ok(())
}

fn descriptor(made: libc::c_long) -> io::Result<OwnedFd> {
    let fd = Errno::result(made)?;
    // SAFETY: the kernel has just made this descriptor for us alone; descriptors fit an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
