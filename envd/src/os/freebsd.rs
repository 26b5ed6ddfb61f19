//! FreeBSD's half.

#![allow(unsafe_code)]

use std::{fs::File, path::Path};

/// Nothing to do: the gateway gives the jail its cpuset.
#[derive(Clone, Copy)]
pub(crate) struct Affinity;

impl Affinity {
    pub(crate) fn new(_cpus: &[u16]) -> Option<Self> {
        None
    }

    pub(crate) fn apply(&self) {}
}

/// All our descriptors are made close-on-exec; FreeBSD before 14 cannot mark a range.
pub(super) fn seal_descriptors() {}

/// Nothing ignored, nothing handled. Async-signal-safe.
pub(super) fn default_signals() {
    for signal in 1..=126 {
        // SAFETY: no handler is installed, only the default restored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// A full jail refuses the fork itself.
pub(super) fn room_for_a_process() -> bool {
    true
}

/// A jail has no init: whoever asks first gets its orphans.
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    // SAFETY: PROC_REAP_ACQUIRE takes no argument.
    let rc =
        unsafe { libc::procctl(libc::P_PID, 0, libc::PROC_REAP_ACQUIRE, std::ptr::null_mut()) };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// jemalloc returns what is unused by itself.
pub(crate) fn lean_allocator() {}

/// There is no way to ask for it here.
pub(crate) fn open_at_once(_path: &Path) -> Option<File> {
    None
}

/// By which timers know this thread.
pub(super) fn thread_id() -> libc::lwpid_t {
    // SAFETY: no memory is passed.
    unsafe { libc::pthread_getthreadid_np() }
}
