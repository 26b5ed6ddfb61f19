//! What of the data plane counts as a stream of a sandbox's, and bytes that come no faster than they
//! may.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, header::CONTENT_TYPE};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::server::Server;
use crate::sandbox::Outflow;

/// Calls of envd's that last as long as their client likes, or nearly so.
const LASTING: [&str; 5] = [
    "/files",
    "/process.Process/Start",
    "/process.Process/Connect",
    "/process.Process/StreamInput",
    "/filesystem.Filesystem/WatchDir",
];

/// Whether it is one from when it is asked for until it has ended. What is over at once is none, so
/// that a process can be ended by whoever has all its streams open.
pub(super) fn counts(server: Server, path: &str) -> bool {
    server != Server::Envd || LASTING.contains(&path)
}

/// What whoever reads how it ends in the words of Connect's streams, and not in a status, is told
/// the answer is.
pub(super) fn connect(headers: &HeaderMap) -> Option<&'static str> {
    let codec = headers.get(CONTENT_TYPE)?.as_bytes().strip_prefix(b"application/connect+")?;
    let proto = codec.starts_with(b"proto");
    Some(if proto { "application/connect+proto" } else { "application/connect+json" })
}

/// Reads no faster than that.
pub(super) struct Paced<S> {
    stream: S,
    outflow: Option<Outflow>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, outflow: Option<Outflow>) -> Self {
        Self { stream, outflow }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, outflow } = &mut *self;
        if let Some(outflow) = outflow {
            ready!(outflow.poll_turn(cx));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buffer))?;
        if let Some(outflow) = outflow {
            outflow.took(buffer.filled().len() - before);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
