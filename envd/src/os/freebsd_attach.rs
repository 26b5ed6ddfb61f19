//! FreeBSD: from the host into the jail.

#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use nix::{errno::Errno, unistd::chdir};

use crate::{
    control::{Descriptors, Failure},
    wire::Attach,
};

pub(crate) fn enter(
    attach: &Attach,
    _: &mut Descriptors,
    _: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let Attach::Jail(spec) = attach else {
        return Err(Failure {
            step: "enter Linux namespaces".into(),
            errno: None,
            message: "this envd was built for FreeBSD".into(),
        });
    };
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::jail_attach(spec.jid) })
        .map_err(|errno| Failure::new(format!("jail_attach({})", spec.jid), &errno.into()))?;
    chdir("/").map_err(|errno| Failure::new("chdir(\"/\")", &errno.into()))
}

pub(crate) fn refresh_meminfo(_used: u64) {}
