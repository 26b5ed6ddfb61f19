//! Linux: one envd that is in no sandbox, and becomes the first process of one by cloning itself.
//!
//! Starting the program anew for each sandbox costs its linking and its page faults, and cloning
//! the gateway costs a copy of the gateway's page tables. So the gateway starts this once, and it
//! stays as it is: one thread, nothing of any sandbox, no secret. What it has touched by then is
//! shared by all that come of it, its address layout too, so that it is replaced now and then.
//!
//! A sandbox may neither trace its envd nor reach its descriptors, whatever it is root of: this
//! process was started on the host, in whose name its memory belongs ever after, and says that it
//! is not to be dumped; clones inherit both.

#![allow(unsafe_code)]

use std::{
    fs,
    io::{self, Read, Write},
    mem,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::prctl,
    unistd::setsid,
};

use super::calls;
use crate::{
    control::{self, ChildRequest},
    walls::{self, Wall},
    wire::CONTROL_FD,
};

/// Wider than libc's constant of that name can hold.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Of a sandbox's table of TCP connections, which may hold more than that: 32 KiB.
const TCP_ENTRIES: &str = "4096";

/// Those that a sandbox can do without, where its walls are tried.
const NAMESPACES: [(Wall, libc::c_int); 3] = [
    (Wall::IpcNamespace, libc::CLONE_NEWIPC),
    (Wall::NetworkNamespace, libc::CLONE_NEWNET),
    (Wall::PidNamespace, libc::CLONE_NEWPID),
];

/// Clones this process as often as it is asked to over `requests`, and returns in each clone, with
/// its control socket and all else closed. Where it was called first it never returns: it ends
/// with the gateway that holds the other end.
///
/// # Errors
/// When the clone cannot be made ready; there is nothing it could go on with then.
pub(crate) fn become_first_process(requests: OwnedFd) -> io::Result<OwnedFd> {
    hide_memory()?;
    if let Err(error) = prepare_network() {
        eprintln!("envd: sandboxes end a little slower: {error}");
    }
    if !walls::is_down(Wall::OomScore) {
        leave_oom_score()?;
    }
    calls::confine()?;
    let mut socket = UnixStream::from(requests);
    if socket.write_all(&[0]).is_err() {
        std::process::exit(0);
    }
    loop {
        let Ok(request) = control::receive_child_request(socket.as_fd()) else {
            std::process::exit(0);
        };
        let answer = match clone(request.owner, request.cgroup.as_ref()) {
            Ok(0) => return settle(socket, request),
            Ok(pid) => pid,
            Err(errno) => -(errno as i32),
        };
        if socket.write_all(&answer.to_be_bytes()).is_err() {
            std::process::exit(0);
        }
    }
}

/// Written by who is root on the host, it is also the least that any process of a sandbox can give
/// itself. Without `CAP_SYS_RESOURCE` it cannot be lowered, nor need it be.
fn leave_oom_score() -> io::Result<()> {
    const PATH: &str = "/proc/self/oom_score_adj";
    let Err(error) = fs::write(PATH, "0") else { return Ok(()) };
    if fs::read_to_string(PATH)?.starts_with('-') {
        return Err(io::Error::new(error.kind(), format!("write 0 to {PATH}: {error}")));
    }
    Ok(())
}

fn hide_memory() -> nix::Result<()> {
    prctl::set_dumpable(walls::is_down(Wall::EnvdMemory))
}

/// Gives each sandbox a table of its own for its TCP connections: when one ends, the kernel goes
/// through the table it was in, and the host's has a quarter of a million entries. This is said
/// in a network namespace that its are made from, so that nothing changes on the host.
fn prepare_network() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    fs::write("/proc/sys/net/ipv4/tcp_child_ehash_entries", TCP_ENTRIES)
}

/// The pid, or 0 in the clone, which is a child of the gateway's.
fn clone(owner: u32, cgroup: Option<&OwnedFd>) -> nix::Result<i32> {
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    let mut namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC;
    for (wall, namespace) in NAMESPACES {
        if walls::is_down(wall) {
            namespaces &= !namespace;
        }
    }
    arguments.flags = (namespaces | libc::CLONE_PARENT) as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // The C library keeps the id of its thread where the kernel writes it; the clone's is another.
    if let Some(thread_id) = thread_id_address() {
        arguments.flags |= (libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID) as u64;
        arguments.child_tid = thread_id;
    }
    let owner = Acting::begin(owner)?;
    // SAFETY: without CLONE_VM the clone has a copy of everything, like fork(2), and this process
    // has one thread only: no lock is held by another.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>())
    };
    let pid = Errno::result(pid).map(|pid| pid as i32);
    // In the clone there is nothing to restore: its new user namespace has begun anew.
    if pid != Ok(0) {
        owner.end();
    }
    pid
}

/// Where the kernel stores the thread's id for the C library; not every kernel tells.
fn thread_id_address() -> Option<u64> {
    let mut address = 0_u64;
    // SAFETY: the kernel writes one pointer, which lives for the call.
    let result = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut address) };
    (result == 0 && address != 0).then_some(address)
}

/// In the clone: away with all that is not the sandbox's, and root there once it has ids.
fn settle(requests: UnixStream, request: ChildRequest) -> io::Result<OwnedFd> {
    // All else goes before anything is waited for: another clone's control socket held here would
    // not tell its gateway of its end.
    let (log, control) = (&request.log, &request.control);
    let places = [(log, 1, 0), (log, 2, 0), (control, CONTROL_FD, libc::O_CLOEXEC)];
    for (from, to, flags) in places {
        // SAFETY: descriptors only. 1 and 2 are nobody's value; what was open at CONTROL_FD is
        // `requests`, whose number is taken over below.
        Errno::result(unsafe { libc::dup3(from.as_raw_fd(), to, flags) })?;
    }
    mem::forget(request);
    // SAFETY: the value that owned what is closed here was just forgotten.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, CONTROL_FD + 1, u32::MAX, 0) };
    Errno::result(closed)?;
    debug_assert_eq!(requests.as_raw_fd(), CONTROL_FD);
    let mut control = requests;

    // Sent when the user namespace has its ids and the cgroups are joined; an end of file means
    // that the gateway has given up.
    control.read_exact(&mut [0])?;
    setsid()?;
    // SAFETY: no memory is passed; there is one thread, so the plain system calls are enough.
    unsafe {
        let no_groups = std::ptr::null::<libc::gid_t>();
        Errno::result(libc::syscall(libc::SYS_setgroups, 0_usize, no_groups))?;
        Errno::result(libc::syscall(libc::SYS_setresgid, 0, 0, 0))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, 0, 0, 0))?;
    }
    hide_memory()?;
    Ok(control.into())
}

/// Another effective user for a while, with all capabilities kept.
///
/// Linux: inotify instances, namespaces and the like are counted against whoever owns the user
/// namespace they are in, for all namespaces of that owner together. So a sandbox's namespace is
/// made in the name of a user of its own, and spends a quota of its own.
struct Acting {
    user: libc::uid_t,
    securebits: libc::c_int,
}

impl Acting {
    fn begin(user: libc::uid_t) -> nix::Result<Self> {
        // SAFETY: no memory is passed.
        let (before, securebits) =
            unsafe { (libc::geteuid(), Errno::result(libc::prctl(libc::PR_GET_SECUREBITS))?) };
        set_securebits(securebits | libc::SECBIT_NO_SETUID_FIXUP)?;
        let acting = Self { user: before, securebits };
        if let Err(errno) = set_effective(user) {
            acting.end();
            return Err(errno);
        }
        Ok(acting)
    }

    /// Who is not itself again is not to go on; the gateway starts another.
    fn end(self) {
        let restored = set_effective(self.user).and_then(|()| set_securebits(self.securebits));
        if let Err(errno) = restored {
            eprintln!("envd: cannot be its own user again: {}", errno.desc());
            std::process::exit(1);
        }
    }
}

fn set_effective(user: libc::uid_t) -> nix::Result<()> {
    let same = libc::uid_t::MAX;
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, same, user, same) }).map(drop)
}

fn set_securebits(bits: libc::c_int) -> nix::Result<()> {
    let bits = bits as libc::c_ulong;
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits) }).map(drop)
}
