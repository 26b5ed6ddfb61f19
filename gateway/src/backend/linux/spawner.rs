//! The first process of a sandbox, cloned by an envd of ours that waits for it to be asked for.
//!
//! That one is our own binary, started once. The gateway has many threads, so between clone3 and
//! execveat the child may hold locks that nobody will ever release: it makes raw system calls on
//! memory prepared before, and nothing else.

#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    io::{self, Read},
    mem,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    ptr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use envd::{
    control::{self, ChildRequest},
    walls::{self, Wall},
    wire::CONTROL_FD,
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        signal::{SigSet, SigmaskHow, pthread_sigmask},
        stat::{Mode, fchmod},
    },
};
use parking_lot::Mutex;
use tracing::warn;

use super::{DYING, error::Call, process, slot::UIDS};
use crate::backend::Error;

/// Where the child keeps the program until it becomes it.
const IMAGE_FD: RawFd = CONTROL_FD + 1;

/// Descriptors the child moves into place are first kept clear of the places themselves.
const CLEAR: RawFd = 16;

/// For one clone; it takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ids of no sandbox, for a namespace that nothing is run in.
const PROBE_UID: u32 = 0x0ff0_0000;

/// First processes that one envd makes. They share its addresses and the secrets of its C library,
/// so that what one sandbox finds out of its own holds for the others; and its memory, so that few
/// would cost more.
const CLONES: u32 = 64;

/// Makes first processes. What does so may die at any time, and another is started when next
/// needed.
pub(super) struct Spawner {
    image: Arc<Image>,
    running: Arc<Mutex<Option<Running>>>,
}

/// Ends when the socket is closed, however the gateway ends.
struct Running {
    socket: UnixStream,
    made: u32,
    _process: Process,
}

/// A sealed copy of this program, taken once: what is on disk may be upgraded meanwhile.
struct Image(OwnedFd);

impl Image {
    fn take() -> Result<Self, Error> {
        let path = "/proc/self/exe";
        let mut program = File::open(path).call("open", path)?;
        let copy = memfd().call("memfd_create", "envd")?;
        let mut copy = File::from(copy);
        io::copy(&mut program, &mut copy).call("copy", path)?;
        // Linux: a program its user cannot read cannot be traced either, whatever he is root of.
        // So root in the sandbox reaches neither envd's memory nor its descriptors.
        let mode = if walls::is_down(Wall::EnvdMemory) { 0o555 } else { 0o111 };
        fchmod(&copy, Mode::from_bits_truncate(mode)).call("fchmod", "the copy of envd")?;
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

/// A process of ours. Dropped, it is killed.
struct Process(Option<OwnedFd>);

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pidfd) = self.0.take() {
            process::kill(&pidfd);
            process::wait(&pidfd, Instant::now() + DYING);
        }
    }
}

/// A first process before it does anything: it waits for a byte on `control`. Dropped, it is
/// killed.
pub(super) struct Child {
    pub(super) pid: i32,
    process: Process,
    pub(super) control: UnixStream,
}

impl Spawner {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { image: Arc::new(Image::take()?), running: Arc::default() })
    }

    /// So that the first sandbox need not wait for it.
    pub(super) fn start(&self) -> Result<(), Error> {
        let mut running = self.running.lock();
        if running.is_none() {
            *running = Some(start(&self.image)?);
        }
        Ok(())
    }

    pub(super) fn stop(&self) {
        *self.running.lock() = None;
    }

    /// A child in new namespaces that belong to `owner`, and in the v2 cgroup `cgroup`. Blocks.
    pub(super) fn spawn(
        &self,
        log: &File,
        cgroup: Option<&OwnedFd>,
        owner: u32,
    ) -> Result<Child, Error> {
        let (made, control) = {
            let mut running = self.running.lock();
            let asked = ask_or_replace(
                &mut running,
                || start(&self.image),
                |running| request(running, log, cgroup, owner),
            )?;
            if let Some(running) = &mut *running {
                running.made += 1;
                if running.made % CLONES == 0 {
                    self.replace();
                }
            }
            asked
        };
        let pid = made.call("clone3", "new namespaces")?;
        // Our own child, which nobody else reaps: the number is still its own.
        let pidfd = process::open(pid).call("pidfd_open", pid)?;
        Ok(Child { pid, process: Process(Some(pidfd)), control })
    }
}

impl Spawner {
    /// Has another take the place of the one that runs, once it is ready; nobody waits for it.
    fn replace(&self) {
        let (image, running) = (self.image.clone(), self.running.clone());
        let work = move || match start(&image) {
            Ok(next) => {
                let unused = match &mut *running.lock() {
                    Some(running) => mem::replace(running, next),
                    // Stopped meanwhile.
                    None => next,
                };
                drop(unused);
            }
            Err(error) => warn!(%error, "what makes first processes stays for now"),
        };
        if let Err(error) = thread::Builder::new().name("spawner".into()).spawn(work) {
            warn!(%error, "what makes first processes stays for now");
        }
    }
}

/// What came of the request, and our end of the control socket.
fn request(
    running: &Running,
    log: &File,
    cgroup: Option<&OwnedFd>,
    owner: u32,
) -> io::Result<(io::Result<i32>, UnixStream)> {
    // Of its own for each try: what one that failed has made, if it has, ends with that one's.
    let (control, theirs) = UnixStream::pair()?;
    let request = ChildRequest {
        owner,
        control: theirs.as_fd(),
        log: log.as_fd(),
        cgroup: cgroup.map(AsFd::as_fd),
    };
    let made = control::request_child(&running.socket, &request)?;
    Ok((made, control))
}

/// Asks the one that runs, or another if that fails.
fn ask_or_replace<T>(
    running: &mut Option<Running>,
    start: impl FnOnce() -> Result<Running, Error>,
    ask: impl Fn(&Running) -> io::Result<T>,
) -> Result<T, Error> {
    match running.as_ref().map(&ask) {
        Some(Ok(answer)) => return Ok(answer),
        Some(Err(error)) => {
            warn!(%error, "the process that makes first processes is gone: another");
        }
        None => {}
    }
    // Ended before there is another.
    *running = None;
    let answer = ask(running.insert(start()?));
    if answer.is_err() {
        *running = None;
    }
    answer.call("ask", "envd for a first process")
}

/// All the child needs, so that it need not allocate.
struct Plan {
    socket: RawFd,
    log: RawFd,
    null: RawFd,
    image: RawFd,
    argv: [*const libc::c_char; 3],
    envp: [*const libc::c_char; 2],
}

/// Returns when it is ready.
fn start(image: &Image) -> Result<Running, Error> {
    let (mut socket, theirs) = UnixStream::pair().call("socketpair", "envd")?;
    socket.set_read_timeout(Some(PATIENCE)).call("set timeout of", "envd")?;
    socket.set_write_timeout(Some(PATIENCE)).call("set timeout of", "envd")?;
    let null =
        File::options().read(true).write(true).open("/dev/null").call("open", "/dev/null")?;
    let theirs = clear(theirs).call("dup", "socket")?;
    let log = clear(io::stderr()).call("dup", "standard error")?;
    let null = clear(null).call("dup", "/dev/null")?;
    let program = clear(&image.0).call("dup", "envd")?;
    let walls = walls::environment();
    let plan = Plan {
        socket: theirs.as_raw_fd(),
        log: log.as_raw_fd(),
        null: null.as_raw_fd(),
        image: program.as_raw_fd(),
        argv: [c"coppice".as_ptr(), c"envd".as_ptr(), ptr::null()],
        envp: [walls.as_ref().map_or(ptr::null(), |walls| walls.as_ptr()), ptr::null()],
    };

    let mut pidfd: RawFd = -1;
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;

    // No handler of ours may run in the child, on a copy of our state.
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))
        .call("block", "signals")?;
    // SAFETY: without CLONE_VM the child has a copy of everything, like fork(2); it calls nothing
    // but `run`, which keeps to raw system calls.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
    };
    if pid == 0 {
        // SAFETY: we are the child, with its own copy of the plan.
        unsafe { run(&plan) }
    }
    let pid = Errno::result(pid);
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None).call("restore", "signals")?;
    pid.call("clone3", "envd")?;
    // SAFETY: clone3 succeeded, so it has stored a new descriptor for us alone.
    let process = Process(Some(unsafe { OwnedFd::from_raw_fd(pidfd) }));
    drop(theirs);
    socket.read_exact(&mut [0]).call("start", "envd")?;
    Ok(Running { socket, made: 0, _process: process })
}

/// A user namespace with ids of its own and nobody in it, to try things with.
pub(super) fn user_namespace() -> Result<OwnedFd, Error> {
    let log = File::options().write(true).open("/dev/null").call("open", "/dev/null")?;
    Spawner::new()?.spawn(&log, None, PROBE_UID)?.map_ids(PROBE_UID)
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
    // the parent sees as the end of the socket.
    unsafe {
        let must = |result: libc::c_long| {
            if result < 0 {
                libc::_exit(127);
            }
        };
        let places = [
            (plan.null, 0, 0),
            (plan.log, 1, 0),
            (plan.log, 2, 0),
            (plan.socket, CONTROL_FD, 0),
            (plan.image, IMAGE_FD, libc::O_CLOEXEC),
        ];
        for (from, to, flags) in places {
            must(libc::syscall(libc::SYS_dup3, from, to, flags));
        }
        must(libc::syscall(libc::SYS_close_range, IMAGE_FD + 1, libc::c_uint::MAX, 0));
        must(libc::syscall(libc::SYS_setsid));
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
        self.process.0.take()
    }

    /// Gives its user namespace a range of ids and returns the namespace.
    pub(super) fn map_ids(&self, first: u32) -> Result<OwnedFd, Error> {
        let first = if walls::is_down(Wall::Ids) { 0 } else { first };
        let map = format!("0 {first} {UIDS}\n");
        for file in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{file}", self.pid);
            fs::write(&path, &map).call("write", path)?;
        }
        let path = format!("/proc/{}/ns/user", self.pid);
        File::open(&path).map(OwnedFd::from).call("open", path)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, sync::mpsc};

    use super::*;

    /// One that answers as `answer` does.
    fn running(
        answer: impl FnOnce(ChildRequest, &mut UnixStream) + Send + 'static,
    ) -> (Running, thread::JoinHandle<()>) {
        let (socket, mut theirs) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || {
            let request = control::receive_child_request(theirs.as_fd()).unwrap();
            answer(request, &mut theirs);
        });
        (Running { socket, made: 0, _process: Process(None) }, serving)
    }

    #[test]
    fn what_a_failed_try_has_made_ends_with_it() {
        let (kept, keeping) = mpsc::channel();
        let (dying, died) = running(move |request, _| kept.send(request.control).unwrap());
        let (next, answered) = running(|_, socket| {
            socket.write_all(&7_i32.to_be_bytes()).unwrap();
        });
        let log = File::open("/dev/null").unwrap();
        let mut running = Some(dying);
        let asked =
            ask_or_replace(&mut running, || Ok(next), |running| request(running, &log, None, 0));
        let (made, _control) = asked.unwrap();
        assert_eq!(made.unwrap(), 7);
        // The first clone's end of its socket: it sees that nobody is at the other.
        let mut first = UnixStream::from(keeping.recv().unwrap());
        first.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        died.join().unwrap();
        answered.join().unwrap();
    }
}
