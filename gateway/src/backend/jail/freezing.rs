//! Freezing and thawing a jail: the signals, the hold on forks, and the mark that outlives us.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rctl_sys::{
    jail::Jid,
    process::{self, Process},
    rctl,
    rule::{Action, Resource},
};
use tracing::error;

use super::{
    ending::{living_jail, send},
    error::{Call, Kernel},
    freeze::{self, Freezing, Mark},
    limits,
};
use crate::{backend::Error, sandbox::SandboxId};

/// For a sandbox to stand still. FreeBSD: one in vfork(2) is seen to stop within a second, and one
/// that waits for a disk when that has answered.
const STOPPING: Duration = Duration::from_secs(5);

const MARK: &str = "frozen";

/// Blocks. On error the sandbox runs on. It is given up as soon as an end is wanted: of a kill
/// nobody is to wait until all of a fork storm stands still.
pub(super) fn freeze(
    id: SandboxId,
    directory: &Path,
    end_is_wanted: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let jid = jail(id)?;
    let table = table(jid)?;
    let path = directory.join(MARK);
    // One that is there is that of a freeze that was broken off; what stands still since then is
    // our doing.
    let mark = match read(&path)? {
        Some(mark) => mark,
        None => {
            let mark = Mark::new(&table, standing_limit(id)?);
            write(directory, &mark)?;
            mark
        }
    };
    let stopped = stop(id, jid, end_is_wanted);
    let released = limits::processes(id, mark.processes)
        .and_then(|rule| rctl::add_rule(&rule).to("let go the forks of", id));
    let done = stopped.and(released);
    if done.is_err()
        && let Err(error) = thaw(id, directory)
    {
        error!(sandbox = %id, %error, "a sandbox that could not be frozen is half stopped");
    }
    done
}

fn stop(id: SandboxId, jid: Jid, end_is_wanted: &dyn Fn() -> bool) -> Result<(), Error> {
    let deadline = Instant::now() + STOPPING;
    let mut pause = Duration::from_micros(100);
    let mut freezing = Freezing::default();
    let mut held = false;
    loop {
        let next = freezing.look(&table(jid)?);
        for pid in next.stop {
            send(pid, libc::SIGSTOP)?;
        }
        for pid in next.release {
            send(pid, libc::SIGCONT)?;
        }
        if next.done {
            return Ok(());
        }
        if next.hold && !held {
            held = true;
            // FreeBSD: an amount below what there is refuses every fork and kills nobody.
            let rule = limits::processes(id, 1)?;
            rctl::add_rule(&rule).to("hold off the forks of", id)?;
        }
        if end_is_wanted() {
            return Err(Error::Unsupported(format!("sandbox {id} is being ended")));
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout("the freeze of a sandbox", STOPPING));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Blocks. What its user had stopped stays stopped.
pub(super) fn thaw(id: SandboxId, directory: &Path) -> Result<(), Error> {
    let path = directory.join(MARK);
    let Some(mark) = read(&path)? else { return Ok(()) };
    let jid = jail(id)?;
    let rule = limits::processes(id, mark.processes)?;
    rctl::add_rule(&rule).to("let go the forks of", id)?;
    for pid in freeze::to_continue(&table(jid)?, &mark) {
        send(pid, libc::SIGCONT)?;
    }
    fs::remove_file(&path).call("unlink", path.display())
}

/// Whether we stopped it, and nothing of it runs.
pub(super) fn is_frozen(id: SandboxId, directory: &Path) -> Result<bool, Error> {
    if !is_marked(directory) {
        return Ok(false);
    }
    match living_jail(id)? {
        Some(jid) => Ok(freeze::is_still(&table(jid)?)),
        None => Ok(false),
    }
}

/// Whether it was to be frozen: one look at a file.
pub(super) fn is_marked(directory: &Path) -> bool {
    directory.join(MARK).exists()
}

/// Of a sandbox that has no processes any more.
pub(super) fn forget(directory: &Path) -> Result<(), Error> {
    let path = directory.join(MARK);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.call("unlink", path.display()),
    }
}

/// Lets a sandbox go on that an earlier gateway had begun to freeze or to thaw when it died.
pub(super) fn mend(id: SandboxId, directory: &Path) -> Result<(), Error> {
    if is_marked(directory) && !is_frozen(id, directory)? { thaw(id, directory) } else { Ok(()) }
}

fn jail(id: SandboxId) -> Result<Jid, Error> {
    let gone = || Error::Unsupported(format!("sandbox {id} is not there"));
    living_jail(id)?.ok_or_else(gone)
}

fn table(jid: Jid) -> Result<Vec<Process>, Error> {
    process::in_jail(jid).to("list the processes of jail", jid)
}

/// The amount of its rule, which nobody but us changes.
fn standing_limit(id: SandboxId) -> Result<u64, Error> {
    let filter = limits::all_of(id)?.resource(Resource::MaxProc).action(Action::Deny);
    let rules = rctl::get_rules(&filter).to("read the limits of", id)?;
    let rule = rules.first();
    rule.map(rctl_sys::rule::Rule::amount)
        .ok_or_else(|| Error::Unsupported(format!("sandbox {id} has no limit of processes")))
}

fn read(path: &Path) -> Result<Option<Mark>, Error> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.call("read", path.display())?,
    };
    serde_json::from_slice(&text).map(Some).map_err(io::Error::from).call("read", path.display())
}

/// By rename: whole, or not there.
fn write(directory: &Path, mark: &Mark) -> Result<(), Error> {
    let (path, new): (PathBuf, PathBuf) = (directory.join(MARK), directory.join("frozen.new"));
    let text = serde_json::to_vec(mark).map_err(io::Error::from).call("write", path.display())?;
    fs::write(&new, text).call("write", new.display())?;
    fs::rename(&new, &path).call("rename", path.display())
}
