//! fork, what happens between fork and exec, and waiting.
//!
//! Not `std::process::Command`: its `spawn` waits for the child's exec. In a sandbox the child may
//! be throttled, stopped or out of memory just then, and envd must go on serving; so the outcome
//! comes over a pipe ([`verdict`]) that can be awaited, and the caller needs its lock only for the
//! instant of fork.

#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    ptr,
};

use nix::{fcntl::OFlag, unistd::pipe2};

use super::host::{self, Affinity};

/// Everything a child does before its program runs, prepared so that it need not allocate.
pub(crate) struct Plan<'a> {
    /// Tried in order; the first that exists runs.
    pub(crate) programs: Vec<CString>,
    pub(crate) args: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) directory: CString,
    /// The user's name.
    pub(crate) login: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// `cgroup.procs` files to join.
    pub(crate) cgroups: &'a [OwnedFd],
    pub(crate) affinity: Option<Affinity>,
    /// Most that it may raise its limit to.
    pub(crate) open_files: Option<u64>,
    pub(crate) standard: Standard,
}

/// What becomes descriptors 0, 1 and 2.
pub(crate) enum Standard {
    Streams([OwnedFd; 3]),
    Terminal(OwnedFd),
}

/// Where a child failed before its program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    JoinCgroup,
    ProcessTable,
    Session,
    Descriptors,
    Identity,
    Directory,
    Exec,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal { number: i32, core_dumped: bool },
}

/// Starts a child. The descriptor tells, see [`verdict`], whether its program came to run.
pub(crate) fn fork(plan: &Plan<'_>) -> io::Result<(libc::pid_t, OwnedFd)> {
    let (outcome, report) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let pointers = Pointers {
        args: null_terminated(&plan.args),
        env: null_terminated(&plan.env),
        groups: plan.groups.iter().map(|gid| *gid as libc::gid_t).collect(),
    };
    // SAFETY: sigset_t is plain data, filled by sigfillset before use; the mask is this thread's
    // own and is restored below. No handler of ours may run in the child.
    let (pid, error) = unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let pid = libc::fork();
        if pid == 0 {
            become_program(plan, &pointers, report.as_raw_fd());
        }
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        (pid, error)
    };
    if pid < 0 { Err(error) } else { Ok((pid, outcome)) }
}

/// Reads the outcome: `Ok(None)` when the program runs (or the child died before it could say),
/// `WouldBlock` when that is not known yet.
pub(crate) fn verdict(outcome: BorrowedFd<'_>) -> io::Result<Option<(Step, i32)>> {
    let mut bytes = [0; 5];
    match nix::unistd::read(outcome, &mut bytes)? {
        5 => {
            let [step, errno @ ..] = bytes;
            Ok(Some((Step::from(step), i32::from_ne_bytes(errno))))
        }
        _ => Ok(None),
    }
}

/// Collects one child that has ended, whichever.
pub(crate) fn reap() -> Option<(libc::pid_t, Exit)> {
    let mut status = 0;
    // Not nix's waitpid: it loses the status of a child that a real-time signal ended.
    // SAFETY: `status` lives until the call returns.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then(|| {
        let exit = if libc::WIFSIGNALED(status) {
            Exit::Signal { number: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) }
        } else {
            Exit::Code(libc::WEXITSTATUS(status))
        };
        (pid, exit)
    })
}

/// What exec and setgroups want to be pointed at, made before the fork.
struct Pointers {
    args: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    groups: Vec<libc::gid_t>,
}

fn null_terminated(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

impl From<u8> for Step {
    fn from(byte: u8) -> Self {
        [
            Self::JoinCgroup,
            Self::ProcessTable,
            Self::Session,
            Self::Descriptors,
            Self::Identity,
            Self::Directory,
        ]
        .into_iter()
        .find(|step| *step as u8 == byte)
        .unwrap_or(Self::Exec)
    }
}

/// The child's side; never returns. Async-signal-safe throughout: system calls on memory made
/// before the fork, no allocation.
///
/// # Safety
/// Only in a freshly forked child.
unsafe fn become_program(plan: &Plan<'_>, pointers: &Pointers, report: RawFd) -> ! {
    // SAFETY: as promised by our caller.
    let step = unsafe { prepare_and_exec(plan, pointers) };
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0).to_ne_bytes();
    let bytes = [step as u8, errno[0], errno[1], errno[2], errno[3]];
    // SAFETY: `bytes` lives until the write is done; `_exit` runs nothing of the parent's.
    unsafe {
        libc::write(report, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(127)
    }
}

/// Returns the step that failed, with errno as that step left it.
///
/// # Safety
/// Only in a freshly forked child.
unsafe fn prepare_and_exec(plan: &Plan<'_>, pointers: &Pointers) -> Step {
    // SAFETY: all pointers are into `plan` and `pointers`, which live until exec or exit; the
    // rest takes plain numbers. Signals are blocked, and unblocked only once none is handled.
    unsafe {
        // First of all, so that whatever follows is charged to the user's half.
        for cgroup in plan.cgroups {
            if libc::write(cgroup.as_raw_fd(), b"0".as_ptr().cast(), 1) != 1 {
                return Step::JoinCgroup;
            }
        }
        // Joining succeeds even when that fills the cgroup beyond its limit.
        if !plan.cgroups.is_empty() && !host::room_for_a_process() {
            return Step::ProcessTable;
        }
        if libc::setsid() < 0 {
            return Step::Session;
        }
        host::set_login(&plan.login);
        let streams = match &plan.standard {
            Standard::Streams(streams) => [&streams[0], &streams[1], &streams[2]],
            Standard::Terminal(terminal) => {
                if libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY as _, 0) < 0 {
                    return Step::Session;
                }
                [terminal; 3]
            }
        };
        for (number, stream) in (0..).zip(streams) {
            if libc::dup2(stream.as_raw_fd(), number) < 0 {
                return Step::Descriptors;
            }
        }
        host::seal_descriptors();
        limit_descriptors(plan.open_files);
        if let Some(affinity) = &plan.affinity {
            affinity.apply();
        }
        libc::umask(0o022);
        if libc::setgroups(pointers.groups.len() as _, pointers.groups.as_ptr()) < 0
            || libc::setgid(plan.gid) < 0
            || libc::setuid(plan.uid) < 0
        {
            return Step::Identity;
        }
        if libc::chdir(plan.directory.as_ptr()) < 0 {
            return Step::Directory;
        }
        host::default_signals();
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());

        let mut denied = false;
        for program in &plan.programs {
            libc::execve(program.as_ptr(), pointers.args.as_ptr(), pointers.env.as_ptr());
            match nix::errno::Errno::last_raw() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => denied = true,
                _ => return Step::Exec,
            }
        }
        nix::errno::Errno::set_raw(if denied { libc::EACCES } else { libc::ENOENT });
        Step::Exec
    }
}

/// A soft limit that old programs can bear and a hard one that others can raise to, as far as we
/// may ourselves.
///
/// # Safety
/// Only in a freshly forked child, whose limits are its own.
unsafe fn limit_descriptors(most: Option<u64>) {
    const SOFT: libc::rlim_t = 1024;
    const HARD: libc::rlim_t = 524_288;
    let hard = most.map_or(HARD, |most| HARD.min(most as libc::rlim_t));
    // SAFETY: the structures live until the calls return.
    unsafe {
        let wanted = libc::rlimit { rlim_cur: SOFT.min(hard), rlim_max: hard };
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const wanted) == 0 {
            return;
        }
        let mut limit: libc::rlimit = mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_max = limit.rlim_max.min(hard);
            limit.rlim_cur = limit.rlim_max.min(SOFT);
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
