//! Watching and ending a sandbox's first process, by pidfd.

#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Instant,
};

use nix::errno::Errno;
use tokio::io::{Interest, unix::AsyncFd};
use tokio_util::sync::CancellationToken;

/// The first process of the pid namespace among `candidates`, pids of this namespace.
///
/// # Errors
/// When one cannot be looked at: then nobody knows that there is none.
pub(super) fn first_of(
    candidates: impl Fn() -> io::Result<Vec<i32>>,
) -> io::Result<Option<OwnedFd>> {
    for pid in candidates()? {
        if !is_first(pid)? {
            continue;
        }
        let pidfd = match open(pid) {
            Err(Errno::ESRCH) => continue,
            pidfd => pidfd?,
        };
        // The number may have passed to a stranger before we held on to it.
        if candidates()?.contains(&pid) {
            return Ok(Some(pidfd));
        }
    }
    Ok(None)
}

/// Whether `pid` is 1 in the pid namespace just below ours.
fn is_first(pid: i32) -> io::Result<bool> {
    let status = match fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => status,
        Err(error) if is_gone(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    Ok(ids.is_some_and(|pids| pids.split_whitespace().nth(1) == Some("1")))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

pub(super) fn open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us alone; descriptors fit an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// SIGKILL. For a first process that means all of its namespace.
pub(super) fn kill(pidfd: &OwnedFd) {
    let (fd, signal) = (pidfd.as_raw_fd(), libc::SIGKILL);
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is passed; the process may be gone already, which is as well.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
}

/// Whether the process has ended by `deadline`; reaps it if it is our own child. Blocks.
pub(super) fn wait(pidfd: &OwnedFd, deadline: Instant) -> bool {
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let left = libc::c_int::try_from(left).unwrap_or(libc::c_int::MAX);
        // SAFETY: one entry, which lives for the call.
        match Errno::result(unsafe { libc::poll(&raw mut poll, 1, left) }) {
            Err(Errno::EINTR) => {}
            Ok(1) => break,
            _ => return false,
        }
    }
    reap(pidfd);
    true
}

/// The root directory of a process; `None` when it has ended.
pub(super) fn root_of(pidfd: &OwnedFd) -> io::Result<Option<File>> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    let Some(pid) = pid.filter(|pid| *pid > 0) else { return Ok(None) };
    let root = match File::open(format!("/proc/{pid}/root")) {
        Ok(root) => root,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    // While the process is there the number is its own.
    let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives for the call.
    let ended = Errno::result(unsafe { libc::poll(&raw mut poll, 1, 0) })?;
    Ok((ended == 0).then_some(root))
}

/// Cancels `ended` when the process has ended. Must be called within a runtime.
pub(super) fn watch(pidfd: OwnedFd, ended: CancellationToken) -> io::Result<()> {
    // SAFETY: the AsyncFd owns the descriptor, so it stays open and the same for as long.
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
    tokio::spawn(async move {
        // An error here means that the process can no longer be watched: as good as gone.
        let _ = pidfd.readable().await;
        reap(pidfd.get_ref());
        ended.cancel();
    });
    Ok(())
}

/// A child of an earlier gateway is reaped by the host's init instead.
fn reap(pidfd: &OwnedFd) {
    let flags = libc::WEXITED | libc::WNOHANG;
    // SAFETY: a null pointer says that nobody wants the status.
    unsafe {
        libc::waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, std::ptr::null_mut(), flags);
    }
}
