//! envd as a process: this program once more, from a copy that nobody can change.
//!
//! The gateway has many threads, so between fork(2) and fexecve(2) the child may hold locks that
//! nobody will ever release: it makes system calls on memory prepared before, and nothing else.

#![allow(unsafe_code)]

use std::{
    fs::{self, File, OpenOptions},
    io, mem,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::Path,
    ptr,
    sync::Arc,
};

use envd::wire::CONTROL_FD;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    sys::signal::{SigSet, SigmaskHow, pthread_sigmask},
};
use parking_lot::Mutex;

use super::error::Call;
use crate::backend::Error;

/// Where the child keeps the program until it becomes it.
const IMAGE_FD: RawFd = CONTROL_FD + 1;

/// Descriptors the child moves into place are first kept clear of the places themselves.
const CLEAR: RawFd = 16;

/// A copy of this program without a name, taken once: what is on disk may be upgraded meanwhile.
///
/// FreeBSD: memfd_create(2) has no vnode and cannot be executed (`_fgetvp` in
/// sys/kern/kern_descrip.c says `EINVAL`), so it is a file, unlinked as soon as it is open. It has
/// to be open for reading only: fexecve(2) says `EBADF` of one that can be written.
pub(super) struct Image(OwnedFd);

impl Image {
    pub(super) fn take(data_dir: &Path) -> Result<Self, Error> {
        let program = std::env::current_exe().call("find", "this program (kern.proc.pathname)")?;
        let mut from = File::open(&program).call("open", program.display())?;
        let name = data_dir.join(format!(".envd-{}", std::process::id()));
        // Of a gateway that died in between.
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).call("unlink", name.display());
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        let made = options.write(true).create_new(true).mode(0o500).open(&name);
        let mut copy = made.call("make", name.display())?;
        let copied = io::copy(&mut from, &mut copy).call("copy to", name.display());
        drop(copy);
        let opened = copied.and_then(|_| File::open(&name).call("open", name.display()));
        fs::remove_file(&name).call("unlink", name.display())?;
        Ok(Self(opened?.into()))
    }
}

/// We hold keys, and the memory of a process that nobody may trace, nor have a core of, is nobody
/// else's: procctl(2). It ends with fexecve(2), so that envd decides for itself.
pub(super) fn keep_private() -> Result<(), Error> {
    let mut disable: libc::c_int = libc::PROC_TRACE_CTL_DISABLE;
    let pid = libc::id_t::from(std::process::id());
    // SAFETY: the kernel reads one int, which lives for the call.
    let rc =
        unsafe { libc::procctl(libc::P_PID, pid, libc::PROC_TRACE_CTL, (&raw mut disable).cast()) };
    Errno::result(rc).map(drop).call("procctl", "PROC_TRACE_CTL_DISABLE")
}

/// Root's rights come whole: what a gateway does, jail_set(2), mount(2) and rctl(2) before all, is
/// asked of root (priv(9)), and Capsicum's mode is for who opens nothing any more.
pub fn shed_privileges() -> Result<(), Error> {
    Ok(())
}

/// An envd, which waits for its [`envd::wire::Spec`]. Dropped, it is killed.
pub(super) struct Child {
    process: Arc<Process>,
    pub(super) control: UnixStream,
    keep: bool,
}

/// A child of this gateway. Its number is its own until it is reaped, which is done here alone.
pub(super) struct Process {
    pub(super) pid: i32,
    reaped: Mutex<bool>,
}

impl Process {
    /// Takes its status if it has ended.
    pub(super) fn reap(&self) {
        let mut reaped = self.reaped.lock();
        if !*reaped {
            *reaped = self.wait(libc::WNOHANG);
        }
    }

    /// Waits for one whose end was announced. FreeBSD: that is done before it can be reaped
    /// (`exit1` in sys/kern/kern_exit.c). Blocks.
    pub(super) fn bury(&self) {
        let mut reaped = self.reaped.lock();
        if !*reaped {
            *reaped = self.wait(0);
        }
    }

    fn end(&self) {
        let mut reaped = self.reaped.lock();
        if !*reaped {
            // SAFETY: no memory is passed, and the number is still our child's.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            *reaped = self.wait(0);
        }
    }

    fn wait(&self, flags: libc::c_int) -> bool {
        loop {
            // SAFETY: a null pointer says that nobody wants the status.
            let rc = unsafe { libc::waitpid(self.pid, ptr::null_mut(), flags) };
            match Errno::result(rc) {
                Err(Errno::EINTR) => {}
                Ok(0) => return false,
                // Also when it is not there, so that nobody asks again.
                _ => return true,
            }
        }
    }
}

impl Child {
    pub(super) fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Lets it live.
    pub(super) fn release(mut self) -> Arc<Process> {
        self.keep = true;
        Arc::clone(&self.process)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.keep {
            self.process.end();
        }
    }
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

/// An envd with an empty environment, a session of its own, and no descriptor but its log and its
/// control socket. It is in no jail yet.
pub(super) fn spawn(image: &Image, log: &File) -> Result<Child, Error> {
    let (control, theirs) = UnixStream::pair().call("socketpair", "envd")?;
    let null =
        File::options().read(true).write(true).open("/dev/null").call("open", "/dev/null")?;
    let theirs = clear(theirs).call("fcntl F_DUPFD_CLOEXEC", "control socket")?;
    let log = clear(log).call("fcntl F_DUPFD_CLOEXEC", "log")?;
    let null = clear(null).call("fcntl F_DUPFD_CLOEXEC", "/dev/null")?;
    let program = clear(&image.0).call("fcntl F_DUPFD_CLOEXEC", "envd")?;
    let plan = Plan {
        control: theirs.as_raw_fd(),
        log: log.as_raw_fd(),
        null: null.as_raw_fd(),
        image: program.as_raw_fd(),
        argv: [c"coppice".as_ptr(), c"envd".as_ptr(), ptr::null()],
        envp: [ptr::null()],
    };
    // No handler of ours may run in the child, on a copy of our state.
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
        .call("pthread_sigmask", "block all")?;
    // SAFETY: the child has a copy of everything, and calls nothing but `run`, which keeps to
    // what sigaction(2) lists as safe, and plain system calls.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: we are the child, with its own copy of the plan.
        unsafe { run(&plan) }
    }
    let forked = Errno::result(pid).call("fork", "envd");
    let restored = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)
        .call("pthread_sigmask", "restore");
    let process = Arc::new(Process { pid: forked?, reaped: Mutex::new(false) });
    let child = Child { process, control, keep: false };
    restored?;
    Ok(child)
}

/// A duplicate away from 0 to 4.
fn clear(fd: impl AsFd) -> nix::Result<OwnedFd> {
    let fd = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(CLEAR))?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The child, up to fexecve.
///
/// # Safety
/// Only in the child of a fork, on a plan made before it.
unsafe fn run(plan: &Plan) -> ! {
    // SAFETY: system calls on memory that the plan owns; a failure ends the process, which the
    // parent sees as the end of the socket.
    unsafe {
        // First, so that there is somewhere to complain.
        must(c"dup2", libc::dup2(plan.log, 2));
        must(c"dup2", libc::dup2(plan.log, 1));
        must(c"dup2", libc::dup2(plan.null, 0));
        must(c"dup2", libc::dup2(plan.control, CONTROL_FD));
        must(c"dup2", libc::dup2(plan.image, IMAGE_FD));
        must(c"fcntl", libc::fcntl(IMAGE_FD, libc::F_SETFD, libc::FD_CLOEXEC));
        libc::closefrom(IMAGE_FD + 1);
        // A directory that stays open over jail_attach(2) is a way out.
        must(c"chdir", libc::chdir(c"/".as_ptr()));
        must(c"setsid", libc::setsid());
        libc::umask(0o022);
        for signal in 1..=126 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut none);
        must(
            c"sigprocmask",
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()),
        );
        libc::fexecve(IMAGE_FD, plan.argv.as_ptr(), plan.envp.as_ptr());
        complain(c"fexecve");
        libc::_exit(125)
    }
}

/// # Safety
/// As [`run`].
unsafe fn must(call: &std::ffi::CStr, result: libc::c_int) {
    if result < 0 {
        // SAFETY: as the caller's; _exit runs nothing of ours.
        unsafe {
            complain(call);
            libc::_exit(125)
        }
    }
}

/// One line on the log, without allocating: `fexecve: errno 8`.
///
/// # Safety
/// As [`run`].
unsafe fn complain(call: &std::ffi::CStr) {
    // SAFETY: errno is this thread's own.
    let errno = unsafe { *libc::__error() };
    let digit = |value: i32| b'0' + u8::try_from(value % 10).unwrap_or(0);
    let number = [digit(errno / 100), digit(errno / 10), digit(errno), b'\n'];
    for part in [call.to_bytes(), b": errno ", &number] {
        // SAFETY: the bytes live for the call; nobody can be told that it failed.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
}
