//! Systems that are not FreeBSD have none of it.

use std::{ffi::CStr, io};

use super::Rctl;
use crate::options::Options;

fn not_here<T>() -> io::Result<T> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

pub(crate) fn rctl(_: Rctl, _: &CStr, _: &mut [u8]) -> io::Result<()> {
    not_here()
}

pub(crate) fn jail_set(_: &mut Options, _: i32) -> io::Result<i32> {
    not_here()
}

pub(crate) fn jail_get(_: &mut Options, _: i32) -> io::Result<i32> {
    not_here()
}

pub(crate) fn jail_attach(_: i32) -> io::Result<()> {
    not_here()
}

pub(crate) fn jail_remove(_: i32) -> io::Result<()> {
    not_here()
}

pub(crate) fn nmount(_: &mut Options, _: i32) -> io::Result<()> {
    not_here()
}

pub(crate) fn unmount(_: &CStr, _: i32) -> io::Result<()> {
    not_here()
}

pub(crate) fn getfsstat(_: Option<&mut [u8]>, _: i32) -> io::Result<usize> {
    not_here()
}

pub(crate) fn statfs(_: &CStr, _: &mut [u8]) -> io::Result<()> {
    not_here()
}

pub(crate) fn sysctl(_: &[i32], _: Option<&mut [u8]>) -> io::Result<usize> {
    not_here()
}

pub(crate) fn sysctl_by_name(_: &CStr, _: Option<&mut [u8]>) -> io::Result<usize> {
    not_here()
}
