//! One HTTP/1.1 connection to a sandbox.
//!
//! It is driven by whoever waits for its response: no task of its own has to be woken, on another
//! thread as likely as not, for each step. Only while a request's body is still on its way when its
//! response begins does it get one, so that neither direction waits for the other.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::AbortOnDropHandle;

use super::{
    awake::{Awake, Pace},
    connect,
    outgoing::Outgoing,
};

/// Longest response head of a sandbox, and most of a response buffered.
const MAX_BUFFER: usize = 256 * 1024;
/// Of one response; each cookie takes one.
const MAX_HEADERS: usize = 512;

pub(super) struct Connection {
    sender: SendRequest<Outgoing>,
    driver: Driver,
    pace: Pace,
}

type Carrier = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Who reads and writes.
enum Driver {
    Us(Carrier),
    Task(#[expect(dead_code, reason = "held for its drop")] AbortOnDropHandle<()>),
    /// It has ended, or left HTTP behind.
    Nobody,
}

impl Connection {
    pub(super) async fn open<S>(stream: S) -> Result<Self, connect::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| connect::Error::Failed(io::Error::other(error)))?;
        let connection = connection.with_upgrades();
        // How it ended is told to whoever waits for the response.
        let carrier = Box::pin(async { drop(connection.await) });
        Ok(Self { sender, driver: Driver::Us(carrier), pace: Pace::default() })
    }

    /// Sends the request and returns the head of its response.
    pub(super) async fn exchange(
        &mut self,
        request: Request<Outgoing>,
        awake: &Awake,
    ) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
        let mut response = pin!(self.sender.try_send_request(request));
        let driver = &mut self.driver;
        let answered = poll_fn(|cx| {
            driver.drive(cx);
            response.as_mut().poll(cx)
        });
        awake.wait(&mut self.pace, answered).await
    }

    /// Reads and writes what can be, and has the context's task woken when there is more.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.driver.drive(cx);
    }

    /// Has the rest of it driven by a task, whoever waits.
    pub(super) fn let_go(&mut self) {
        if let Driver::Us(_) = self.driver
            && let Driver::Us(carrier) = std::mem::replace(&mut self.driver, Driver::Nobody)
        {
            self.driver = Driver::Task(AbortOnDropHandle::new(tokio::spawn(carrier)));
        }
    }

    /// Whether it has nobody else who drives it.
    pub(super) fn may_be_kept(&self) -> bool {
        matches!(self.driver, Driver::Us(_))
    }

    /// Whether it can take a request now, as far as this end knows.
    pub(super) fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.driver.drive(cx);
        self.sender.is_ready()
    }
}

impl Driver {
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Self::Us(carrier) = self
            && let Poll::Ready(()) = carrier.as_mut().poll(cx)
        {
            *self = Self::Nobody;
        }
    }
}
