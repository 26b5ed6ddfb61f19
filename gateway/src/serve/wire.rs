//! The bytes of one client's connection, in the clear or in TLS, and how they end.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::{Place, half_closed::HalfClosed, line::Line};

pub(super) enum Wire {
    Plain(TcpStream),
    /// After the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    pub(super) fn scheme(&self) -> &'static str {
        match self {
            Self::Plain(_) => "http",
            Self::Tls(_) => "https",
        }
    }

    /// The protocol that was agreed on beforehand.
    pub(super) fn protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

/// A connection that tells its [`Line`] what comes, and ends the way that wants.
pub(super) struct Link {
    wire: Wire,
    line: Line,
    half_closed: HalfClosed,
    _place: Place,
}

impl Link {
    pub(super) fn new(wire: Wire, line: Line, half_closed: HalfClosed, place: Place) -> Self {
        Self { wire, line, half_closed, _place: place }
    }

    pub(super) fn line(&self) -> &Line {
        &self.line
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.line.is_reset() {
            // Fails only where the socket has already ended.
            let _ = self.wire.socket().set_zero_linger();
        }
    }
}

/// Calls the method of whichever stream it is.
macro_rules! either {
    ($link:ident.$method:ident($($argument:expr),*)) => {
        match &mut $link.wire {
            Wire::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Wire::Tls(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(either!(self.poll_read(cx, buffer)))?;
        if buffer.filled().len() > before {
            self.line.received();
        } else if buffer.remaining() > 0
            && self.line.answering()
            && self.line.end().poll_early(cx).is_pending()
        {
            ready!(self.half_closed.poll_gone(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(either!(self.poll_write(cx, bytes)))?;
        self.half_closed.took();
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(either!(self.poll_write_vectored(cx, slices)))?;
        self.half_closed.took();
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.wire {
            Wire::Plain(stream) => stream.is_write_vectored(),
            Wire::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.poll_flush(cx))
    }

    /// On a reset there is no orderly end first, of TLS neither.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.line.is_reset() {
            return Poll::Ready(Ok(()));
        }
        either!(self.poll_shutdown(cx))
    }
}
