//! FreeBSD: a jail's envd is a program started anew each time; here it becomes a process of its
//! own, which nobody in the jail can look into.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::errno::Errno;

/// Takes what was given, which is its control socket, and lets go of all else.
///
/// # Errors
/// When that is not where it should be.
pub(crate) fn become_first_process(control: OwnedFd) -> io::Result<OwnedFd> {
    // SAFETY: nothing above the control socket is anybody's value yet: this is called before
    // anything is opened.
    unsafe { libc::closefrom(control.as_raw_fd() + 1) };
    leave_session();
    hide();
    Ok(control)
}

/// A session of its own, so that no terminal of the host's is its own, and no name of somebody on
/// the host is what getlogin(2) tells in the jail.
fn leave_session() {
    // SAFETY: no memory is passed but a string that lives for the call.
    unsafe {
        // Who leads a session already cannot begin one, and need not.
        if libc::setsid() < 0 && libc::getsid(0) != libc::getpid() {
            eprintln!("envd: setsid(): {}; the session stays the gateway's", Errno::last().desc());
            return;
        }
        if libc::setlogin(c"root".as_ptr()) < 0 {
            eprintln!("envd: setlogin(\"root\"): {}", Errno::last().desc());
        }
    }
}

/// procctl(2): no ptrace(2), ktrace(2) or procfs(5) for anyone in the jail, and no core file. What
/// it starts is free of that again, from its own execve(2) on.
fn hide() {
    let mut disable = libc::PROC_TRACE_CTL_DISABLE;
    // SAFETY: PROC_TRACE_CTL reads one integer, which lives for the call.
    let hidden = unsafe {
        let own = libc::id_t::from(libc::getpid().unsigned_abs());
        libc::procctl(libc::P_PID, own, libc::PROC_TRACE_CTL, (&raw mut disable).cast())
    };
    if hidden < 0 {
        let why = Errno::last().desc();
        eprintln!("envd: procctl(PROC_TRACE_CTL, DISABLE): {why}; the jail's root may trace envd");
    }
}
