//! A client's request body on its way to a sandbox.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request};
use hyper::body::{Body, Frame, SizeHint};

use crate::{metrics::Meter, serve::Received};

/// Tells when the last of it has been taken.
pub(super) struct Outgoing {
    /// `None`: there is none.
    body: Option<(Received, Meter)>,
    taken: Taken,
}

/// Whether a request's body has been taken to its end, or will be taken no further.
#[derive(Clone)]
pub(super) struct Taken(Option<Arc<AtomicBool>>);

impl Outgoing {
    pub(super) fn new(body: Received, inwards: Meter) -> Self {
        if body.is_end_stream() {
            return Self::none();
        }
        Self { body: Some((body, inwards)), taken: Taken(Some(Arc::default())) }
    }

    fn none() -> Self {
        Self { body: None, taken: Taken(None) }
    }

    pub(super) fn taken(&self) -> Taken {
        self.taken.clone()
    }
}

/// The same request once more, where that does nothing twice: safe methods, without a body.
pub(super) fn again(request: &Request<Outgoing>) -> Option<Request<Outgoing>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    (safe && request.body().body.is_none()).then(|| {
        let mut again = Request::new(Outgoing::none());
        *again.method_mut() = request.method().clone();
        *again.uri_mut() = request.uri().clone();
        *again.headers_mut() = request.headers().clone();
        again
    })
}

impl Taken {
    pub(super) fn all(&self) -> bool {
        self.0.as_ref().is_none_or(|taken| taken.load(Ordering::Acquire))
    }

    fn set(&self) {
        if let Some(taken) = &self.0 {
            taken.store(true, Ordering::Release);
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some((body, inwards)) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            inwards.add(frame.data_ref().map_or(0, Bytes::len));
        }
        if frame.is_none() || body.is_end_stream() {
            self.taken.set();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|(body, _)| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), |(body, _)| body.size_hint())
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.taken.set();
    }
}
