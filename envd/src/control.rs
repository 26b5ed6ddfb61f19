//! The control socket: one [`Spec`] in, with its descriptors, and one [`Attached`] out.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::wire::{Attached, Descriptor, MAX_FRAME, Spec};

/// The descriptors that came with a spec, by role.
pub struct Descriptors(Vec<(Descriptor, OwnedFd)>);

impl Descriptors {
    pub fn take(&mut self, role: Descriptor) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(has, _)| *has == role)?;
        Some(self.0.remove(at).1)
    }

    pub fn take_all(&mut self, role: Descriptor) -> Vec<OwnedFd> {
        let (taken, left) =
            std::mem::take(&mut self.0).into_iter().partition(|(has, _)| *has == role);
        self.0 = left;
        let taken: Vec<(Descriptor, OwnedFd)> = taken;
        taken.into_iter().map(|(_, fd)| fd).collect()
    }
}

/// A step of entering that failed.
#[derive(Debug)]
pub struct Failure {
    pub step: String,
    pub errno: Option<i32>,
    pub message: String,
}

pub fn send_spec(socket: BorrowedFd<'_>, spec: &Spec, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(spec)?;
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let mut sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&frame)],
        &[ControlMessage::ScmRights(&raw)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    while sent < frame.len() {
        sent += nix::unistd::write(socket, &frame[sent..])?;
    }
    Ok(())
}

pub fn receive_spec(socket: BorrowedFd<'_>) -> io::Result<(Spec, Descriptors)> {
    let mut head = [0u8; 4];
    let mut got = 0;
    let mut fds = Vec::new();
    while got < 4 {
        let mut space = nix::cmsg_space!([RawFd; 64]);
        let mut parts = [IoSliceMut::new(&mut head[got..])];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for part in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = part {
                fds.extend(raw.into_iter().map(own));
            }
        }
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        got += message.bytes;
    }
    let body = read_body(socket, head)?;
    let spec: Spec = serde_json::from_slice(&body)?;
    let descriptors = Descriptors(spec.descriptors.iter().copied().zip(fds).collect());
    Ok((spec, descriptors))
}

pub fn send_attached(socket: BorrowedFd<'_>, attached: &Attached) -> io::Result<()> {
    let body = serde_json::to_vec(attached)?;
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    let mut sent = 0;
    while sent < frame.len() {
        sent += nix::unistd::write(socket, &frame[sent..])?;
    }
    Ok(())
}

pub fn receive_attached(socket: BorrowedFd<'_>) -> io::Result<Attached> {
    let mut head = [0u8; 4];
    read_exact(socket, &mut head)?;
    Ok(serde_json::from_slice(&read_body(socket, head)?)?)
}

fn read_body(socket: BorrowedFd<'_>, head: [u8; 4]) -> io::Result<Vec<u8>> {
    let length = u32::from_be_bytes(head);
    if length > MAX_FRAME {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length as usize];
    read_exact(socket, &mut body)?;
    Ok(body)
}

fn read_exact(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<()> {
    let mut got = 0;
    while got < buffer.len() {
        match nix::unistd::read(socket, &mut buffer[got..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => got += more,
        }
    }
    Ok(())
}

#[allow(unsafe_code)]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
