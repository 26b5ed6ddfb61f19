//! A stream socket with code in a sandbox at its other end, or that such code handed over and may
//! still hold.
//!
//! Whoever else holds it can take `O_NONBLOCK` off it, or ask for a close that waits, at any time;
//! so every call says itself that it must not wait, and see [`super::closing`]. To a unix socket
//! it can send descriptors that nobody asked for: a plain read(2) would close them, and wait.

#![allow(unsafe_code)]

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, SockaddrLike as _, SockaddrStorage,
        UnixAddr, connect, getsockname, getsockopt, send, sendmsg, setsockopt, shutdown, socket,
        sockopt,
    },
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, unix::AsyncFd};

use super::{
    closing::{Foreign, close_elsewhere},
    host::SHUTDOWN_KEEPS_UNREAD,
    rights::{Descriptors, receive_into},
};

/// Such a socket. What is written to one whose peer has gone is an error, not a signal.
pub struct Handed {
    /// `None` while it is dropped.
    socket: Option<AsyncFd<Foreign>>,
    /// The same socket while there is no room to write. Only then is room news: told of it always,
    /// a unix socket's owner is woken each time that the other end has read.
    full: Option<AsyncFd<OwnedFd>>,
    /// Whether somebody waits for that.
    blocked: bool,
    unix: bool,
}

impl Handed {
    /// Connects to a socket that is listened on in a sandbox. Within a runtime.
    ///
    /// # Errors
    /// Of connect(2); [`io::ErrorKind::WouldBlock`] where the backlog is full (Linux).
    pub fn dial(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Self::unix(socket)
    }

    /// Takes a unix socket that is connected and does not block. Within a runtime.
    pub(crate) fn unix(socket: OwnedFd) -> io::Result<Self> {
        // Linux: reads skip what was sent out of band, and close what came with it.
        setsockopt(&socket, sockopt::OobInline, &true)?;
        Self::watch(Foreign::new(socket), true)
    }

    /// Takes a TCP socket that was handed over. Within a runtime.
    ///
    /// # Errors
    /// For anything else.
    pub(crate) fn tcp(socket: Foreign) -> io::Result<Self> {
        match is_tcp(&socket) {
            Ok(true) => Self::watch(socket, false),
            not => {
                close_elsewhere(vec![socket]);
                Err(not.err().unwrap_or_else(|| io::Error::other("what came is no TCP socket")))
            }
        }
    }

    fn watch(socket: Foreign, unix: bool) -> io::Result<Self> {
        // SAFETY: it names the same open descriptor for as long as it lives, which is as long as
        // the AsyncFd.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self { socket: Some(socket), full: None, blocked: false, unix })
    }

    fn socket(&self) -> &AsyncFd<Foreign> {
        self.socket.as_ref().expect("it is taken by drop only")
    }

    /// The next byte of a unix socket, and the descriptors on it.
    pub(crate) async fn receive(&self) -> io::Result<(u8, Vec<Foreign>)> {
        loop {
            let mut ready = self.socket().readable().await?;
            let mut byte = [MaybeUninit::new(0_u8)];
            let received = ready.try_io(|socket| {
                receive_into(socket.get_ref().as_fd(), &mut byte, libc::MSG_DONTWAIT)
            });
            let Ok(received) = received else { continue };
            let (bytes, descriptors) = received?;
            let (Descriptors::All(descriptors) | Descriptors::Some(descriptors)) = descriptors;
            let descriptors = descriptors.into_iter().map(Foreign::new).collect();
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // SAFETY: it was initialized.
            return Ok((unsafe { byte[0].assume_init() }, descriptors));
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        send: impl Fn(MsgFlags) -> nix::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            let Some(full) = &self.full else {
                match send(flags) {
                    Err(Errno::EAGAIN) => {
                        let again = self.socket().get_ref().as_fd().try_clone_to_owned()?;
                        // SAFETY: it names the same open descriptor for as long as it lives, which
                        // is as long as the AsyncFd.
                        let again =
                            unsafe { AsyncFd::register_with_interest(again, Interest::WRITABLE) }?;
                        self.full = Some(again);
                    }
                    Err(Errno::EINTR) => {}
                    sent => return Poll::Ready(sent.map_err(io::Error::from)),
                }
                continue;
            };
            self.blocked = true;
            let mut ready = ready!(full.poll_write_ready(cx))?;
            match ready.try_io(|_| Ok(send(flags)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(sent) => {
                    // The rest found no room, and room again is news.
                    if sent.as_ref().is_ok_and(|&sent| 0 < sent && sent < length) {
                        ready.clear_ready();
                    }
                    self.blocked = false;
                    return Poll::Ready(sent);
                }
                Err(_) => {}
            }
        }
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        // Never the last to be closed.
        self.full = None;
        let Some(socket) = self.socket.take().filter(|_| self.unix) else { return };
        let socket = socket.into_inner();
        // From here on nothing comes in, so what is counted then is all there ever is. Where that
        // would itself close what came, what comes at the last moment is closed impatiently.
        let ended = !SHUTDOWN_KEEPS_UNREAD || shutdown(socket.as_raw_fd(), Shutdown::Both).is_ok();
        if !ended || unread(&socket) != Ok(0) {
            close_elsewhere(vec![socket]);
        }
    }
}

fn is_tcp(socket: &Foreign) -> io::Result<bool> {
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd())?;
    let internet = matches!(address.family(), Some(AddressFamily::Inet | AddressFamily::Inet6));
    Ok(internet
        && getsockopt(socket, sockopt::SockType)? == SockType::Stream
        && protocol(socket)? == libc::IPPROTO_TCP)
}

/// Which of the protocols of its family.
fn protocol(socket: &Foreign) -> nix::Result<libc::c_int> {
    let mut protocol = 0;
    let mut length = size_of_val(&protocol) as libc::socklen_t;
    // SAFETY: the kernel writes one integer, which lives for the call.
    let asked = unsafe {
        let (level, name) = (libc::SOL_SOCKET, libc::SO_PROTOCOL);
        let value = (&raw mut protocol).cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut length)
    };
    Errno::result(asked).map(|_| protocol)
}

fn nothing_but_bytes(descriptors: Descriptors) -> io::Result<()> {
    match descriptors {
        Descriptors::All(none) if none.is_empty() => Ok(()),
        Descriptors::All(unasked) | Descriptors::Some(unasked) => {
            close_elsewhere(unasked.into_iter().map(Foreign::new).collect());
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "descriptors came that nobody asked for",
            ))
        }
    }
}

/// How many bytes wait to be read, with whatever came with them.
fn unread(socket: &Foreign) -> nix::Result<libc::c_int> {
    let mut bytes = 0;
    // SAFETY: the kernel writes one integer, which lives for the call.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    Errno::result(asked).map(|_| bytes)
}

impl AsyncRead for Handed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.socket().poll_read_ready(cx))?;
            // SAFETY: what is initialized stays so.
            let room = unsafe { buffer.unfilled_mut() };
            let received = ready.try_io(|socket| {
                if self.unix {
                    let socket = socket.get_ref().as_fd();
                    let (bytes, descriptors) = receive_into(socket, room, libc::MSG_DONTWAIT)?;
                    return nothing_but_bytes(descriptors).map(|()| bytes);
                }
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
                    if !self.blocked {
                        self.full = None;
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = self.socket().get_ref().as_raw_fd();
        self.poll_send(cx, bytes.len(), |flags| send(socket, bytes, flags))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.socket().get_ref().as_raw_fd();
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
        Poll::Ready(Ok(shutdown(self.socket().get_ref().as_raw_fd(), Shutdown::Write)?))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::net::UnixStream,
        time::{Duration, Instant},
    };

    use nix::{
        fcntl::{FcntlArg, OFlag, fcntl},
        sys::socket::ControlMessage,
    };
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
        let mut handed = Handed::unix(ours.into()).unwrap();
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
        let mut ours = Handed::unix(ours.into()).unwrap();
        let theirs = Handed::unix(theirs.into()).unwrap();
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
    async fn who_waits_for_room_is_woken_though_something_is_read_meanwhile() {
        let (mut ours, mut theirs) = pair();
        let chunk = [7; 64 << 10];
        let mut sent = 0;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(more) = Pin::new(&mut ours).poll_write(&mut cx, &chunk) {
            sent += more.unwrap();
        }
        theirs.write_all(b"x").unwrap();
        // One task that writes and reads by turns, and nothing more to read.
        let write = std::future::poll_fn(|cx| {
            let written = Pin::new(&mut ours).poll_write(cx, &chunk);
            let mut byte = [0];
            let mut byte = ReadBuf::new(&mut byte);
            let _ = Pin::new(&mut ours).poll_read(cx, &mut byte);
            written
        });
        let drain = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(100));
            let mut taken = vec![0; sent];
            std::io::Read::read_exact(&mut theirs, &mut taken).map(|()| theirs)
        });
        let began = Instant::now();
        // When its time is over it is polled once more, which is not what woke it.
        let written = timeout(Duration::from_secs(20), write).await;
        assert!(written.expect("it is never woken").unwrap() > 0);
        assert!(began.elapsed() < Duration::from_secs(20), "it is never woken");
        drain.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn nothing_but_a_tcp_socket_is_taken() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Handed::tcp(Foreign::new(tcp.into())).is_ok());
        let (read, _write) = nix::unistd::pipe().unwrap();
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        for other in [read, datagrams.into(), unix.into()] {
            assert!(Handed::tcp(Foreign::new(other)).is_err());
        }
    }

    /// Sends a byte with a socket on it whose last close would take a minute, and what is to be
    /// held until it is seen that it did not.
    fn send_lingering(over: &UnixStream, out_of_band: bool) -> impl Sized + use<> {
        let (lingering, held) = crate::os::closing::lingering();
        let rights = [lingering.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&rights)];
        let flags = if out_of_band { MsgFlags::MSG_OOB } else { MsgFlags::empty() };
        let bytes = [IoSlice::new(b"x")];
        sendmsg::<UnixAddr>(over.as_raw_fd(), &bytes, &rights, flags, None).unwrap();
        held
    }

    fn pair() -> (Handed, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Handed::unix(ours.into()).unwrap(), theirs)
    }

    #[tokio::test]
    async fn descriptors_nobody_asked_for_keep_no_reader_and_end_the_connection() {
        for out_of_band in [false, true] {
            let (mut ours, theirs) = pair();
            let _held = send_lingering(&theirs, out_of_band);
            let began = Instant::now();
            let failed = ours.read_u8().await.unwrap_err();
            assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
            drop(ours);
            assert!(began.elapsed() < Duration::from_secs(20), "{out_of_band}");
        }
    }

    #[tokio::test]
    async fn descriptors_that_nobody_has_read_keep_nobody_either() {
        for out_of_band in [false, true] {
            let (ours, theirs) = pair();
            let _held = send_lingering(&theirs, out_of_band);
            let began = Instant::now();
            drop(ours);
            assert!(began.elapsed() < Duration::from_secs(20), "{out_of_band}");
        }
    }
}
