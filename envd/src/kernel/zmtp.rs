//! ZMTP 3.0, the little of it that a client of a kernel needs: one connection on a unix socket, as
//! DEALER or SUB, without encryption.
//!
//! Frames come in pieces as they arrive, so that how much memory one takes is the reader's choice
//! and not the sender's.

use std::{io, path::Path};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::os::Handed;

/// Read at once (bytes).
const CHUNK: usize = 64 << 10;

/// Frames of which more is said in one command than this are refused (bytes).
const MAX_COMMAND: u64 = 1 << 10;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What this end is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Dealer,
    Sub,
}

/// A connection whose greetings have been said.
pub(super) struct Socket {
    stream: Handed,
    frames: Frames,
}

/// What has come and not been looked at.
#[derive(Default)]
pub(super) struct Frames {
    buffer: BytesMut,
    at: At,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Header,
    Frame {
        left: u64,
        length: u64,
        more: bool,
    },
}

/// A part of one frame of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// Of the whole frame.
    pub(super) length: u64,
    /// Whether the frame ends with this piece.
    pub(super) ends: bool,
    /// Whether another frame of the same message follows.
    pub(super) more: bool,
}

impl Socket {
    pub(super) async fn connect(path: &Path, kind: Kind) -> io::Result<Self> {
        let stream = Handed::dial(path)?;
        let mut socket = Self { stream, frames: Frames::default() };
        socket.greet(kind).await?;
        if let Kind::Sub = kind {
            // To everything.
            socket.send([&b"\x01"[..]]).await?;
        }
        Ok(socket)
    }

    async fn greet(&mut self, kind: Kind) -> io::Result<()> {
        let mut greeting = [0; 64];
        greeting[0] = 0xff;
        greeting[9] = 0x7f;
        greeting[10] = 3;
        greeting[12..16].copy_from_slice(b"NULL");
        self.stream.write_all(&greeting).await?;
        let mut theirs = [0; 64];
        self.stream.read_exact(&mut theirs).await?;
        if theirs[0] != 0xff || theirs[10] < 3 || &theirs[12..17] != b"NULL\0" {
            return Err(invalid("not a greeting of ZMTP 3 without encryption"));
        }
        let name: &[u8] = match kind {
            Kind::Dealer => b"DEALER",
            Kind::Sub => b"SUB",
        };
        let mut ready = b"\x05READY".to_vec();
        for (property, value) in [(&b"Socket-Type"[..], name), (b"Identity", b"")] {
            ready.push(property.len() as u8);
            ready.extend_from_slice(property);
            ready.extend_from_slice(&(value.len() as u32).to_be_bytes());
            ready.extend_from_slice(value);
        }
        let mut frame = vec![COMMAND, ready.len() as u8];
        frame.append(&mut ready);
        self.stream.write_all(&frame).await?;

        let mut header = [0; 2];
        self.stream.read_exact(&mut header).await?;
        let mut body = vec![0; usize::from(header[1])];
        self.stream.read_exact(&mut body).await?;
        if header[0] != COMMAND || !body.starts_with(b"\x05READY") {
            return Err(invalid("the peer is not ready"));
        }
        Ok(())
    }

    /// Sends one message. When this is given up half-way the connection is good for nothing more.
    pub(super) async fn send<'a>(
        &mut self,
        frames: impl IntoIterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        let mut out = Vec::new();
        let mut frames = frames.into_iter().peekable();
        while let Some(frame) = frames.next() {
            let more = if frames.peek().is_some() { MORE } else { 0 };
            match u8::try_from(frame.len()) {
                Ok(length) => out.extend_from_slice(&[more, length]),
                Err(_) => {
                    out.push(more | LONG);
                    out.extend_from_slice(&(frame.len() as u64).to_be_bytes());
                }
            }
            out.extend_from_slice(frame);
        }
        self.stream.write_all(&out).await
    }

    /// The next piece of what comes. Can be given up and called again.
    pub(super) async fn read(&mut self) -> io::Result<Piece> {
        loop {
            if let Some(piece) = self.frames.next()? {
                return Ok(piece);
            }
            let buffer = &mut self.frames.buffer;
            buffer.reserve(CHUNK);
            if self.stream.read_buf(buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl Frames {
    #[cfg(feature = "fuzzing")]
    pub(super) fn come(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// `None` while more is needed.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            match self.at {
                At::Header => {
                    let Some((flags, length, size)) = header(&self.buffer)? else {
                        return Ok(None);
                    };
                    if flags & COMMAND == 0 {
                        self.buffer.advance(size);
                        let more = flags & MORE != 0;
                        self.at = At::Frame { left: length, length, more };
                        continue;
                    }
                    // None of them matters to us.
                    if length > MAX_COMMAND {
                        return Err(invalid("a command that is too long"));
                    }
                    let whole = size + length as usize;
                    if self.buffer.len() < whole {
                        return Ok(None);
                    }
                    self.buffer.advance(whole);
                }
                At::Frame { left, length, more } => {
                    if left > 0 && self.buffer.is_empty() {
                        return Ok(None);
                    }
                    let here = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let bytes = self.buffer.split_to(here).freeze();
                    let left = left - here as u64;
                    let ends = left == 0;
                    self.at = if ends { At::Header } else { At::Frame { left, length, more } };
                    return Ok(Some(Piece { bytes, length, ends, more }));
                }
            }
        }
    }
}

/// Flags, length of the frame, and length of the header itself; `None` when it is not all there.
fn header(buffer: &[u8]) -> io::Result<Option<(u8, u64, usize)>> {
    let Some((&flags, rest)) = buffer.split_first() else { return Ok(None) };
    if flags & !(MORE | LONG | COMMAND) != 0 {
        return Err(invalid("not a frame"));
    }
    Ok(if flags & LONG == 0 {
        rest.first().map(|&length| (flags, u64::from(length), 2))
    } else {
        rest.first_chunk().map(|&length| (flags, u64::from_be_bytes(length), 9))
    })
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
pub(super) mod tests {
    use std::{io::IoSlice, os::fd::AsRawFd};

    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    /// A kernel's end: says its greetings and hands over the bare connection.
    pub(in crate::kernel) async fn accept(listener: &UnixListener) -> UnixStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut greeting = [0; 64];
        stream.read_exact(&mut greeting).await.unwrap();
        stream.write_all(&greeting).await.unwrap();
        stream.write_all(b"\x04\x06\x05READY").await.unwrap();
        let mut header = [0; 2];
        stream.read_exact(&mut header).await.unwrap();
        let mut ready = vec![0; usize::from(header[1])];
        stream.read_exact(&mut ready).await.unwrap();
        stream
    }

    async fn pair(kind: Kind) -> (Socket, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let (socket, peer) = tokio::join!(Socket::connect(&path, kind), accept(&listener));
        (socket.unwrap(), peer)
    }

    /// The frames of one message.
    async fn message(socket: &mut Socket) -> io::Result<Vec<Vec<u8>>> {
        let (mut frames, mut frame) = (Vec::new(), Vec::new());
        loop {
            let piece = socket.read().await?;
            frame.extend_from_slice(&piece.bytes);
            if piece.ends {
                assert_eq!(piece.length, frame.len() as u64);
                frames.push(std::mem::take(&mut frame));
                if !piece.more {
                    return Ok(frames);
                }
            }
        }
    }

    #[tokio::test]
    async fn frames_long_and_short_go_both_ways() {
        let frames = [b"".to_vec(), vec![1; 255], vec![2; 256], vec![3; 1 << 20]];
        let (mut socket, mut peer) = pair(Kind::Dealer).await;
        let echo = tokio::spawn(async move {
            let mut sent = vec![0; 2 + 2 + 255 + 9 + 256 + 9 + (1 << 20)];
            peer.read_exact(&mut sent).await.unwrap();
            // A command in between is nobody's business.
            peer.write_all(b"\x04\x05\x04PING").await.unwrap();
            peer.write_all(&sent).await.unwrap();
            peer
        });
        socket.send(frames.iter().map(Vec::as_slice)).await.unwrap();
        assert_eq!(message(&mut socket).await.unwrap(), frames);
        drop(echo.await.unwrap());
        assert_eq!(socket.read().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_subscriber_asks_for_everything() {
        let (_socket, mut peer) = pair(Kind::Sub).await;
        let mut subscription = [0; 3];
        peer.read_exact(&mut subscription).await.unwrap();
        assert_eq!(&subscription, b"\x00\x01\x01");
    }

    #[tokio::test]
    async fn an_absurd_length_costs_no_memory_and_nonsense_is_refused() {
        let (mut socket, mut peer) = pair(Kind::Dealer).await;
        peer.write_all(b"\x02\xff\xff\xff\xff\xff\xff\xff\xffabc").await.unwrap();
        let piece = socket.read().await.unwrap();
        assert_eq!((&piece.bytes[..], piece.length, piece.ends), (&b"abc"[..], u64::MAX, false));
        for nonsense in [&b"\x80"[..], b"\x06\x00\x00\x00\x00\x00\x01\x00\x00"] {
            let (mut socket, mut peer) = pair(Kind::Dealer).await;
            peer.write_all(nonsense).await.unwrap();
            assert_eq!(socket.read().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }

    #[tokio::test]
    async fn descriptors_that_come_with_a_message_end_the_connection() {
        let (mut socket, peer) = pair(Kind::Dealer).await;
        let (read, write) = nix::unistd::pipe().unwrap();
        let rights = [write.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&rights)];
        let frame = [IoSlice::new(b"\x00\x01x")];
        let peer = peer.into_std().unwrap();
        sendmsg::<UnixAddr>(peer.as_raw_fd(), &frame, &rights, MsgFlags::empty(), None).unwrap();
        assert_eq!(socket.read().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(write);
        // Its other end is closed when it is closed everywhere.
        let closed = tokio::task::spawn_blocking(|| io::read_to_string(std::fs::File::from(read)));
        assert_eq!(closed.await.unwrap().unwrap(), "");
    }
}
