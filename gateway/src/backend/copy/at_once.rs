//! A copy of what nobody writes to, in one go. How much of the disk it takes is known beforehand.

use std::{ffi::CStr, fs, os::fd::OwnedFd, path::Path};

use nix::sys::stat::fstat;

use super::{
    Copying, Place,
    file::{self, Pace},
    make, open,
    walk::{walk, walk_one},
};
use crate::{
    backend::{Error, call::Call},
    sandbox::SandboxId,
};

/// Copies the entry `name` of the directory `from` into the directory `to`, where it is not yet.
/// Nobody writes to either. Blocks.
pub(in crate::backend) fn entry(from: &Path, to: &Path, name: &CStr) -> Result<(), Error> {
    let source = open(from)?;
    at_once(to, &|| false, |target, place| walk_one(source, name, target, place))
}

/// Copies what is in the directory `from` into the directory `to`, which then is as that is. Nobody
/// writes to either. Blocks.
pub(in crate::backend) fn contents(
    from: &Path,
    to: &Path,
    is_enough: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let source = open(from)?;
    at_once(to, is_enough, |target, place| walk(&source, target, &[], place))?;
    // Staging was in it since.
    let stat = fstat(&source).call("stat", from.display())?;
    file::set_times(open(to)?, file::accessed(&stat), &stat)
}

fn at_once(
    to: &Path,
    is_enough: &dyn Fn() -> bool,
    copy: impl FnOnce(OwnedFd, &mut Place) -> Result<(), Error>,
) -> Result<(), Error> {
    let staging = to.join(format!(".coppice-{}", SandboxId::random()));
    make(&staging)?;
    let mut copying = Copying::new(open(&staging)?, Pace::new(None, is_enough))?;
    copy(open(to)?.into(), &mut Place(&mut copying))?;
    fs::remove_dir_all(&staging).call("remove", staging.display())
}
