//! What root may do that a gateway has no use for, given away before anything else is done.
//!
//! What is kept is what sandboxes are made of (namespaces, mounts, ids, networks, cgroups) and what
//! the programs take that a start calls: mmdebstrap with a whole installation in it, nft. A program
//! that is called gets no more than this process has. Sandboxes are no matter of it: who makes a
//! user namespace has all capabilities there, and loses them by `envd`'s own rules.
//!
//! `PR_SET_NO_NEW_PRIVS` cannot be had: sandboxes inherit it, and `sudo` works in them.

#![allow(unsafe_code)]

use nix::errno::Errno;

use super::{Error, error::Call};

/// By the numbers of <linux/capability.h>, with what for.
const KEPT: [(u32, &str); 20] = [
    (0, "CHOWN: layers with the files of others, as the next four"),
    (1, "DAC_OVERRIDE"),
    (2, "DAC_READ_SEARCH"),
    (3, "FOWNER"),
    (4, "FSETID"),
    (5, "KILL: what runs in a sandbox"),
    (6, "SETGID: ids of a sandbox, and of those that build templates"),
    (7, "SETUID"),
    (8, "SETPCAP: taking capabilities away"),
    (10, "NET_BIND_SERVICE: port 443"),
    (12, "NET_ADMIN: links, addresses, nftables"),
    (13, "NET_RAW"),
    (18, "SYS_CHROOT: building templates"),
    (19, "SYS_PTRACE: a sandbox's namespaces, by /proc"),
    (21, "SYS_ADMIN: namespaces and mounts"),
    (23, "SYS_NICE: processes of others onto other processors"),
    (24, "SYS_RESOURCE: descriptors, and who goes first when memory ends"),
    (27, "MKNOD: building templates"),
    (29, "AUDIT_WRITE: accounts in a template"),
    (31, "SETFCAP: mapping root, and files in a template"),
];

fn is_kept(number: u32) -> bool {
    KEPT.iter().any(|(kept, _)| *kept == number)
}

/// Gives all others away, of this thread and of whatever it starts: to be called before there is
/// another thread. Who has nothing to give away (no root, a container) goes on with what there is.
///
/// # Errors
/// A call that fails for another reason than that.
pub fn shed_privileges() -> Result<(), Error> {
    for number in (0..64).filter(|number| !is_kept(*number)) {
        match bound(number) {
            Ok(()) => {}
            // There are no more on this kernel.
            Err(Errno::EINVAL) => break,
            Err(Errno::EPERM) => return Ok(()),
            Err(error) => return Err(error).call("PR_CAPBSET_DROP", number),
        }
    }
    keep().call("capset", "what a gateway needs")
}

/// Never again to be had by this thread, by whatever program it becomes.
fn bound(number: u32) -> nix::Result<()> {
    // SAFETY: takes numbers alone.
    let rc = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
    Errno::result(rc).map(drop)
}

/// As the kernel has it, version 3: capget(2).
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const VERSION_3: u32 = 0x2008_0522;

/// Of what this thread has, what is in [`KEPT`]; nothing is handed on to programs but by being root.
fn keep() -> nix::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: the kernel reads the header and writes two sets, both of which live for the call.
    let rc = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    Errno::result(rc)?;
    for (word, sets) in (0..).zip(&mut sets) {
        let bits = (0..32).filter(|bit| is_kept(32 * word + bit));
        let kept = bits.fold(0_u32, |mask, bit| mask | 1 << bit);
        sets.permitted &= kept;
        sets.effective = sets.permitted;
        sets.inheritable = 0;
    }
    // SAFETY: the kernel reads the header and two sets, all of which live for the call.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    Errno::result(rc).map(drop)
}
