//! One client's connection: who it is with, what it is doing, and how it is to end.
//!
//! [`Line`] is the handle that travels with each request; the bytes are [`super::wire`]'s. When a sandbox ends while the connection
//! carries one of its streams, the client has to see a reset (RST) rather than an orderly end,
//! which SDKs would take for a lost event.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use envd::walls::{self, Wall};
use http::Version;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Limits, received::End};

#[derive(Clone)]
pub struct Line(Arc<Shared>);

struct Shared {
    peer: SocketAddr,
    scheme: &'static str,
    reset: AtomicBool,
    /// Whether a client that has closed its sending half is believed to be there still.
    half_closes: AtomicBool,
    abandoned: CancellationToken,
    activity: Mutex<Activity>,
    end: End,
    /// HTTP/1.1 only: the end of the sandbox whose response is being sent. It is waited for here
    /// and not by the response's body, which nobody asks for more while the client does not read.
    sandbox: Mutex<Option<Pin<Box<WaitForCancellationFutureOwned>>>>,
}

struct Activity {
    requests: usize,
    /// Of these, whose answers are [`Brief`] and there.
    brief: usize,
    /// Since when there is no request under way but such.
    idle: Instant,
    /// When the first byte of the next request came, or the connection.
    head: Option<Instant>,
    multiplexed: bool,
}

impl Line {
    pub(super) fn new(
        peer: SocketAddr,
        scheme: &'static str,
        abandoned: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        let activity =
            Activity { requests: 0, brief: 0, idle: now, head: Some(now), multiplexed: false };
        Self(Arc::new(Shared {
            peer,
            scheme,
            reset: AtomicBool::new(false),
            half_closes: AtomicBool::new(true),
            abandoned,
            activity: Mutex::new(activity),
            end: End::default(),
            sandbox: Mutex::new(None),
        }))
    }

    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        self.0.scheme
    }

    /// Makes the connection's end a reset, whenever it comes.
    pub fn reset(&self) {
        self.0.reset.store(true, Ordering::Release);
    }

    pub(super) fn is_reset(&self) -> bool {
        self.0.reset.load(Ordering::Acquire)
    }

    /// Whether a client that closes its sending half may still wait for the response at hand; of
    /// no meaning on HTTP/2, which has other words for it.
    pub fn may_half_close(&self, may: bool) {
        self.0.half_closes.store(may, Ordering::Release);
    }

    /// Cancelled when the server can wait no longer for what it serves.
    pub fn abandoned(&self) -> &CancellationToken {
        &self.0.abandoned
    }

    /// Resets the connection when `end` is cancelled while the guard lives. For connections that
    /// carry one response at a time.
    pub fn reset_on(&self, end: CancellationToken) -> ResetOn {
        *self.0.sandbox.lock() = Some(Box::pin(end.cancelled_owned()));
        ResetOn(self.clone())
    }

    /// Resolves when the connection is to be dropped because of [`Line::reset_on`]. Has to be
    /// polled by the task that polls the connection, after it.
    pub(super) async fn cut(&self) {
        poll_fn(|cx| {
            let mut sandbox = self.0.sandbox.lock();
            let Some(end) = sandbox.as_mut() else { return Poll::Pending };
            end.as_mut().poll(cx).map(|()| self.reset())
        })
        .await;
    }

    pub(super) fn begin(&self, version: Version) -> Busy {
        let mut activity = self.0.activity.lock();
        activity.requests += 1;
        activity.head = None;
        activity.multiplexed |= version == Version::HTTP_2;
        Busy { line: self.clone(), brief: AtomicBool::new(false) }
    }

    /// Whether the client has taken too long over a request's head, between requests, or to take an
    /// answer that is all there.
    pub(super) fn overdue(&self, limits: &Limits) -> bool {
        let activity = self.0.activity.lock();
        let slow = activity.head.is_some_and(|head| head.elapsed() >= limits.head)
            && !walls::is_down(Wall::HeadTime);
        let idle = activity.requests == activity.brief && activity.idle.elapsed() >= limits.idle;
        idle || (activity.requests == 0 && slow)
    }

    /// Whether a request has come that is not answered to its end, and whose client may end its half
    /// and wait. On HTTP/2 it cannot.
    pub(super) fn answering(&self) -> bool {
        let activity = self.0.activity.lock();
        activity.requests > 0 && !activity.multiplexed && self.0.half_closes.load(Ordering::Acquire)
    }

    /// Of what the client sends.
    pub(super) fn end(&self) -> &End {
        &self.0.end
    }

    pub(super) fn received(&self) {
        let mut activity = self.0.activity.lock();
        // On HTTP/2 what comes between requests may be a ping.
        if activity.requests == 0 && !activity.multiplexed && activity.head.is_none() {
            activity.head = Some(Instant::now());
        }
    }
}

/// Goes with a response whose body is all there when its head is, so that only its client can be
/// what it waits for.
#[derive(Clone, Copy)]
pub struct Brief;

/// One request under way.
pub(super) struct Busy {
    line: Line,
    brief: AtomicBool,
}

impl Busy {
    /// See [`Brief`].
    pub(super) fn is_brief(&self) {
        if !self.brief.swap(true, Ordering::Relaxed) {
            let mut activity = self.line.0.activity.lock();
            activity.brief += 1;
            activity.idle = Instant::now();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut activity = self.line.0.activity.lock();
        activity.requests -= 1;
        activity.brief -= usize::from(self.brief.load(Ordering::Relaxed));
        activity.idle = Instant::now();
    }
}

/// See [`Line::reset_on`].
pub struct ResetOn(Line);

impl Drop for ResetOn {
    fn drop(&mut self) {
        self.0.0.sandbox.lock().take();
    }
}
