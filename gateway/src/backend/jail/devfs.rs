//! Having the kernel know our devfs ruleset: the ioctls of devfs(8) on `/dev`.

#![allow(unsafe_code)]

use std::{fs::File, io, os::fd::AsRawFd, ptr};

use rctl_sys::abi::{DEVFSIO_RADD, DEVFSIO_RDEL, DEVFSIO_RGETNEXT};

use super::{
    devfs_rules::{RULESET, Rule, rules},
    error::Call,
};
use crate::backend::Error;

const DEV: &str = "/dev";

/// More than any ruleset of ours has, so that reading one ends.
const MOST: usize = 1000;
/// Another gateway may be making it at the same time.
const ATTEMPTS: usize = 5;

/// Makes the ruleset, once at start. Idempotent; blocks. It stays when the gateway ends: mounts
/// depend on it.
pub(super) fn prepare() -> Result<(), Error> {
    let dev = File::open(DEV).call("open", DEV)?;
    for _ in 0..ATTEMPTS {
        let found = read(&dev)?;
        if found == rules() {
            return Ok(());
        }
        // Of another version, or made by half.
        for rule in &found {
            let mut id = rule.id();
            let deleted = ask(&dev, DEVFSIO_RDEL, &mut id);
            ignore(libc::ENOENT, deleted).call("ioctl DEVFSIO_RDEL", name(rule))?;
        }
        for mut rule in rules() {
            let added = ask(&dev, DEVFSIO_RADD, &mut rule);
            ignore(libc::EEXIST, added).call("ioctl DEVFSIO_RADD", name(&rule))?;
        }
    }
    let source = io::Error::other("its rules are not those that were just added");
    Err(source).call("make devfs ruleset", RULESET)
}

/// The number of the ruleset: `devfs_ruleset` of a jail and `ruleset` of its devfs.
pub(super) fn ruleset() -> u16 {
    RULESET
}

/// Whether it is as it should be. Reads only.
pub(super) fn is_there() -> Result<bool, Error> {
    Ok(read(&File::open(DEV).call("open", DEV)?)? == rules())
}

fn read(dev: &File) -> Result<Vec<Rule>, Error> {
    let mut found: Vec<Rule> = Vec::new();
    while found.len() < MOST {
        let mut next = Rule::after(found.last().map_or(0, Rule::number));
        match ask(dev, DEVFSIO_RGETNEXT, &mut next) {
            Ok(()) => found.push(next),
            // No more, or no such ruleset.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => break,
            Err(error) => return Err(error).call("ioctl DEVFSIO_RGETNEXT", name(&next)),
        }
    }
    Ok(found)
}

fn name(rule: &Rule) -> String {
    format!("{DEV} ruleset {RULESET} rule {}", rule.number())
}

fn ignore(errno: i32, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        result => result,
    }
}

fn ask<T>(dev: &File, number: u64, request: &mut T) -> io::Result<()> {
    // SAFETY: the request's number has the size of `T` in it, and no more is read or written;
    // there is no pointer in it.
    let answer = unsafe { libc::ioctl(dev.as_raw_fd(), number, ptr::from_mut(request)) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
