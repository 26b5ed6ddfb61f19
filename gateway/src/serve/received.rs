//! A request's body as a client sends it, and what is to be done when the client's half ends in the
//! middle of it.
//!
//! Only the reader of the body can tell such an end from one behind the body, where the client may
//! still wait for its answer: the connection is read when nothing of the body is left to be handed
//! over, so a body that has nothing to give after its connection has ended never will have.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::Line;

pub struct Received {
    body: Incoming,
    line: Line,
}

/// What a connection and its bodies tell each other of its end.
#[derive(Default)]
pub(super) struct End {
    come: AtomicBool,
    /// In the middle of a body.
    early: AtomicBool,
    body: AtomicWaker,
    connection: AtomicWaker,
}

impl Received {
    pub(super) fn new(body: Incoming, line: Line) -> Self {
        Self { body, line }
    }
}

impl End {
    /// Ready when it has come in the middle of a body. Called when it is found to have come.
    pub(super) fn poll_early(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.connection.register(cx.waker());
        if !self.come.swap(true, Ordering::AcqRel) {
            self.body.wake();
        }
        if self.early.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, line } = &mut *self;
        let end = line.end();
        loop {
            // Looked at first: only what is asked of the body after the end says anything of it.
            let come = end.come.load(Ordering::Acquire);
            let frame = Pin::new(&mut *body).poll_frame(cx);
            if frame.is_ready() {
                return frame;
            }
            if come {
                end.early.store(true, Ordering::Release);
                end.connection.wake();
                return Poll::Pending;
            }
            end.body.register(cx.waker());
            if !end.come.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
