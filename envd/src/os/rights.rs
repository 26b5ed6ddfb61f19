//! Descriptors over a unix socket (`SCM_RIGHTS`), and the one inherited at a fixed number.

#![allow(unsafe_code)]

use std::{
    io::{self, IoSlice},
    mem::{self, MaybeUninit},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg},
};

use super::host::CONTROL_BYTES;

/// The kernel's own limit for one message (Linux: SCM_MAX_FD; FreeBSD: as many pointers as fit into
/// 2048 bytes with a header, `unp_internalize` in `sys/kern/uipc_usrreq.c`, which are 254).
pub(crate) const MAX_DESCRIPTORS: usize = 253;

/// Room for whatever a message can carry, aligned as a header is.
const CONTROL: usize = CONTROL_BYTES / size_of::<libc::cmsghdr>() + 1;

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
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Receives one byte and the descriptors on it, all of them close-on-exec.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<(u8, Vec<OwnedFd>)> {
    let mut byte = [MaybeUninit::new(0_u8)];
    let (bytes, descriptors) = receive_into(socket, &mut byte, 0)?;
    if bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: it was initialized.
    let byte = unsafe { byte[0].assume_init() };
    match descriptors {
        Descriptors::All(descriptors) => Ok((byte, descriptors)),
        Descriptors::Some(_) => {
            Err(io::Error::other("descriptors were cut off: out of descriptors?"))
        }
    }
}

/// What came with some bytes; whoever has it owns it.
pub(super) enum Descriptors {
    All(Vec<OwnedFd>),
    /// There were more than this process could take.
    Some(Vec<OwnedFd>),
}

/// Receives as many bytes as there is room for, and the descriptors that came with them. There is
/// room for as many of those as the kernel lets through: it closes the rest, here. FreeBSD: out of
/// descriptors it takes none, which is an error (EMSGSIZE).
pub(super) fn receive_into(
    socket: BorrowedFd<'_>,
    room: &mut [MaybeUninit<u8>],
    flags: libc::c_int,
) -> io::Result<(usize, Descriptors)> {
    let mut control = MaybeUninit::<[libc::cmsghdr; CONTROL]>::uninit();
    let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: all zeroes is a valid value of this plain C structure.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let bytes = loop {
        // SAFETY: the message names room of ours, which lives for the call.
        let bytes = unsafe {
            libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_CMSG_CLOEXEC)
        };
        match Errno::result(bytes) {
            Ok(bytes) => break bytes as usize,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    // Owned before anything is judged.
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has said in `message` how much of `control` it has filled, and with what;
    // these descriptors it has just made for us, and nobody else knows them.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if ((*header).cmsg_level, (*header).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let data = libc::CMSG_DATA(header);
                let length = (*header).cmsg_len as usize - (data as usize - header as usize);
                let numbers = data.cast::<RawFd>();
                descriptors.extend(
                    (0..length / size_of::<RawFd>())
                        .map(|number| OwnedFd::from_raw_fd(numbers.add(number).read_unaligned())),
                );
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    let descriptors = match message.msg_flags & libc::MSG_CTRUNC {
        0 => Descriptors::All(descriptors),
        _ => Descriptors::Some(descriptors),
    };
    Ok((bytes, descriptors))
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

#[cfg(test)]
mod tests {
    use std::os::{fd::AsFd, unix::net::UnixStream};

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;

    fn open_here() -> usize {
        (0..4096)
            .filter(|&fd| {
                // SAFETY: only looks whether the number is open.
                fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_GETFD).is_ok()
            })
            .count()
    }

    /// Once more in a process of its own, whose descriptors are counted and limited.
    #[test]
    fn what_arrives_cut_off_is_closed() {
        const ALONE: &str = "COPPICE_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let test = "os::rights::tests::what_arrives_cut_off_is_closed";
            let again = std::process::Command::new(std::env::current_exe().unwrap())
                .args([test, "--exact", "--nocapture"])
                .env(ALONE, "1")
                .status();
            return assert!(again.unwrap().success());
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        let many = vec![theirs.as_fd(); MAX_DESCRIPTORS];
        send(theirs.as_fd(), 1, &many).unwrap();
        let before = open_here();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, before as libc::rlim_t + 100, hard).unwrap();
        let failed = receive(ours.as_fd());
        assert!(failed.is_err());
        drop(failed);
        assert_eq!(open_here(), before);
        // With room again they all come.
        setrlimit(Resource::RLIMIT_NOFILE, 1024, hard).unwrap();
        send(theirs.as_fd(), 2, &many).unwrap();
        let (byte, descriptors) = receive(ours.as_fd()).unwrap();
        assert_eq!((byte, descriptors.len()), (2, MAX_DESCRIPTORS));
    }
}
