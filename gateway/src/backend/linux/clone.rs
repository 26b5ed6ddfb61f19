//! The first process of a sandbox: our own binary, in namespaces of its own.
//!
//! The gateway has many threads, so between clone3 and execveat the child may hold locks that
//! nobody will ever release: it makes raw system calls on memory prepared before, and nothing
//! else. (Not even the C library's `setuid`, which would try to tell its other threads.)

#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    ptr,
    time::Instant,
};

use envd::wire::CONTROL_FD;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        signal::{SigSet, SigmaskHow, pthread_sigmask},
        stat::{Mode, fchmod},
    },
};

use super::{DYING, acting::acting_as, error::Call, process, slot::UIDS};
use crate::backend::Error;

/// Where the child keeps the program until it becomes it.
const IMAGE_FD: RawFd = CONTROL_FD + 1;

/// Descriptors the child moves into place are first kept clear of the places themselves.
const CLEAR: RawFd = 16;

/// Wider than libc's constant of that name can hold.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Ids of no sandbox, for a namespace that nothing is run in.
const PROBE_UID: u32 = 0x0ff0_0000;

/// A sealed copy of this program, taken once: what is on disk may be upgraded meanwhile.
pub(super) struct Image(OwnedFd);

impl Image {
    pub(super) fn take() -> Result<Self, Error> {
        let path = "/proc/self/exe";
        let mut program = File::open(path).call("open", path)?;
        let copy = memfd().call("memfd_create", "envd")?;
        let mut copy = File::from(copy);
        io::copy(&mut program, &mut copy).call("copy", path)?;
        // Linux: a program its user cannot read cannot be traced either, whatever he is root of.
        // So root in the sandbox reaches neither envd's memory nor its descriptors.
        fchmod(&copy, Mode::from_bits_truncate(0o111)).call("fchmod", "the copy of envd")?;
        let seals = SealFlag::F_SEAL_WRITE
            | SealFlag::F_SEAL_SHRINK
            | SealFlag::F_SEAL_GROW
            | SealFlag::F_SEAL_SEAL;
        fcntl(&copy, FcntlArg::F_ADD_SEALS(seals)).call("seal", "the copy of envd")?;
        Ok(Self(copy.into()))
    }
}

fn memfd() -> nix::Result<OwnedFd> {
    let sealed = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let make = |flags| {
        // SAFETY: the name is a static string.
        let fd = Errno::result(unsafe { libc::memfd_create(c"envd".as_ptr(), flags) })?;
        // SAFETY: the kernel has just made this descriptor for us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    // Linux: 6.3 and later may refuse an executable memfd that does not say so, and earlier ones
    // do not know the flag.
    match make(sealed | libc::MFD_EXEC) {
        Err(Errno::EINVAL) => make(sealed),
        result => result,
    }
}

/// The child before it runs anything: it waits for a byte on `control`. Dropped, it is killed.
pub(super) struct Child {
    pub(super) pid: i32,
    pidfd: Option<OwnedFd>,
    pub(super) control: UnixStream,
}

/// All the child needs, so that it need not allocate.
struct Plan {
    control: RawFd,
    log: RawFd,
    null: RawFd,
    image: RawFd,
    argv: [*const libc::c_char; 3],
    envp: [*const libc::c_char; 1],
}

/// Starts a child in new namespaces that belong to `owner`, and in the v2 cgroup `cgroup`.
pub(super) fn spawn(
    image: &Image,
    log: &File,
    cgroup: Option<&OwnedFd>,
    owner: u32,
) -> Result<Child, Error> {
    let (control, theirs) = UnixStream::pair().call("socketpair", "control")?;
    let null =
        File::options().read(true).write(true).open("/dev/null").call("open", "/dev/null")?;
    let theirs = clear(theirs).call("dup", "control")?;
    let log = clear(log).call("dup", "log")?;
    let null = clear(null).call("dup", "/dev/null")?;
    let program = clear(&image.0).call("dup", "envd")?;
    let plan = Plan {
        control: theirs.as_raw_fd(),
        log: log.as_raw_fd(),
        null: null.as_raw_fd(),
        image: program.as_raw_fd(),
        argv: [c"coppice".as_ptr(), c"envd".as_ptr(), ptr::null()],
        envp: [ptr::null()],
    };

    let mut pidfd: RawFd = -1;
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }

    // No handler of ours may run in the child, on a copy of our state.
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
        .call("block", "signals")?;
    let pid = acting_as(owner, || {
        // SAFETY: without CLONE_VM the child has a copy of everything, like fork(2); it calls
        // nothing but `run`, which keeps to raw system calls.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
        };
        if pid == 0 {
            // SAFETY: we are the child, with its own copy of the plan.
            unsafe { run(&plan) }
        }
        Errno::result(pid)
    });
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).call("restore", "signals")?;
    let pid = pid?.call("clone3", "new namespaces")? as i32;
    // SAFETY: clone3 succeeded, so it has stored a new descriptor for us alone.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd: Some(pidfd), control })
}

/// A user namespace with ids of its own and nobody in it, to try things with.
pub(super) fn user_namespace() -> Result<OwnedFd, Error> {
    let image = Image::take()?;
    let log = File::options().write(true).open("/dev/null").call("open", "/dev/null")?;
    spawn(&image, &log, None, PROBE_UID)?.map_ids(PROBE_UID)
}

/// A duplicate away from 0 to 4.
fn clear(fd: impl AsFd) -> nix::Result<OwnedFd> {
    let fd = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(CLEAR))?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The child, up to execveat.
///
/// # Safety
/// Only in the child of a clone3, on a plan made before it.
unsafe fn run(plan: &Plan) -> ! {
    // SAFETY: raw system calls on memory that the plan owns; a failure ends the process, which
    // the parent sees as the end of the control socket.
    unsafe {
        let mut byte = 0u8;
        let must = |result: libc::c_long| {
            if result < 0 {
                libc::_exit(127);
            }
        };
        // All else goes before anything is waited for: with a copy of the gateway's sockets and
        // locks, its end of our own control socket among them, the child would hold them for as
        // long as it waits, and for ever should the gateway end meanwhile.
        let places = [
            (plan.null, 0, 0),
            (plan.log, 1, 0),
            (plan.log, 2, 0),
            (plan.control, CONTROL_FD, 0),
            (plan.image, IMAGE_FD, libc::O_CLOEXEC),
        ];
        for (from, to, flags) in places {
            must(libc::syscall(libc::SYS_dup3, from, to, flags));
        }
        must(libc::syscall(libc::SYS_close_range, IMAGE_FD + 1, libc::c_uint::MAX, 0));
        // Released when the user namespace has its ids and the cgroups are joined; an end of file
        // means that the gateway has given up.
        if libc::syscall(libc::SYS_read, CONTROL_FD, &raw mut byte, 1usize) != 1 {
            libc::_exit(126);
        }
        must(libc::syscall(libc::SYS_setsid));
        must(libc::syscall(libc::SYS_setgroups, 0usize, ptr::null::<libc::gid_t>()));
        must(libc::syscall(libc::SYS_setresgid, 0, 0, 0));
        must(libc::syscall(libc::SYS_setresuid, 0, 0, 0));
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let none = 0u64;
        must(libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const none,
            ptr::null::<u64>(),
            size_of::<u64>(),
        ));
        libc::syscall(
            libc::SYS_execveat,
            IMAGE_FD,
            c"".as_ptr(),
            plan.argv.as_ptr(),
            plan.envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        libc::_exit(125)
    }
}

impl Child {
    /// Joins v1 cgroups, which clone3 cannot.
    pub(super) fn join(&self, procs: &[impl AsRef<Path>]) -> Result<(), Error> {
        for file in procs {
            let file = file.as_ref();
            fs::write(file, self.pid.to_string()).call("write", file.display())?;
        }
        Ok(())
    }

    /// Lets it live.
    pub(super) fn release(mut self) -> Option<OwnedFd> {
        self.pidfd.take()
    }

    /// Gives its user namespace a range of ids and returns the namespace.
    pub(super) fn map_ids(&self, first: u32) -> Result<OwnedFd, Error> {
        let map = format!("0 {first} {UIDS}\n");
        for file in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{file}", self.pid);
            fs::write(&path, &map).call("write", path)?;
        }
        let path = format!("/proc/{}/ns/user", self.pid);
        File::open(&path).map(OwnedFd::from).call("open", path)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pidfd) = self.pidfd.take() {
            process::kill(&pidfd);
            process::wait(&pidfd, Instant::now() + DYING);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::host::require_root;

    fn descriptors(pid: i32) -> Vec<String> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_child_holds_nothing_of_the_gateway_and_ends_with_it() {
        require_root!();
        let log = File::options().write(true).open("/dev/null").unwrap();
        // Neither low nor high descriptors of ours are the child's.
        let _low = File::open("/proc/self/status").unwrap();
        let _high = clear(&log).unwrap();
        let mut child = spawn(&Image::take().unwrap(), &log, None, PROBE_UID).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while descriptors(child.pid).len() != 5 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(descriptors(child.pid), ["0", "1", "2", "3", "4"]);
        // As when the gateway is killed: nobody kills the child, but all its sockets close.
        let pidfd = child.pidfd.take().unwrap();
        drop(child);
        let ended = process::wait(&pidfd, Instant::now() + Duration::from_secs(5));
        process::kill(&pidfd);
        assert!(ended, "the child waits for a byte that nobody can write");
    }
}
