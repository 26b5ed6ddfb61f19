//! A sandbox's response body on its way to the client.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::pool::Lease;
use crate::{
    metrics::{Execute, Meter, Open},
    sandbox::{Busy, Outflow, Stream},
    serve::{Line, ResetOn},
};

/// Passes frames on as they come, and ends in a reset when the sandbox ends before its response:
/// of the connection on HTTP/1.1, of the stream on HTTP/2.
pub(super) struct Relay {
    incoming: Incoming,
    /// `None` once the connection has been given back, or closed with the sandbox.
    lease: Arc<Mutex<Option<Lease>>>,
    line: Line,
    end: End,
    complete: bool,
    /// How the response broke, once what came before has had its turn to be sent.
    broken: Option<hyper::Error>,
    held: Held,
}

/// What lasts as long as a response.
pub(super) struct Held {
    /// Whose sandbox is not idle meanwhile.
    pub(super) _busy: Option<Busy>,
    /// What is counted when it ends.
    pub(super) _execute: Option<Execute>,
    pub(super) _passage: Open,
    pub(super) _stream: Option<Stream>,
    /// What comes of it,
    pub(super) outwards: Meter,
    /// and how fast, where that is bounded.
    pub(super) outflow: Option<Outflow>,
}

/// Who waits for the sandbox's end.
enum End {
    Line(#[expect(dead_code, reason = "held for its drop")] ResetOn),
    Stream { cut: CancellationToken, _closing: AbortOnDropHandle<()> },
}

impl End {
    /// Nobody asks for the rest while the client reads nothing, and so nobody would notice: the
    /// connection to the sandbox is closed by a task that waits for nothing else.
    fn of_stream(cut: &CancellationToken, lease: &Arc<Mutex<Option<Lease>>>) -> Self {
        let (cut, lease) = (cut.clone(), lease.clone());
        let closing = tokio::spawn({
            let cut = cut.clone();
            async move {
                cut.cancelled().await;
                let lease = lease.lock().take();
                drop(lease);
            }
        });
        Self::Stream { cut, _closing: AbortOnDropHandle::new(closing) }
    }
}

impl Relay {
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease,
        line: &Line,
        multiplexed: bool,
        cut: &CancellationToken,
        held: Held,
    ) -> Self {
        let lease = Arc::new(Mutex::new(Some(lease)));
        let end = if multiplexed {
            End::of_stream(cut, &lease)
        } else {
            End::Line(line.reset_on(cut.clone()))
        };
        let complete = incoming.is_end_stream();
        let (line, broken) = (line.clone(), None);
        Self { incoming, lease, line, end, complete, broken, held }
    }

    fn fail(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
        if matches!(self.end, End::Line(_)) {
            self.line.reset();
        }
        io::Error::other(error)
    }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        // When it is, whoever waits here is woken by the end of the connection.
        if let End::Stream { cut, .. } = &self.end
            && cut.is_cancelled()
        {
            return Poll::Ready(Some(Err(self.fail("the sandbox ended"))));
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(self.fail(error))));
        }
        if let Some(outflow) = &mut self.held.outflow {
            ready!(outflow.poll_turn(cx));
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                if let Some(lease) = &mut *self.lease.lock() {
                    lease.connection().drive(cx);
                }
                ready!(Pin::new(&mut self.incoming).poll_frame(cx))
            }
            Poll::Ready(frame) => frame,
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                self.held.outwards.add(bytes);
                if let Some(outflow) = &self.held.outflow {
                    outflow.took(bytes);
                }
                self.complete = self.incoming.is_end_stream();
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {
                self.complete = true;
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let lease = self.lease.lock().take();
        if let Some(lease) = lease.filter(|_| self.complete) {
            lease.give_back();
        }
    }
}
