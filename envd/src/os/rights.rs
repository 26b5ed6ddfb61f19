//! Descriptors over a unix socket (`SCM_RIGHTS`), and the one inherited at a fixed number.

#![allow(unsafe_code)]

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg},
};

/// The kernel's own limit for one message (Linux: SCM_MAX_FD).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// Sends `byte` with `descriptors` on it.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    byte: u8,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::Error::other(format!(
            "{} descriptors in one message, at most {MAX_DESCRIPTORS}",
            descriptors.len()
        )));
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let bytes = [byte];
    loop {
        match sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one byte and the descriptors on it, all of them close-on-exec.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<(u8, Vec<OwnedFd>)> {
    let mut byte = [0];
    let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let (bytes, flags, raw) = loop {
        let mut parts = [IoSliceMut::new(&mut byte)];
        match recvmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        ) {
            Ok(message) => {
                let mut raw = Vec::new();
                for control in message.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(fds) = control {
                        raw.extend(fds);
                    }
                }
                break (message.bytes, message.flags, raw);
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let descriptors = raw
        .into_iter()
        // SAFETY: the kernel has just made these descriptors for us, nobody else knows them.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect();
    if bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::other("descriptors were cut off: out of descriptors?"));
    }
    Ok((byte[0], descriptors))
}

/// Takes over the descriptor that the parent left at `number`, which must be called once at most.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only looks whether the number is open; ownership is taken afterwards.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open, was left for us by whoever started us, and envd takes it exactly once,
    // at its start.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
