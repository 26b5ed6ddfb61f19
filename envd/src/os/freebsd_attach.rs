//! Linux namespaces do not exist here.

use std::os::fd::BorrowedFd;

use crate::{
    control::{Descriptors, Failure},
    wire::LinuxAttach,
};

pub(crate) fn enter(
    _: &LinuxAttach,
    _: &mut Descriptors,
    _: BorrowedFd<'_>,
) -> Result<(), Failure> {
    Err(Failure {
        step: "enter linux namespaces".into(),
        errno: None,
        message: "this envd was built for FreeBSD".into(),
    })
}

pub(crate) fn refresh_meminfo(_used: u64) {}
