//! Linux's half.

#![allow(unsafe_code)]

use std::{ffi::CStr, fs::File, mem, path::Path, ptr};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

/// The CPUs a child may run on, ready for use between fork and exec.
#[derive(Clone, Copy)]
pub(crate) struct Affinity(libc::cpu_set_t);

impl Affinity {
    /// `None` when there is nothing to restrict.
    pub(crate) fn new(cpus: &[u16]) -> Option<Self> {
        if cpus.is_empty() {
            return None;
        }
        // SAFETY: a cpu_set_t is a plain bit array, all zeroes is the empty set.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        let size = 8 * mem::size_of::<libc::cpu_set_t>();
        for cpu in cpus.iter().map(|cpu| usize::from(*cpu)).filter(|cpu| *cpu < size) {
            // SAFETY: `cpu` was just seen to be within the set.
            unsafe { libc::CPU_SET(cpu, &mut set) };
        }
        Some(Self(set))
    }

    /// Best effort: a CPU that went offline must not keep processes from starting.
    /// Async-signal-safe.
    pub(crate) fn apply(&self) {
        // SAFETY: the set is ours and of the size said.
        unsafe { libc::sched_setaffinity(0, mem::size_of_val(&self.0), &raw const self.0) };
    }
}

/// Marks every descriptor from 3 on close-on-exec. Async-signal-safe.
pub(super) fn seal_descriptors() {
    // SAFETY: takes no pointers. Where the kernel lacks it, nothing is lost: all our descriptors
    // are made close-on-exec, this is the second lock on that door.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// Nothing ignored, nothing handled. Async-signal-safe.
pub(super) fn default_signals() {
    // The kernel's sigaction, all zeroes, is the default; glibc's wrapper would skip two signals
    // that it keeps for itself, and those can come to us ignored.
    let default = [0_u64; 8];
    for signal in 1..=64 {
        // SAFETY: the kernel reads no more than its sigaction, which is smaller than `default`.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                mem::size_of::<u64>(),
            );
        }
    }
}

/// Whether one more process can be made here; tries. Async-signal-safe.
pub(super) fn room_for_a_process() -> bool {
    // SAFETY: a plain fork by system call (glibc's would run its at-fork handlers), whose child
    // does nothing but exit. The status pointer is null.
    unsafe {
        match libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) {
            0 => libc::_exit(0),
            -1 => false,
            probe => {
                libc::waitpid(probe as libc::pid_t, ptr::null_mut(), 0);
                true
            }
        }
    }
}

/// Pid 1 of a pid namespace gets the orphans anyway; elsewhere ask for them.
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    // SAFETY: takes no pointers.
    let rc = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Sessions have no name here.
pub(super) fn set_login(_name: &CStr) {}

/// What the sandbox's processes use: bytes of memory, and nanoseconds of CPU time. Not known here;
/// the gateway sends the files in which the kernel counts it.
pub(crate) fn used() -> std::io::Result<Option<(u64, u64)>> {
    Ok(None)
}

/// One malloc arena, trimmed early: a sandbox is counted in single megabytes, and by default each
/// thread that allocates gets an arena of its own that never shrinks.
pub(crate) fn lean_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointers; called before there are threads.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}

/// Opens a regular file for reading where that waits for nobody but the disk: every step of its
/// path is on the file system of the root, which is of the host's making. Any other mount may be of
/// the sandbox's, and never answer. `None` where it takes a thread that may wait, or fails.
pub(crate) fn open_at_once(path: &Path) -> Option<File> {
    // `RESOLVE_CACHED` would not even wait for the disk, but finds nothing on an overlay.
    let open = |flags| {
        let how =
            OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_NO_XDEV);
        openat2(AT_FDCWD, path, how).ok().map(File::from)
    };
    // Looked at before it is opened, which who writes to a pipe would notice.
    if !open(OFlag::O_PATH)?.metadata().ok()?.is_file() {
        return None;
    }
    open(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
}

/// Each thread may have a timer of its own.
pub(super) const FEW_TIMERS: bool = false;

/// A header and as many descriptors as go into one message (`SCM_MAX_FD`).
pub(super) const CONTROL_BYTES: usize = 2 * size_of::<libc::cmsghdr>() + 253 * size_of::<i32>();

/// After shutdown(2) nothing comes in, and what has come in is still there.
pub(super) const SHUTDOWN_KEEPS_UNREAD: bool = true;

/// By which timers know this thread.
pub(super) fn thread_id() -> libc::pid_t {
    nix::unistd::gettid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_the_roots_file_system_are_opened_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for other in
            [pipe.as_path(), dir.path(), Path::new("/proc/self/status"), Path::new("/etc/none")]
        {
            assert!(open_at_once(other).is_none(), "{}", other.display());
        }
        assert!(open_at_once(Path::new("/etc/passwd")).is_some());
    }
}
