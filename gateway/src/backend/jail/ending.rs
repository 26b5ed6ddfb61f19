//! The end of a jail's processes, and of its mounts.

#![allow(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;
use rctl_sys::{
    jail::{self, By, Flags, Jid},
    mount::{self, Mounted},
    process::{self, State},
};

use super::{
    error::{Call, Kernel},
    spawn::Process,
};
use crate::{backend::Error, sandbox::SandboxId};

/// For all processes of a sandbox to end.
const DYING: Duration = Duration::from_secs(10);

/// For what is mounted to be left by those who have just ended, before it is taken from them.
const LEAVING: Duration = Duration::from_secs(2);

/// The jail of a sandbox, even one that was removed and has something left.
pub(super) fn any_jail(id: SandboxId) -> Result<Option<Jid>, Error> {
    let name = id.cell_name();
    let found = jail::get(By::Name(&name), &[], Flags::DYING).to("look for jail", &name)?;
    Ok(found.map(|jail| jail.jid))
}

/// The jail of a sandbox that was not removed.
pub(super) fn living_jail(id: SandboxId) -> Result<Option<Jid>, Error> {
    let name = id.cell_name();
    jail::find(&name).to("look for jail", &name)
}

/// Removes the jail; when it returns nothing of it runs, and nothing can enter it. Blocks.
///
/// FreeBSD: jail_remove(2) kills what is attached to the jail, but overlooks a process that is just
/// being forked (`PRS_NEW` in `prison_deref`, sys/kern/kern_jail.c), and which no table shows either.
/// So one is looked for until there was none twice in a row.
pub(super) fn end_processes(id: SandboxId, child: Option<&Process>) -> Result<(), Error> {
    let deadline = Instant::now() + DYING;
    let mut pause = Duration::from_micros(200);
    let mut looks = 0;
    let mut none = 0;
    // Others of its name may be dying as well, from before it was shut down.
    let mut removed = None;
    loop {
        // Reaped, or its jail would not be free of it.
        if let Some(child) = child {
            child.reap();
        }
        if let Some(jid) = living_jail(id)? {
            jail::remove(jid).map(drop).to("end sandbox", id)?;
            removed = Some(jid);
        }
        let Some(dying) = any_jail(id)? else { return Ok(()) };
        let jid = removed.unwrap_or(dying);
        let left = process::in_jail(jid).to("list the processes of jail", jid)?;
        let left = left.iter().filter(|process| process.state != State::Zombie);
        let left: Vec<i32> = left.map(|process| process.pid).collect();
        none = if left.is_empty() { none + 1 } else { 0 };
        if none == 1 {
            continue;
        }
        if none > 1 {
            if let Some(child) = child {
                child.reap();
            }
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout("the end of a sandbox's processes", DYING));
        }
        // By number, and so only whom the kernel has left.
        for pid in left.into_iter().filter(|_| looks > 0) {
            send(pid, libc::SIGKILL)?;
        }
        looks += 1;
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// A signal; one who is gone is a success.
pub(super) fn send(pid: i32, signal: libc::c_int) -> Result<(), Error> {
    // SAFETY: no memory is passed.
    match Errno::result(unsafe { libc::kill(pid, signal) }) {
        Err(Errno::ESRCH) => Ok(()),
        result => result.map(drop).call("kill", format!("pid {pid}, signal {signal}")),
    }
}

/// Unmounts all below a sandbox's directory, the last first. Blocks.
///
/// By number rather than by path: what the path leads to is the sandbox's to say.
pub(super) fn unmount_all(directory: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + LEAVING;
    let mut pause = Duration::from_millis(1);
    loop {
        let mounted = mount::list_below(directory).to("list the mounts of", directory.display())?;
        if mounted.is_empty() {
            return Ok(());
        }
        let now = Instant::now();
        let force = now >= deadline;
        if now >= deadline + LEAVING {
            return Err(Error::Timeout("the end of a sandbox's mounts", 2 * LEAVING));
        }
        let mut busy = force;
        for Mounted { fsid, path, .. } in &mounted {
            match mount::unmount_fsid(*fsid, force) {
                Ok(()) => {}
                // In use, or gone in between.
                Err(error)
                    if !force
                        && matches!(
                            error.errno(),
                            Some(libc::EBUSY | libc::ENOENT | libc::EINVAL)
                        ) =>
                {
                    busy = true;
                    break;
                }
                Err(error) => return Err(error).to("unmount", path.display()),
            }
        }
        if busy {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// The names of the directories in `sandboxes` below which something is mounted.
pub(super) fn with_mounts(sandboxes: &Path) -> Result<Vec<PathBuf>, Error> {
    let all = mount::list_below(sandboxes).to("list the mounts of", sandboxes.display())?;
    let below = all.into_iter().filter_map(|mounted| {
        let rest = mounted.path.strip_prefix(sandboxes).ok()?.to_owned();
        Some(PathBuf::from(rest.components().next()?.as_os_str()))
    });
    Ok(below.collect())
}
