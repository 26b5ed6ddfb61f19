//! The data plane: requests that go to a port inside a sandbox, and what comes back.
//!
//! Nothing is buffered beyond one connection's own few kilobytes, and nothing of a body is looked
//! at. A request is sent a second time only when the kept-open connection it was meant for turned
//! out closed before a byte of it was written; what has been written, whatever its method, never
//! is. Time is bounded until a port is open; a response may take as long as it likes.

mod address;
mod body;
mod connect;
mod headers;
mod internal;
mod pool;
pub mod reports;
mod signed;
#[cfg(test)]
mod tests;
mod upgrade;

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use envd::{unread, wire::ENVD_PORT};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::{error::DataPlaneError, sandbox::Sandbox, serve::Line};
pub use address::{Address, Domain, host};
use body::Relay;
use pool::{Lease, Pool, Pools};
pub use signed::Credential;

/// How long a failed request waits to learn that its sandbox is ending. When what runs in it is
/// killed from inside, its connections break a moment before the kernel tells of its end.
const AFTERMATH: Duration = Duration::from_millis(200);

#[derive(Clone, Default)]
pub struct DataPlane {
    pools: Pools,
}

impl DataPlane {
    /// Has the sandbox answer the request on that port.
    ///
    /// # Errors
    /// What the client is to be told instead.
    pub async fn forward(
        &self,
        sandbox: Arc<Sandbox>,
        port: u16,
        mut request: Request<Incoming>,
        line: &Line,
    ) -> Result<Response<Body>, DataPlaneError> {
        if port == ENVD_PORT && internal::is_internal(request.uri().path()) {
            return Err(DataPlaneError::Internal);
        }
        let multiplexed = request.version() == Version::HTTP_2;
        let client = hyper::upgrade::on(&mut request);
        let wanted = headers::prepare_request(&mut request, line, &sandbox, port)?;
        let failure = Failure { sandbox: &sandbox, port };
        let pool = self.pools.of(&sandbox);
        let sent = sandbox.cut().run_until_cancelled(send(&pool, port, request)).await;
        let (mut response, lease) = match sent {
            Some(Ok(sent)) => sent,
            Some(Err(error)) => return Err(failure.of(error).await),
            None => return Err(failure.not_found()),
        };

        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let protocol = headers::requested_upgrade(response.headers());
        if switched != (switched && wanted.is_some() && protocol.is_some())
            || !headers::prepare_response(&mut response)
        {
            return Err(failure.bad_response());
        }
        if let Some(protocol) = protocol.filter(|_| switched) {
            return Ok(upgrade::tunnel(response, protocol, client, &sandbox, line));
        }
        let cut = sandbox.cut();
        Ok(response.map(|body| {
            if hyper::body::Body::is_end_stream(&body) {
                lease.give_back();
                return Body::empty();
            }
            Body::new(Relay::new(body, lease, line, multiplexed, cut))
        }))
    }
}

enum SendError {
    Connect(connect::Error),
    Response(hyper::Error),
}

async fn send(
    pool: &Arc<Pool>,
    port: u16,
    mut request: Request<Incoming>,
) -> Result<(Response<Incoming>, Lease), SendError> {
    loop {
        let mut lease = match pool.lease(port).await {
            Ok(lease) => lease,
            Err(error) => {
                unread::discard(request.into_body()).await;
                return Err(SendError::Connect(error));
            }
        };
        match lease.sender().try_send_request(request).await {
            Ok(response) => return Ok((response, lease)),
            Err(mut failed) => match failed.take_message() {
                // It comes back only when nothing of it has been written. Each turn uses up one
                // kept connection.
                Some(unsent) if lease.used() => request = unsent,
                _ => return Err(SendError::Response(failed.into_error())),
            },
        }
    }
}

struct Failure<'a> {
    sandbox: &'a Sandbox,
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
        match tokio::time::timeout(AFTERMATH, self.sandbox.cut().cancelled()).await {
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
