//! What a process is sent: its standard input or its terminal.
//!
//! A process that does not read must not hold up more than its own clients, nor those for ever.

use std::{io, os::fd::AsFd, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::stream::Stream;
use crate::os;

/// How long a write waits for the process to read.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests that wait to write to one process, each holding its message.
const MAX_WAITING: usize = 8;

pub(super) struct Input {
    channel: Channel,
    waiting: Semaphore,
    /// Cancelled by the end, so that it need not queue behind writes that wait.
    closed: CancellationToken,
}

enum Channel {
    /// Locked by whoever writes, in the order they came.
    Pipe(Mutex<Option<Stream>>),
    Terminal {
        /// `None` after the end: an open side of a terminal is a scarce thing.
        stream: parking_lot::Mutex<Option<Arc<Stream>>>,
        writing: Mutex<()>,
    },
    Closed,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("stdin not enabled or closed")]
    Closed,
    #[error("tty assigned to process")]
    IsTerminal,
    #[error("tty not assigned to process")]
    NoTerminal,
    #[error("the process did not read its input within {} s", PATIENCE.as_secs())]
    NotRead,
    #[error("{MAX_WAITING} writes wait for the process to read already")]
    TooMany,
    #[error(transparent)]
    Io(io::Error),
}

impl Input {
    pub(super) fn pipe(stream: Stream) -> Self {
        Self::new(Channel::Pipe(Mutex::new(Some(stream))))
    }

    pub(super) fn terminal(stream: Arc<Stream>) -> Self {
        let stream = parking_lot::Mutex::new(Some(stream));
        Self::new(Channel::Terminal { stream, writing: Mutex::new(()) })
    }

    pub(super) fn closed() -> Self {
        Self::new(Channel::Closed)
    }

    fn new(channel: Channel) -> Self {
        let closed = CancellationToken::new();
        Self { channel, waiting: Semaphore::new(MAX_WAITING), closed }
    }

    pub(super) async fn write_stdin(&self, bytes: &[u8]) -> Result<(), Error> {
        match &self.channel {
            Channel::Terminal { .. } => Err(Error::IsTerminal),
            Channel::Closed => Err(Error::Closed),
            Channel::Pipe(pipe) => {
                self.patiently(async {
                    let pipe = pipe.lock().await;
                    pipe.as_ref().ok_or(Error::Closed)?.write_all(bytes).await.map_err(Error::Io)
                })
                .await
            }
        }
    }

    pub(super) async fn write_terminal(&self, bytes: &[u8]) -> Result<(), Error> {
        let (terminal, writing) = self.terminal_side()?;
        self.patiently(async {
            let _turn = writing.lock().await;
            terminal.write_all(bytes).await.map_err(Error::Io)
        })
        .await
    }

    pub(super) fn resize(&self, cols: u16, rows: u16) -> Result<(), Error> {
        let (terminal, _) = self.terminal_side()?;
        os::resize(terminal.as_fd(), cols, rows).map_err(Error::Io)
    }

    /// A client's wish: the process reads its end of file. Writes that wait fail.
    pub(super) async fn close(&self) -> Result<(), Error> {
        if let Channel::Terminal { .. } = &self.channel {
            return Err(Error::IsTerminal);
        }
        self.end().await;
        Ok(())
    }

    /// Lets go of the pipe or terminal.
    pub(super) async fn end(&self) {
        self.closed.cancel();
        match &self.channel {
            Channel::Pipe(pipe) => drop(pipe.lock().await.take()),
            Channel::Terminal { stream, .. } => drop(stream.lock().take()),
            Channel::Closed => {}
        }
    }

    fn terminal_side(&self) -> Result<(Arc<Stream>, &Mutex<()>), Error> {
        let Channel::Terminal { stream, writing } = &self.channel else {
            return Err(Error::NoTerminal);
        };
        Ok((stream.lock().clone().ok_or(Error::Closed)?, writing))
    }

    async fn patiently(&self, write: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Error::TooMany)?;
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(Error::Closed),
            written = timeout(PATIENCE, write) => written.unwrap_or(Err(Error::NotRead)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread() -> (Stream, Input) {
        let (read, write) = nix::unistd::pipe().unwrap();
        (Stream::new(read).unwrap(), Input::pipe(Stream::new(write).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_does_not_read_costs_patience_only() {
        let (_read, input) = unread();
        let error = input.write_stdin(&vec![0; 1 << 20]).await.unwrap_err();
        assert!(matches!(error, Error::NotRead));
    }

    #[tokio::test]
    async fn closing_does_not_queue_behind_a_write_that_waits() {
        let (read, input) = unread();
        let input = Arc::new(input);
        let writer = tokio::spawn({
            let input = input.clone();
            async move { input.write_stdin(&vec![0; 1 << 20]).await }
        });
        tokio::task::yield_now().await;
        input.close().await.unwrap();
        assert!(matches!(writer.await.unwrap(), Err(Error::Closed)));
        while !read.read(4096).await.is_empty() {}
        assert!(matches!(input.write_stdin(b"x").await, Err(Error::Closed)));
    }

    #[tokio::test]
    async fn writes_that_wait_are_bounded() {
        let (_read, input) = unread();
        let input = Arc::new(input);
        for _ in 0..MAX_WAITING {
            let input = input.clone();
            tokio::spawn(async move { input.write_stdin(&vec![0; 1 << 20]).await });
        }
        tokio::task::yield_now().await;
        assert!(matches!(input.write_stdin(b"x").await, Err(Error::TooMany)));
    }
}
