//! Pseudo-terminals.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    pty::{Winsize, openpty},
    sys::stat::{Mode, fchmod},
    unistd::{Gid, Uid, fchown},
};

/// Opens a terminal of that size, owned by `uid`. Returns the controlling side, which does not
/// block, and the side for the process.
///
/// The descriptors are close-on-exec only a moment after they exist: callers that fork hold the
/// lock under which this is called.
pub(crate) fn open(cols: u16, rows: u16, uid: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = openpty(&winsize(cols, rows), None)?;
    for side in [&pair.master, &pair.slave] {
        fcntl(side, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    fchown(&pair.slave, Some(Uid::from_raw(uid)), None::<Gid>)?;
    fchmod(&pair.slave, Mode::from_bits_truncate(0o620))?;
    fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
    Ok((pair.master, pair.slave))
}

/// Tells the terminal its new size; the kernel sends SIGWINCH.
pub(crate) fn resize(terminal: BorrowedFd<'_>, cols: u16, rows: u16) -> io::Result<()> {
    let size = winsize(cols, rows);
    // SAFETY: TIOCSWINSZ reads a winsize, which lives until the call returns.
    let rc = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn winsize(cols: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}
