//! What the gateway and envd have from the libc crate for FreeBSD, and this crate has no use for.
//!
//! Looked at because that crate is written for FreeBSD 12 unless it is built on FreeBSD: here its
//! numbers are compared with ours, and ours with the headers of the releases that are supported.

use super::Constant;

macro_rules! same {
    ($($name:ident = $value:expr;)*) => {
        pub const CONSTANTS: &[Constant] =
            &[$(Constant { name: stringify!($name), value: $value }),*];

        #[cfg(target_os = "freebsd")]
        const _: () = {
            $(assert!(libc::$name as i128 == $value, stringify!($name));)*
        };
    };
}

same! {
    // kqueue(2)
    EVFILT_VNODE = -4;
    EVFILT_PROC = -5;
    EVFILT_USER = -11;
    EV_ADD = 0x01;
    EV_CLEAR = 0x20;
    NOTE_DELETE = 0x01;
    NOTE_WRITE = 0x02;
    NOTE_EXTEND = 0x04;
    NOTE_ATTRIB = 0x08;
    NOTE_LINK = 0x10;
    NOTE_RENAME = 0x20;
    NOTE_REVOKE = 0x40;
    NOTE_EXIT = 0x8000_0000;
    NOTE_TRIGGER = 0x0100_0000;

    // procctl(2)
    P_PID = 0;
    PROC_REAP_ACQUIRE = 2;
    PROC_TRACE_CTL = 7;
    PROC_TRACE_CTL_DISABLE = 2;

    // cpuset(2)
    CPU_LEVEL_CPUSET = 2;
    CPU_LEVEL_WHICH = 3;
    CPU_WHICH_PID = 2;
    CPU_WHICH_JAIL = 5;

    // lseek(2), utimensat(2), extattr(2)
    SEEK_DATA = 3;
    SEEK_HOLE = 4;
    AT_FDCWD = -100;
    AT_SYMLINK_NOFOLLOW = 0x0200;
    EXTATTR_NAMESPACE_USER = 1;

    // socket(2), open(2), kill(2), wait(2)
    AF_ROUTE = 17;
    SOCK_RAW = 3;
    SOCK_CLOEXEC = 0x1000_0000;
    O_NONBLOCK = 0x0004;
    O_NOFOLLOW = 0x0100;
    O_NOCTTY = 0x8000;
    O_DIRECTORY = 0x0002_0000;
    SIGKILL = 9;
    SIGSTOP = 17;
    SIGCONT = 19;
    WNOHANG = 1;
}

#[cfg(target_os = "freebsd")]
const _: () = {
    use std::mem::offset_of;

    assert!(size_of::<libc::kevent>() == super::KEVENT_SIZE);
    assert!(offset_of!(libc::kevent, ident) == super::KEVENT_IDENT);
    assert!(offset_of!(libc::kevent, filter) == super::KEVENT_FILTER);
    assert!(offset_of!(libc::kevent, flags) == super::KEVENT_FLAGS);
    assert!(offset_of!(libc::kevent, fflags) == super::KEVENT_FFLAGS);
    assert!(offset_of!(libc::kevent, udata) == super::KEVENT_UDATA);
    assert!(size_of::<libc::stat>() == super::STAT_SIZE);
};
