//! Making it cheap for a process to join a cgroup, as every command in a sandbox does.
//!
//! Linux: a move between cgroups waits for an RCU grace period, ten milliseconds here, unless the
//! v2 hierarchy is mounted with `favordynmods` (Linux 6.0), which holds for v1 as well and makes
//! every fork on the host dearer by next to nothing: 0.1 ms.

#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use tracing::warn;

use super::{
    error::Call,
    mountinfo::{self, Mount},
    slot::RUN,
};
use crate::backend::Error;

const OPTION: &str = "favordynmods";

/// Says that it was us who turned it on.
fn remembered() -> PathBuf {
    Path::new(RUN).join(OPTION)
}

/// Whether it is on; `None` without a v2 hierarchy.
pub(super) fn is_cheap() -> Option<bool> {
    Some(has_option(&v2()?))
}

fn v2() -> Option<Mount> {
    let mounts = mountinfo::parse(&fs::read_to_string("/proc/self/mountinfo").ok()?);
    mounts.into_iter().find(|mount| mount.kind == "cgroup2")
}

fn has_option(mount: &Mount) -> bool {
    mount.options.iter().any(|option| option == OPTION)
}

/// Where it cannot be done all works, slower.
pub(super) fn turn_on() -> Result<(), Error> {
    let Some(mount) = v2().filter(|mount| !has_option(mount)) else { return Ok(()) };
    let options = mount.options.iter().map(String::as_str).chain([OPTION]);
    match reconfigure(&mount.point, options) {
        Ok(()) => {
            let path = remembered();
            fs::write(&path, "").call("write", path.display())
        }
        Err(error) => {
            warn!(%error, mount = %mount.point.display(), "{OPTION} is not to be had: a command's start takes longer");
            Ok(())
        }
    }
}

/// Only what we turned on is turned off.
pub(super) fn restore() -> Result<(), Error> {
    let path = remembered();
    if !path.exists() {
        return Ok(());
    }
    if let Some(mount) = v2().filter(has_option) {
        let options = mount.options.iter().map(String::as_str).filter(|has| *has != OPTION);
        reconfigure(&mount.point, options).call("reconfigure", mount.point.display())?;
    }
    fs::remove_file(&path).call("unlink", path.display())
}

/// Sets all the options of a mounted hierarchy: those not named are off then.
fn reconfigure<'a>(point: &Path, options: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let path = CString::new(point.as_os_str().as_bytes())?;
    let flags = libc::FSPICK_CLOEXEC;
    // SAFETY: the string lives for the call, which touches no other memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_fspick, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor for us alone; descriptors fit an i32.
    let context = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    for option in options.filter(|option| !matches!(*option, "rw" | "ro")) {
        configure(&context, libc::FSCONFIG_SET_FLAG, Some(&CString::new(option)?))?;
    }
    configure(&context, libc::FSCONFIG_CMD_RECONFIGURE, None)
}

fn configure(context: &OwnedFd, command: libc::c_uint, key: Option<&CString>) -> io::Result<()> {
    let key = key.map_or(std::ptr::null(), |key| key.as_ptr());
    let value = std::ptr::null::<libc::c_char>();
    // SAFETY: the key lives for the call; these commands take no value.
    let result =
        unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
    Ok(Errno::result(result).map(drop)?)
}
