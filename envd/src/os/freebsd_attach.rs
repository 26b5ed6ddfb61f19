//! FreeBSD: from the host into the jail.
//!
//! The gateway has made the jail with all that is in it and around it, and started this program on
//! the host. The order matters:
//!
//! 1. no directory is open any more, since one would lead out of the jail;
//! 2. jail_attach(2), which changes the root and the working directory as well and from which
//!    there is no way back. From here on nothing is looked up: no users, no locale, no library;
//! 3. the network, where the jail has a stack of its own.
//!
//! Whoever is root in the jail may not look into this process ([`super::become_first_process`]).

#![allow(unsafe_code)]

use std::{mem::MaybeUninit, os::fd::BorrowedFd};

use nix::{
    errno::Errno,
    sys::stat::{Mode, umask},
    unistd::chdir,
};

use crate::{
    control::{Descriptors, Failure},
    wire::Attach,
};

#[path = "freebsd_attach_network.rs"]
mod network;

/// Far above what the gateway sends; all above the control socket was closed before.
const MAX_DESCRIPTORS: libc::c_int = 256;

/// Names the step of a failed system call, with its arguments.
trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure>;
}

impl<T> Step<T> for nix::Result<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(step, &errno.into()))
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, &error))
    }
}

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
    umask(Mode::from_bits_truncate(0o022));
    refuse_directories()?;
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::jail_attach(spec.jid) })
        .step(format!("jail_attach({})", spec.jid))?;
    chdir("/").step("chdir(\"/\")")?;
    network::configure(spec.network.as_ref(), spec.only_network)
}

/// A directory that is open is a way out of any jail.
fn refuse_directories() -> Result<(), Failure> {
    for descriptor in 0..MAX_DESCRIPTORS {
        let mut found = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the kernel writes one structure, to memory that lives for the call; a number that
        // is not open is an error.
        let found = unsafe {
            if libc::fstat(descriptor, found.as_mut_ptr()) != 0 {
                continue;
            }
            found.assume_init()
        };
        if found.st_mode & libc::S_IFMT == libc::S_IFDIR {
            return Err(Failure {
                step: "look at what the gateway has left open".into(),
                errno: None,
                message: format!("descriptor {descriptor} is a directory, a way out of the jail"),
            });
        }
    }
    Ok(())
}

/// The kernel shows what there is by itself, to the jail as well.
pub(crate) fn refresh_meminfo(_used: impl FnOnce() -> Option<u64>) {}
