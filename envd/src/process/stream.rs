//! Pipes and terminals without blocking, and without a buffer for those that are silent.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bytes::Bytes;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
};
use tokio::io::unix::AsyncFd;

use crate::os;

/// The largest chunk that is read from a pipe at once.
pub(super) const PIPE_CHUNK: usize = 32 << 10;
/// The same for a terminal.
pub(super) const TERMINAL_CHUNK: usize = 16 << 10;

/// Our end of a pipe or terminal.
pub(super) struct Stream(AsyncFd<OwnedFd>);

impl Stream {
    /// Within a runtime.
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?);
        fcntl(&descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(os::watch(descriptor)?))
    }

    /// Waits for what is there, at most `limit` bytes; nothing is the end.
    pub(super) async fn read(&self, limit: usize) -> Bytes {
        loop {
            let Ok(mut ready) = self.0.readable().await else { return Bytes::new() };
            if let Ok(read) = ready.try_io(|stream| read_chunk(stream.as_fd(), limit)) {
                // Linux: a terminal nobody has open any more says EIO.
                return read.unwrap_or_default();
            }
        }
    }

    /// What is there now, `None` when nothing is or ever will be.
    pub(super) fn read_now(&self, limit: usize) -> Option<Bytes> {
        read_chunk(self.0.get_ref().as_fd(), limit).ok().filter(|chunk| !chunk.is_empty())
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|stream| Ok(nix::unistd::write(stream.get_ref(), bytes)?)) {
                Ok(Ok(written)) => bytes = &bytes[written..],
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// Reads into the stack and copies what came, so that an idle stream holds no memory.
fn read_chunk(stream: BorrowedFd<'_>, limit: usize) -> io::Result<Bytes> {
    let mut buffer = [0; PIPE_CHUNK];
    loop {
        match nix::unistd::read(stream, &mut buffer[..limit.min(PIPE_CHUNK)]) {
            Ok(length) => return Ok(Bytes::copy_from_slice(&buffer[..length])),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pipe() -> (Stream, Stream) {
        let (read, write) = nix::unistd::pipe().unwrap();
        (Stream::new(read).unwrap(), Stream::new(write).unwrap())
    }

    #[tokio::test]
    async fn what_is_written_is_read_in_chunks_until_the_end() {
        let (read, write) = pipe();
        let written = vec![7; 100_000];
        let expect = written.clone();
        let writer = tokio::spawn(async move { write.write_all(&written).await });
        let mut got = Vec::new();
        loop {
            let chunk = read.read(PIPE_CHUNK).await;
            if chunk.is_empty() {
                break;
            }
            assert!(chunk.len() <= PIPE_CHUNK);
            got.extend_from_slice(&chunk);
        }
        writer.await.unwrap().unwrap();
        assert_eq!(got, expect);
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_an_error_and_not_a_signal() {
        let (read, write) = pipe();
        drop(read);
        let error = write.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn an_empty_pipe_waits() {
        let (read, _write) = pipe();
        assert_eq!(read.read_now(10), None);
        assert!(tokio::time::timeout(Duration::from_millis(20), read.read(10)).await.is_err());
    }
}
