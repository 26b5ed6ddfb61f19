//! The data plane: requests that go to a port inside a sandbox, and what comes back.
//!
//! Nothing is buffered beyond one connection's own few kilobytes, and nothing of a body is looked
//! at. A request is sent a second time only when the kept-open connection it was meant for turned
//! out closed: before a byte of it was written, or before its response where it is a safe one
//! without a body (RFC 9110 section 9.2.2). One that meets a pause before any of it was sent waits
//! for the sandbox to go on, where it is to be woken. Time is bounded until a port is open; a
//! response may take as long as it likes.

mod address;
mod awake;
mod body;
mod budget;
mod connect;
mod connection;
mod envds;
mod exposed;
mod headers;
mod internal;
mod outgoing;
mod pool;
pub mod reports;
mod secured;
mod server;
mod signed;
mod streams;
mod task;
#[cfg(test)]
mod tests;
mod told;
mod traffic;
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
    metrics::{Direction, Metrics, Route},
    sandbox::{Phase, Sandbox, Sandboxes},
    serve::{Line, Received},
};
pub use address::{Address, Domain, host};
use awake::Awake;
use body::{Held, Relay};
pub use envds::Envds;
use exposed::Exposed;
pub use headers::is_ambiguous;
use outgoing::Outgoing;
use pool::{Lease, Pool, Pools};
use server::Server;
pub use signed::Credential;
pub use traffic::admit;

/// How long a failed request waits to learn that its sandbox is ending. When what runs in it is
/// killed from inside, its connections break a moment before the kernel tells of its end.
const AFTERMATH: Duration = Duration::from_millis(200);

/// How long a new connection to a user's server goes unanswered before it is thought to wait for
/// another of ours to be closed.
const ROOM: Duration = Duration::from_millis(100);

/// How often a request that met a pause waits for the sandbox to go on.
const PAUSES: usize = 3;

/// What a request is to its sandbox.
#[derive(Clone, Copy)]
pub enum Errand<'a> {
    /// It only asks how it is: it neither wakes it nor keeps it from being idle.
    Look,
    /// Where it is woken, if it is to be.
    Use(&'a Sandboxes),
}

#[derive(Clone)]
pub struct DataPlane {
    pools: Pools,
    awake: Arc<Awake>,
    exposed: Exposed,
    metrics: Arc<Metrics>,
}

impl DataPlane {
    pub fn new(sandboxes: &Sandboxes) -> Self {
        let exposed = Exposed::new(sandboxes.events());
        let metrics = sandboxes.metrics().clone();
        Self { pools: Pools::default(), awake: Arc::default(), exposed, metrics }
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
        errand: Errand<'_>,
    ) -> Result<Response<Body>, DataPlaneError> {
        let busy = matches!(errand, Errand::Use(_)).then(|| sandbox.busy());
        sandbox.is_asked();
        let route = Route::of(port, request.uri().path());
        let passage = self.metrics.passage(route);
        let multiplexed = request.version() == Version::HTTP_2;
        let client = hyper::upgrade::on(&mut request);
        let server = Server::of(&sandbox, port);
        let new = server == Server::User && !self.exposed.is_known(sandbox.id(), port);
        let url = new.then(|| {
            let host = address::host(request.uri(), request.headers()).ok().flatten();
            exposed::url(line.scheme(), host.unwrap_or_default(), port, sandbox.id())
        });
        let prepared = if server == Server::Envd && internal::is_internal(request.uri().path()) {
            Err(DataPlaneError::Internal)
        } else {
            headers::prepare_request(&mut request, line, &sandbox, server, port)
        };
        let wanted = match prepared {
            Ok(wanted) => wanted,
            Err(refused) => {
                unread::discard(request.into_body()).await;
                return Err(refused);
            }
        };
        let lasting = streams::counts(server, request.uri().path());
        let counted = lasting && matches!(errand, Errand::Use(_));
        // What is over at once does not wait behind what others are sent.
        let paced = counted || server == Server::User;
        let outflow = || paced.then(|| sandbox.outflow()).flatten();
        let stream = if counted { sandbox.open_stream().map(Some) } else { Some(None) };
        let Some(stream) = stream else {
            let connect = streams::connect(request.headers());
            unread::discard(request.into_body()).await;
            return Err(DataPlaneError::Streams { sandbox_id: sandbox.id().to_string(), connect });
        };
        // Code that runs for nobody is interrupted at once.
        line.may_half_close(server != Server::Interpreter);
        let execute = runs_code(server, &request).then(|| {
            sandbox.give_code();
            self.metrics.execute()
        });
        let inwards = self.metrics.meter(route, Direction::In);
        let request = request.map(|body| Outgoing::new(body, inwards.clone()));
        let taken = request.body().taken();
        let (mut response, mut lease, cut) = self.send(&sandbox, port, request, errand).await?;
        if let Some(url) = url {
            self.exposed.answered(&sandbox, port, url, &cut);
        }
        let failure = Failure { sandbox: &sandbox, cut: &cut, port };
        if server.is_envds()
            && let Some(why) = DataPlaneError::denial_of(response.status())
        {
            self.metrics.denied(why);
        }

        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = headers::requested_upgrade(response.headers());
        if switched != (switched && wanted.is_some() && protocol.is_some())
            || !headers::prepare_response(&mut response)
        {
            return Err(failure.bad_response());
        }
        if let Some(protocol) = protocol.filter(|_| switched) {
            let counted = upgrade::Counted {
                inwards,
                outwards: self.metrics.meter(route, Direction::Out),
                outflow: outflow(),
                _open: (passage, self.metrics.tunnel(), stream),
            };
            return Ok(upgrade::tunnel(response, protocol, client, &cut, line, busy, counted));
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
            let outwards = self.metrics.meter(route, Direction::Out);
            let (outflow, _stream) = (outflow(), stream);
            let held = Held {
                _busy: busy,
                _execute: execute,
                _passage: passage,
                _stream,
                outwards,
                outflow,
            };
            Body::new(Relay::new(body, lease, line, multiplexed, &cut, held))
        }))
    }

    /// Returns the head of the response, with the end of the run that it is of.
    async fn send(
        &self,
        sandbox: &Arc<Sandbox>,
        port: u16,
        mut request: Request<Outgoing>,
        errand: Errand<'_>,
    ) -> Result<(Response<Incoming>, Lease, CancellationToken), DataPlaneError> {
        let mut pauses = 0;
        loop {
            // Of this run: it may be paused and go on while we wait.
            let cut = sandbox.cut();
            let failure = Failure { sandbox, cut: &cut, port };
            // Looked at only now that it is not idle: whoever pauses it for that has done so, or
            // will not.
            let sent = if cut.is_cancelled() || sandbox.phase() != Phase::Running {
                Err(SendError::Unsent(Box::new(request)))
            } else {
                send(&self.pools.of(sandbox, &cut), &cut, &self.awake, port, request).await
            };
            request = match sent {
                Ok((response, lease)) => return Ok((response, lease, cut)),
                Err(SendError::Unsent(unsent)) => *unsent,
                Err(error) => {
                    if matches!(error, SendError::Connect(connect::Error::PortClosed)) {
                        self.exposed.refused(sandbox, port);
                    }
                    return Err(failure.of(error).await);
                }
            };
            pauses += 1;
            let goes_on = match errand {
                Errand::Use(sandboxes) if pauses <= PAUSES => {
                    sandboxes.reach(sandbox.id()).await.is_some()
                }
                _ => false,
            };
            if !goes_on {
                unread::discard(request.into_body()).await;
                return Err(failure.not_found());
            }
        }
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
    /// The run ended before any of it was sent.
    Unsent(Box<Request<Outgoing>>),
    /// And when some of it had been.
    Cut,
    Connect(connect::Error),
    Response(hyper::Error),
}

async fn send(
    pool: &Arc<Pool>,
    cut: &CancellationToken,
    awake: &Awake,
    port: u16,
    mut request: Request<Outgoing>,
) -> Result<(Response<Incoming>, Lease), SendError> {
    let mut kept = pool.server(port).is_envds() || outgoing::again(&request).is_some();
    loop {
        let mut lease = match cut.run_until_cancelled(pool.lease(port, kept)).await {
            Some(Ok(lease)) if !cut.is_cancelled() => lease,
            None | Some(Ok(_)) => return Err(SendError::Unsent(Box::new(request))),
            Some(Err(error)) => {
                unread::discard(request.into_body()).await;
                return Err(SendError::Connect(error));
            }
        };
        let spare = lease.used().then(|| outgoing::again(&request)).flatten();
        let answered = exchange(pool, awake, port, &mut lease, request);
        let mut failed = match cut.run_until_cancelled(answered).await {
            Some(Ok(response)) => return Ok((response, lease)),
            Some(Err(failed)) => failed,
            None => return Err(SendError::Cut),
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
    awake: &Awake,
    port: u16,
    lease: &mut Lease,
    request: Request<Outgoing>,
) -> Result<Response<Incoming>, TrySendError<Request<Outgoing>>> {
    let known = pool.server(port).is_envds() || lease.used();
    let mut exchange = pin!(lease.connection().exchange(request, awake));
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
            SendError::Unsent(_) => return self.not_found(),
            SendError::Cut => return DataPlaneError::Cut { sandbox_id },
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
