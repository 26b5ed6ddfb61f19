//! A sandbox's envd, by number: watching it, and finding it again after a restart.
//!
//! The number alone may become another's, so it is kept with the time at which the process started,
//! in a file of the sandbox's directory, and believed only as far as the kernel agrees.

#![allow(unsafe_code)]

use std::{
    fs, io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    ptr,
    sync::Arc,
    time::Duration,
};

use nix::errno::Errno;
use rctl_sys::{
    jail::Jid,
    process::{self, Identity, State},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use super::{
    error::{Call, Kernel},
    spawn::Process,
};
use crate::backend::Error;

const FILE: &str = "envd.pid";

#[derive(Serialize, Deserialize)]
struct Noted {
    pid: i32,
    started: Duration,
}

/// Notes which process a jail's envd is, once it has answered.
pub(super) fn note(directory: &Path, jid: Jid, pid: i32) -> Result<(), Error> {
    let found = process::by_pid(pid).to("look for envd", pid)?;
    let Some(found) = found.filter(|it| it.jid == jid.raw() && it.state != State::Zombie) else {
        return Err(Error::Attach {
            step: "stay in its jail".into(),
            message: format!("pid {pid} is not in jail {jid} any more"),
        });
    };
    let path = directory.join(FILE);
    let noted = Noted { pid, started: found.started };
    let text = serde_json::to_vec(&noted).map_err(io::Error::from).call("write", path.display())?;
    fs::write(&path, text).call("write", path.display())
}

/// The envd of a jail, if it lives.
pub(super) fn find(directory: &Path, jid: Jid) -> Result<Option<Identity>, Error> {
    let path = directory.join(FILE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.call("read", path.display())?,
    };
    // Cut short when the gateway died in the middle of a create.
    let Ok(Noted { pid, started }) = serde_json::from_slice(&text) else { return Ok(None) };
    let found = process::by_pid(pid).to("look for envd", pid)?;
    let lives = found
        .filter(|it| it.jid == jid.raw() && it.started == started && it.state != State::Zombie);
    Ok(lives.map(|process| process.identity()))
}

/// Cancels `ended` when the process has ended, and `told` has been told how, as wait(2) has it;
/// `ours` is reaped then. Must be called within a runtime. False when it has ended and was reaped
/// already; one that is only not reaped yet is told of at once (`filt_procattach` in
/// sys/kern/kern_event.c).
pub(super) fn watch(
    pid: i32,
    ours: Option<Arc<Process>>,
    ended: CancellationToken,
    told: impl FnOnce(i32) + Send + 'static,
) -> io::Result<bool> {
    // SAFETY: no memory is passed.
    let queue = Errno::result(unsafe { libc::kqueue() })?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    let queue = unsafe { OwnedFd::from_raw_fd(queue) };
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut change: libc::kevent = unsafe { mem::zeroed() };
    change.ident = usize::try_from(pid).map_err(io::Error::other)?;
    change.filter = libc::EVFILT_PROC;
    change.flags = libc::EV_ADD;
    change.fflags = libc::NOTE_EXIT;
    // SAFETY: one change, which lives for the call, and no room for events.
    let rc = unsafe {
        libc::kevent(queue.as_raw_fd(), &raw const change, 1, ptr::null_mut(), 0, ptr::null())
    };
    match Errno::result(rc) {
        Err(Errno::ESRCH) => return Ok(false),
        result => result?,
    };
    // FreeBSD: a kqueue can be waited for in another: `kqueue_kqfilter` in sys/kern/kern_event.c.
    // SAFETY: the AsyncFd owns the descriptor, so it stays open and the same for as long.
    let queue = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }?;
    tokio::spawn(async move {
        // An error here means that the process can no longer be watched: as good as gone.
        let seen = queue.readable().await.is_ok();
        if let Some(status) = status_in(queue.get_ref()) {
            // Before it is reaped, while what it had is on its jail's account.
            let _ = spawn_blocking(move || told(status)).await;
        }
        ended.cancel();
        if let Some(ours) = ours.filter(|_| seen) {
            spawn_blocking(move || ours.bury());
        }
    });
    Ok(true)
}

/// How the process ended that this queue is for, if it has: `filt_proc` in sys/kern/kern_event.c.
fn status_in(queue: &OwnedFd) -> Option<i32> {
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut event: libc::kevent = unsafe { mem::zeroed() };
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: no changes, room for one event, and a time, which live for the call.
    let found = unsafe {
        libc::kevent(queue.as_raw_fd(), ptr::null(), 0, &raw mut event, 1, &raw const at_once)
    };
    let exited = found == 1 && event.fflags & libc::NOTE_EXIT != 0;
    exited.then(|| i32::try_from(event.data).ok()).flatten()
}
