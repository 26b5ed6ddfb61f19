//! FreeBSD's half.

#![allow(unsafe_code)]

use std::{
    ffi::CStr,
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    ptr,
};

use nix::errno::Errno;

use super::layout;

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
    for signal in 1..=128 {
        // SAFETY: no handler is installed, only the default restored.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// A full jail refuses the fork itself.
pub(super) fn room_for_a_process() -> bool {
    true
}

/// A jail has no init: whoever asks first gets its orphans, and their ends with SIGCHLD
/// (procctl(2)).
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    // SAFETY: PROC_REAP_ACQUIRE takes no argument.
    let acquired = unsafe {
        let own = libc::id_t::from(libc::getpid().unsigned_abs());
        libc::procctl(libc::P_PID, own, libc::PROC_REAP_ACQUIRE, ptr::null_mut())
    };
    match Errno::result(acquired) {
        // It has it already.
        Ok(_) | Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The name getlogin(2) tells in this session. Best effort. Async-signal-safe.
pub(super) fn set_login(name: &CStr) {
    // SAFETY: the string lives for the call.
    unsafe { libc::setlogin(name.as_ptr()) };
}

/// More than this of the process table is not read (bytes).
const MAX_TABLE: usize = 64 << 20;

/// What the sandbox's processes use, envd not counted: bytes of memory, and nanoseconds of CPU time.
///
/// By `kern.proc`, which shows a jail its own processes only (sysctl(3), jail(8)). Its account
/// would be cheaper, but no jail may read that (`PRIV_RCTL_GET_RACCT`).
pub(crate) fn used() -> std::io::Result<Option<(u64, u64)>> {
    let name = [libc::CTL_KERN, libc::KERN_PROC, libc::KERN_PROC_PROC];
    let mut table: Vec<u8> = Vec::new();
    let length = loop {
        let mut length = table.len();
        let room = if table.is_empty() { ptr::null_mut() } else { table.as_mut_ptr().cast() };
        // SAFETY: the kernel writes at most `length` bytes to `room`, which is ours for the call.
        let asked = unsafe {
            let parts = name.len() as libc::c_uint;
            libc::sysctl(name.as_ptr(), parts, room, &raw mut length, ptr::null(), 0)
        };
        match Errno::result(asked) {
            Ok(_) if !table.is_empty() => break length,
            // What it takes just now; there may be more the next moment.
            Ok(_) => table.resize((length + 16 * layout::PROCESS).min(MAX_TABLE), 0),
            Err(Errno::ENOMEM) if table.len() < MAX_TABLE => {
                table.resize((2 * table.len()).clamp(layout::PROCESS, MAX_TABLE), 0);
            }
            Err(errno) => return Err(errno.into()),
        }
    };
    // SAFETY: no memory is passed.
    let (own, page) = unsafe { (libc::getpid(), libc::sysconf(libc::_SC_PAGESIZE)) };
    let page = u64::try_from(page).unwrap_or(4096);
    let (bytes, microseconds) = layout::used(&table[..length], own, page);
    Ok(Some((bytes, microseconds.saturating_mul(1000))))
}

/// jemalloc returns what is unused by itself.
pub(crate) fn lean_allocator() {}

/// Opens a regular file for reading where that waits for nobody but the disk. All that is mounted
/// in a jail is of the host's making: nobody in it may mount anything (`allow.mount`, jail(8)).
/// `None` where it takes a thread that may wait, or fails.
pub(crate) fn open_at_once(path: &Path) -> Option<File> {
    // Looked at before it is opened, which who writes to a pipe would notice.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
}

/// A process has 32 of them (`TIMER_MAX`, `sys/timers.h`), some of which are spoken for.
pub(super) const FEW_TIMERS: bool = true;

/// A message carries at most 2048 bytes of headers and what is in them (`MCLBYTES`, `sockargs` in
/// `sys/kern/uipc_syscalls.c`), but with a header alone, of 16, the kernel tells who has sent it, in
/// 112 (`SCM_CREDS`, `unp_internalize` in `sys/kern/uipc_usrreq.c`).
pub(super) const CONTROL_BYTES: usize = 2048 / 16 * 112;

/// shutdown(2) throws away what has not been read, and closes the descriptors in it
/// (`sorflush`, `sys/kern/uipc_socket.c`).
pub(super) const SHUTDOWN_KEEPS_UNREAD: bool = false;

/// By which timers know this thread.
pub(super) fn thread_id() -> libc::lwpid_t {
    // SAFETY: no memory is passed.
    unsafe { libc::pthread_getthreadid_np() }
}
