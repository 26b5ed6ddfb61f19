//! A stream socket that another process handed over, and may still hold.
//!
//! Whoever else holds it can take `O_NONBLOCK` off it, or ask for a close that waits, at any time;
//! so every call says itself that it must not wait.

#![allow(unsafe_code)]

use std::{
    io::{self, IoSlice},
    os::fd::{AsRawFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
};

use nix::sys::socket::{
    MsgFlags, Shutdown, SockType, UnixAddr, getsockopt, send, sendmsg, setsockopt, shutdown,
    sockopt,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, unix::AsyncFd};

/// Such a socket. What is written to one whose peer has gone is an error, not a signal.
pub struct Handed(AsyncFd<OwnedFd>);

impl Handed {
    /// Within a runtime.
    ///
    /// # Errors
    /// For anything but a stream socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        if getsockopt(&socket, sockopt::SockType)? != SockType::Stream {
            return Err(io::Error::other("what was handed over is no stream socket"));
        }
        super::watch(socket).map(Self)
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        send: impl Fn(MsgFlags) -> nix::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match ready.try_io(|_| Ok(send(flags)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(sent) => {
                    // The rest found no room, and room again is news.
                    if sent.as_ref().is_ok_and(|&sent| 0 < sent && sent < length) {
                        ready.clear_ready();
                    }
                    return Poll::Ready(sent);
                }
                Err(_) => {}
            }
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        let none = libc::linger { l_onoff: 0, l_linger: 0 };
        // Fails only where there is no connection to linger.
        let _ = setsockopt(self.0.get_ref(), sockopt::Linger, &none);
    }
}

impl AsyncRead for Handed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            // SAFETY: what is initialized stays so.
            let room = unsafe { buffer.unfilled_mut() };
            let received = ready.try_io(|socket| {
                // SAFETY: the kernel writes at most `room.len()` bytes to `room`, which is ours
                // until the call returns.
                let received = unsafe {
                    let flags = libc::MSG_DONTWAIT;
                    libc::recv(socket.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), flags)
                };
                usize::try_from(received).map_err(|_| io::Error::last_os_error())
            });
            match received {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(received) => {
                    let received = received?;
                    // That was all there is, and more will be news; an end is kept apart.
                    if 0 < received && received < room.len() {
                        ready.clear_ready();
                    }
                    // SAFETY: that many bytes were just written to the start of what was unfilled.
                    unsafe { buffer.assume_init(received) };
                    buffer.advance(received);
                    return Poll::Ready(Ok(()));
                }
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Handed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = self.0.get_ref().as_raw_fd();
        self.poll_send(cx, bytes.len(), |flags| send(socket, bytes, flags))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.0.get_ref().as_raw_fd();
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_send(cx, length, |flags| sendmsg::<UnixAddr>(socket, slices, &[], flags, None))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(shutdown(self.0.get_ref().as_raw_fd(), Shutdown::Write)?))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixStream, time::Duration};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn one_that_was_made_blocking_again_does_not_block() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let kept = ours.try_clone().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut handed = Handed::new(ours.into()).unwrap();
        fcntl(&kept, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        theirs.write_all(b"hello").unwrap();
        let mut buffer = [0; 5];
        handed.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"hello");
        // With nothing to read, and then with no room to write.
        let silence = timeout(Duration::from_millis(50), handed.read_u8()).await;
        assert!(silence.is_err());
        let endless = async { while handed.write_all(&[0; 65536]).await.is_ok() {} };
        assert!(timeout(Duration::from_millis(200), endless).await.is_err());
    }

    #[tokio::test]
    async fn bytes_go_both_ways_to_their_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for socket in [&ours, &theirs] {
            socket.set_nonblocking(true).unwrap();
        }
        let mut ours = Handed::new(ours.into()).unwrap();
        let theirs = Handed::new(theirs.into()).unwrap();
        let echo = tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(theirs);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        let (mut from, mut to) = tokio::io::split(&mut ours);
        let mut received = Vec::new();
        let (_, read) = tokio::join!(
            async {
                to.write_all(&sent).await.unwrap();
                to.shutdown().await.unwrap();
            },
            from.read_to_end(&mut received),
        );
        read.unwrap();
        assert!(received == sent);
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn nothing_but_a_stream_socket_is_taken() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        assert!(Handed::new(read).is_err());
    }
}
