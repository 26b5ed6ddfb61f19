//! The data plane: requests that go to a port inside a sandbox, and what comes back.
//!
//! Nothing is buffered beyond one connection's own few kilobytes, and nothing of a body is looked
//! at. A request is sent a second time only when the kept-open connection it was meant for turned
//! out closed: before a byte of it was written, or before its response where it is a safe one
//! without a body (RFC 9110 section 9.2.2). Time is bounded until a port is open; a response may
//! take as long as it likes.

mod address;
mod body;
mod connect;
mod connection;
mod envds;
mod headers;
mod internal;
mod outgoing;
mod pool;
pub mod reports;
mod server;
mod signed;
#[cfg(test)]
mod tests;
mod upgrade;

use std::{pin::pin, sync::Arc, time::Duration};

use axum::body::Body;
use envd::unread;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    error::DataPlaneError,
    metrics::Metrics,
    sandbox::Sandbox,
    serve::{Line, Received},
};
pub use address::{Address, Domain, host};
use body::Relay;
pub use envds::Envds;
use outgoing::Outgoing;
use pool::{Lease, Pool, Pools};
use server::Server;
pub use signed::Credential;

/// How long a failed request waits to learn that its sandbox is ending. When what runs in it is
/// killed from inside, its connections break a moment before the kernel tells of its end.
const AFTERMATH: Duration = Duration::from_millis(200);

/// How long a new connection to a user's server goes unanswered before it is thought to wait for
/// another of ours to be closed.
const ROOM: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct DataPlane {
    pools: Pools,
    metrics: Arc<Metrics>,
}

impl DataPlane {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { pools: Pools::default(), metrics }
    }

    /// Has the sandbox answer the request on that port.
    ///
    /// # Errors
    /// What the client is to be told instead.
    pub async fn forward(
        &self,
        sandbox: Arc<Sandbox>,
        port: u16,
        mut request: Request<Received>,
        line: &Line,
    ) -> Result<Response<Body>, DataPlaneError> {
        let multiplexed = request.version() == Version::HTTP_2;
        let client = hyper::upgrade::on(&mut request);
        let server = Server::of(&sandbox, port);
        let prepared = if server == Server::Envd && internal::is_internal(request.uri().path()) {
            Err(DataPlaneError::Internal)
        } else {
            headers::prepare_request(&mut request, line, &sandbox, server)
        };
        let wanted = match prepared {
            Ok(wanted) => wanted,
            Err(refused) => {
                unread::discard(request.into_body()).await;
                return Err(refused);
            }
        };
        // Code that runs for nobody is interrupted at once.
        line.may_half_close(server != Server::Interpreter);
        let execute = runs_code(server, &request).then(|| {
            sandbox.give_code();
            self.metrics.execute()
        });
        // Of this run: it may be paused and go on while we wait.
        let cut = sandbox.cut();
        let failure = Failure { sandbox: &sandbox, cut: &cut, port };
        let pool = self.pools.of(&sandbox, &cut);
        let request = request.map(Outgoing::new);
        let taken = request.body().taken();
        let sent = cut.run_until_cancelled(send(&pool, port, request)).await;
        let (mut response, mut lease) = match sent {
            Some(Ok(sent)) => sent,
            Some(Err(error)) => return Err(failure.of(error).await),
            None => return Err(DataPlaneError::Cut { sandbox_id: sandbox.id().to_string() }),
        };

        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = headers::requested_upgrade(response.headers());
        if switched != (switched && wanted.is_some() && protocol.is_some())
            || !headers::prepare_response(&mut response)
        {
            return Err(failure.bad_response());
        }
        if let Some(protocol) = protocol.filter(|_| switched) {
            return Ok(upgrade::tunnel(response, protocol, client, &cut, line));
        }
        Ok(response.map(|body| {
            let taken = taken.all();
            if hyper::body::Body::is_end_stream(&body) {
                if taken {
                    lease.give_back();
                }
                return Body::empty();
            }
            if !taken {
                lease.connection().let_go();
            }
            Body::new(Relay::new(body, lease, line, multiplexed, &cut, execute))
        }))
    }
}

/// `POST /execute`, as envd reads it.
fn runs_code<B>(server: Server, request: &Request<B>) -> bool {
    let mut segments = request.uri().path().split('/').filter(|segment| !segment.is_empty());
    server == Server::Interpreter
        && request.method() == Method::POST
        && (segments.next(), segments.next()) == (Some("execute"), None)
}

enum SendError {
    Connect(connect::Error),
    Response(hyper::Error),
}

async fn send(
    pool: &Arc<Pool>,
    port: u16,
    mut request: Request<Outgoing>,
) -> Result<(Response<Incoming>, Lease), SendError> {
    let mut kept = pool.server(port).is_envds() || outgoing::again(&request).is_some();
    loop {
        let mut lease = match pool.lease(port, kept).await {
            Ok(lease) => lease,
            Err(error) => {
                unread::discard(request.into_body()).await;
                return Err(SendError::Connect(error));
            }
        };
        let spare = lease.used().then(|| outgoing::again(&request)).flatten();
        let answered = exchange(pool, port, &mut lease, request).await;
        let mut failed = match answered {
            Ok(response) => return Ok((response, lease)),
            Err(failed) => failed,
        };
        request = match (failed.take_message(), spare) {
            // It comes back only when nothing of it has been written. Each turn uses up one kept
            // connection.
            (Some(unsent), _) if lease.used() => unsent,
            (None, Some(spare)) => {
                kept = false;
                spare
            }
            _ => return Err(SendError::Response(failed.into_error())),
        };
    }
}

async fn exchange(
    pool: &Arc<Pool>,
    port: u16,
    lease: &mut Lease,
    request: Request<Outgoing>,
) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
    let known = pool.server(port).is_envds() || lease.used();
    let mut exchange = pin!(lease.connection().exchange(request));
    if known {
        return exchange.await;
    }
    match timeout(ROOM, exchange.as_mut()).await {
        Ok(answered) => answered,
        Err(_) => {
            let _crowd = pool.make_room(port);
            exchange.await
        }
    }
}

struct Failure<'a> {
    sandbox: &'a Sandbox,
    cut: &'a CancellationToken,
    port: u16,
}

impl Failure<'_> {
    async fn of(&self, error: SendError) -> DataPlaneError {
        let (sandbox_id, port) = (self.sandbox.id().to_string(), self.port);
        let error = match error {
            SendError::Connect(connect::Error::PortClosed) => {
                return DataPlaneError::PortClosed { sandbox_id, port };
            }
            SendError::Connect(connect::Error::Gone(error)) => {
                tracing::debug!(sandbox = %sandbox_id, %error, "envd is gone");
                return DataPlaneError::NotFound { sandbox_id };
            }
            SendError::Connect(error) => {
                tracing::debug!(sandbox = %sandbox_id, port, %error, "no connection");
                DataPlaneError::Unreachable { sandbox_id, port }
            }
            SendError::Response(error) => {
                tracing::debug!(sandbox = %sandbox_id, port, %error, "no response");
                self.bad_response()
            }
        };
        match timeout(AFTERMATH, self.cut.cancelled()).await {
            Ok(()) => self.not_found(),
            Err(_) => error,
        }
    }

    fn not_found(&self) -> DataPlaneError {
        DataPlaneError::NotFound { sandbox_id: self.sandbox.id().to_string() }
    }

    fn bad_response(&self) -> DataPlaneError {
        DataPlaneError::BadResponse { sandbox_id: self.sandbox.id().to_string(), port: self.port }
    }
}
