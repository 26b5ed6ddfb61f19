//! Waiting for a descriptor to be readable or writable.

#![allow(unsafe_code)]

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Within a runtime. The descriptor must not block.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd names the same open descriptor for as long as it lives, which is as long
    // as the AsyncFd.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
