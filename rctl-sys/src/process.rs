//! The process table: `kern.proc` of sysctl(3), `struct kinfo_proc` of sys/user.h.

use std::{io, time::Duration};

use crate::{Error, jail::Jid};

/// A process as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub ppid: i32,
    pub pgid: i32,
    pub sid: i32,
    pub uid: u32,
    /// 0 for the host.
    pub jid: i32,
    pub state: State,
    /// All of its threads are stopped by a signal: none runs, or will before `SIGCONT`.
    pub stopped: bool,
    /// Since the epoch.
    pub started: Duration,
    /// CPU time of all its threads, exact to a microsecond.
    pub run_time: Duration,
    pub threads: u32,
    pub resident_pages: u64,
    /// Cut to 19 bytes by the kernel.
    pub command: String,
}

/// `ki_stat`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Being made by fork(2).
    Idle,
    Running,
    Sleeping,
    Stopped,
    Zombie,
    Waiting,
    Locked,
    /// A number this crate does not know.
    Other(u8),
}

/// Names one process, not the next that gets its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    pub pid: i32,
    pub started: Duration,
}

impl Process {
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { pid: self.pid, started: self.started }
    }
}

fn unsupported<T>(argument: impl ToString) -> Result<T, Error> {
    Err(Error::new("sysctl", argument.to_string(), io::Error::from_raw_os_error(libc::ENOSYS)))
}

/// All processes, in one sweep: for the usage of many jails.
///
/// # Errors
/// As sysctl(3) says.
pub fn all() -> Result<Vec<Process>, Error> {
    unsupported("kern.proc.proc")
}

/// The processes of one jail.
///
/// # Errors
/// As [`all`].
pub fn in_jail(jid: Jid) -> Result<Vec<Process>, Error> {
    Ok(all()?.into_iter().filter(|process| process.jid == jid.raw()).collect())
}

/// One process, if it is there.
///
/// # Errors
/// As [`all`].
pub fn by_pid(pid: i32) -> Result<Option<Process>, Error> {
    unsupported(format!("kern.proc.pid.{pid}"))
}
