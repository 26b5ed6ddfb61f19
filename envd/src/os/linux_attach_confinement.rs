//! What root in a sandbox is without: most capabilities, and the calls and keys of the host.
//!
//! Its capabilities have never counted outside its user namespace. But within one they open parts
//! of the kernel that are hardly ever looked at (packet filters, file systems), and so are as few
//! as containers commonly have. They leave the bounding set, which no program's start gives back,
//! and a namespace in which there would be all of them again is refused ([`calls`]).

#![allow(unsafe_code)]

use nix::errno::Errno;

use super::Step;
use crate::{
    control::Failure,
    os::calls,
    walls::{self, Wall},
};

/// By the numbers of <linux/capability.h>: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID,
/// SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const KEPT: u64 = bits(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31]);

/// WAKE_ALARM: who lacks a capability of another's may not trace it, so envd keeps one that is good
/// for nothing else.
const ENVDS: u64 = bits(&[35]);

/// No kernel has more.
const MOST: libc::c_ulong = 63;

const fn bits(numbers: &[u32]) -> u64 {
    let (mut all, mut n) = (0, 0);
    while n < numbers.len() {
        all |= 1 << numbers[n];
        n += 1;
    }
    all
}

/// All that the network can still be set up with.
pub(super) fn begin() -> Result<(), Failure> {
    if !walls::is_down(Wall::Keyring) {
        leave_keyring().step("leave the session keyring of who started the gateway")?;
    }
    calls::confine_more().step("install the second filter of system calls")?;
    if !walls::is_down(Wall::Capabilities) {
        bound_capabilities().step("leave capabilities out of the bounding set")?;
    }
    Ok(())
}

pub(super) fn finish() -> Result<(), Failure> {
    if !walls::is_down(Wall::Capabilities) {
        keep_capabilities().step("give capabilities away")?;
    }
    Ok(())
}

/// A kernel without keys has none to leave, and one that refuses the call, as where the gateway is
/// itself in a container, does so for ever after.
fn leave_keyring() -> nix::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: no name is passed, and no memory.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
    match Errno::result(joined) {
        Ok(_) | Err(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn bound_capabilities() -> nix::Result<()> {
    for number in (0..=MOST).filter(|number| KEPT & (1 << number) == 0) {
        // SAFETY: no memory is passed.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        match Errno::result(dropped) {
            Ok(_) => {}
            // Beyond the last that this kernel has.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Of envd's own.
fn keep_capabilities() -> nix::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    // Effective, permitted, inheritable, of the lower and of the upper 32.
    let own = KEPT | ENVDS;
    let [low, high] = [own as u32, (own >> 32) as u32];
    let data = [low, low, 0, high, high, 0];
    // SAFETY: both have the form of the kernel's structures of that version and live for the call.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    Errno::result(set).map(drop)
}
