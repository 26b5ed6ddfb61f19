//! What a client is told when something goes wrong; the only place that knows status codes.
//!
//! The body is always E2B's `{"code", "message"}`, `code` being the HTTP status. What went wrong
//! inside is logged once, by [`log_internal`], and never told.

mod data_plane;
mod documented;
mod routed;
mod status;

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    extract::Request,
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    backend,
    events::webhooks,
    metrics::Denied,
    sandbox::{self, Phase, SandboxId},
    template::FindError,
};

pub use data_plane::DataPlaneError;
pub(crate) use documented::{
    BatchNotDeleted, BeingKilled, InvalidBody, InvalidQuery, NoAgent, NoAnswer, NoBatch,
    NoBatchMade, NoFigures, NoPool, NoSandbox, NoSandboxMade, NoSnapshot, NoTemplate, NoWebhook,
    NotCopied, NotFenced, NotImplemented, NotKept, NotNow, NotPaused, NotReady, NotResumed,
    PoolNotChanged, PoolNotMade, Resumed, TooMany, TooManyStreams, TooManyTold, TooManyWatch,
    guarded,
};
pub(crate) use routed::with_routed;
use status::Status;

/// Seconds after which a client had better try again.
const RETRY_FULL: u32 = 1;
const RETRY_BUILDING: u32 = 5;
const RETRY_BROKEN: u32 = 60;

/// To SDKs it overrules what they make of the status; without it they send anything again that got
/// a 502, 503 or 504.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("should-retry");
const NO: HeaderValue = HeaderValue::from_static("false");

#[derive(Debug)]
pub struct ApiError {
    status: Status,
    message: String,
    error_code: Option<&'static str>,
    /// Trying again is of no use, whatever the status says.
    lasting: bool,
    /// For the log only.
    internal: Option<String>,
    denied: Option<Denied>,
}

impl ApiError {
    fn new(status: Status, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            error_code: None,
            lasting: false,
            internal: None,
            denied: None,
        }
    }

    /// It is to be counted as a refusal for that reason.
    pub(crate) fn because(self, reason: Denied) -> Self {
        Self { denied: Some(reason), ..self }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Status::BadRequest, message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(Status::Unauthorized, message)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Status::Forbidden, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Status::NotFound, message)
    }

    /// A sandbox that is not there; E2B's text.
    pub fn no_sandbox(id: &str) -> Self {
        let text = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
        Self::not_found(text)
    }

    pub fn method_not_allowed() -> Self {
        Self::new(Status::MethodNotAllowed, "method not allowed")
    }

    pub fn request_timeout(patience: Duration) -> Self {
        let text = format!("the request body did not come within {} s", patience.as_secs());
        Self::new(Status::RequestTimeout, text)
    }

    pub fn too_large(limit: usize) -> Self {
        let text = format!("the request body is larger than {limit} bytes");
        Self::new(Status::TooLarge, text)
    }

    /// Of streams that stay open, so many at once.
    pub(crate) fn too_many_streams(most: usize) -> Self {
        let text = format!("there are {most} such streams, as many as there may be at once");
        Self::new(Status::TooMany { retry_after: RETRY_FULL }, text).because(Denied::Limit)
    }

    /// Not known yet, but soon.
    pub(crate) fn no_figures(id: &str) -> Self {
        Self::unavailable(RETRY_FULL, format!("sandbox {id} has no figures yet"))
    }

    /// What this version cannot do yet.
    pub fn not_implemented(what: &str) -> Self {
        Self::new(Status::NotImplemented, format!("{what} is not implemented yet"))
    }

    /// E2B's text.
    fn being_killed(id: SandboxId) -> Self {
        Self::new(Status::Conflict, format!("Sandbox \"{id}\" is being killed"))
    }

    /// Not now, but after so many seconds.
    pub fn unavailable(retry_after: u32, message: impl Into<String>) -> Self {
        Self::new(Status::Unavailable { retry_after }, message)
    }

    /// More than there may be, until then.
    pub(crate) fn too_many(again: Duration, message: impl Into<String>) -> Self {
        let retry_after = again.as_secs_f64().ceil().max(1.0) as u32;
        Self::new(Status::TooMany { retry_after }, message)
    }

    /// Until there is a template to make sandboxes from.
    pub fn starting() -> Self {
        Self::unavailable(RETRY_BUILDING, "the gateway is starting")
    }

    /// Of a gateway that should not be sent anything new.
    pub(crate) fn unhealthy(which: &str) -> Self {
        Self::unavailable(RETRY_BUILDING, format!("not healthy: {which}"))
    }

    /// E2B's text.
    pub fn already_running(id: &str) -> Self {
        Self::new(Status::Conflict, format!("Sandbox {id} is already running"))
    }

    /// A failure of ours: `internal` goes to the log, the client learns that there is one.
    pub fn internal(internal: impl Into<String>) -> Self {
        let message = "internal error; the gateway's log has the reason";
        Self { internal: Some(internal.into()), ..Self::new(Status::Internal, message) }
    }

    fn full(message: String) -> Self {
        Self {
            error_code: Some("sandbox_capacity_unavailable"),
            ..Self::unavailable(RETRY_FULL, message)
        }
    }
}

impl From<sandbox::Error> for ApiError {
    fn from(error: sandbox::Error) -> Self {
        use sandbox::Error as E;
        match error {
            E::Template { name, source: FindError::Unknown } => {
                Self::not_found(match name.split_once(':') {
                    None => format!("template '{name}' not found"),
                    Some((name, tag)) => {
                        format!("tag '{tag}' does not exist for template '{name}'")
                    }
                })
            }
            _ if error.reason() == sandbox::Reason::Disk => Self {
                internal: Some(error.to_string()),
                lasting: true,
                ..Self::new(Status::DiskFull, "there is no room on the disk")
            },
            E::Template { name, source: FindError::Building(progress) } => Self::unavailable(
                RETRY_BUILDING,
                format!("template '{name}' is being built: {progress}"),
            ),
            E::Template { name, source: FindError::Failed(why) } => Self {
                internal: Some(format!("template '{name}' could not be built: {why}")),
                lasting: true,
                ..Self::unavailable(
                    RETRY_BROKEN,
                    format!(
                        "template '{name}' could not be built; the gateway's log has the reason"
                    ),
                )
            },
            E::Quota { .. } => {
                Self::new(Status::TooMany { retry_after: RETRY_FULL }, error.to_string())
            }
            E::TooManySnapshots { .. } => {
                Self::new(Status::TooMany { retry_after: RETRY_FULL }, error.to_string())
                    .because(Denied::Limit)
            }
            E::TooOften { again, .. } => {
                let retry_after = again.as_secs_f64().ceil().max(1.0) as u32;
                let why = error.to_string();
                Self::new(Status::TooMany { retry_after }, why).because(Denied::Rate)
            }
            E::Full(_) => Self::full(error.to_string()),
            E::Busy(_) => Self::full(error.to_string()),
            E::Stopping => Self::unavailable(RETRY_FULL, error.to_string()),
            E::NotFound(id) => Self::no_sandbox(&id.to_string()),
            E::NotNow(id, phase) => {
                let state = match phase {
                    Phase::Pending => "being made",
                    Phase::Running => "already running",
                    Phase::Pausing => "being paused",
                    Phase::Paused => "already paused",
                    Phase::Resuming => "being resumed",
                    Phase::Stopping | Phase::Terminated | Phase::Failed => {
                        return Self::being_killed(id);
                    }
                };
                Self::new(Status::Conflict, format!("Sandbox {id} is {state}"))
            }
            E::BeingCopied(_) | E::Unresponsive(_) => {
                Self::unavailable(RETRY_FULL, error.to_string())
            }
            E::OnlyFiles(id) => Self {
                error_code: Some("sandbox_snapshot_guest_agent_unresponsive"),
                ..Self::new(
                    Status::Conflict,
                    format!("The envd of sandbox {id} did not answer when it was paused"),
                )
            },
            E::NameTaken(_) | E::PoolNameTaken(_) | E::PoolOfSettings(_) => {
                Self::new(Status::Conflict, error.to_string())
            }
            E::NoPool(_) | E::NoBatch(_) => Self::not_found(error.to_string()),
            E::TooManyPools(_) => Self::bad_request(error.to_string()),
            E::TooManyBatches { .. } => {
                Self::new(Status::TooMany { retry_after: RETRY_FULL }, error.to_string())
                    .because(Denied::Limit)
            }
            E::TooManyLayers(_) | E::SnapshotInUse(..) | E::TooMuchMetadata(_) => {
                Self::bad_request(error.to_string())
            }
            E::TooMuch(_) | E::NoSuchLimit(_) => {
                let text = format!("metadata: {}: {error}", crate::limits::ASKED);
                Self::bad_request(text)
            }
            E::EndedInCreation(id) => Self::being_killed(id),
            E::KeyReused => Self {
                error_code: Some("idempotency_request_mismatch"),
                ..Self::new(
                    Status::Unprocessable,
                    "this Idempotency-Key came before with a different request",
                )
            },
            E::TooOld(_) => Self::bad_request("Max instance length exceeded"),
            E::Backend(backend::Error::Full(_)) => Self {
                internal: Some(error.to_string()),
                ..Self::full("no room for another sandbox".to_owned())
            },
            E::Stuck(..)
            | E::Backend(backend::Error::Timeout(..) | backend::Error::BrokenOff(_)) => Self {
                internal: Some(error.to_string()),
                ..Self::new(Status::StartTimeout, "the sandbox did not do so in time")
            },
            E::Backend(backend::Error::Unfit(_)) => Self::bad_request(error.to_string()),
            E::Backend(backend::Error::NotYet(what)) => Self::not_implemented(what),
            E::Backend(
                backend::Error::Call { .. }
                | backend::Error::Attach { .. }
                | backend::Error::Unsupported(_),
            )
            | E::Io { .. }
            | E::BrokenOff(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<webhooks::Error> for ApiError {
    fn from(error: webhooks::Error) -> Self {
        use webhooks::Error as E;
        match error {
            E::Invalid(_) | E::TooMany(_) => Self::bad_request(error.to_string()),
            E::Io { .. } => Self::internal(error.to_string()),
        }
    }
}

/// Of every failure.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorBody<'a> {
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    code: u16,
    message: Cow<'a, str>,
    /// For programs, where one status has several reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    error_code: Option<&'static str>,
}

impl ApiError {
    /// As it stands among other answers; what it keeps from the client goes to the log now.
    pub(crate) fn told(self) -> ErrorBody<'static> {
        let Self { status, message, error_code, internal, .. } = self;
        let code = status.code().as_u16();
        if let Some(why) = internal {
            tracing::error!(status = code, "{why}");
        }
        ErrorBody { code, message: message.into(), error_code }
    }
}

/// Travels with the response to [`log_internal`].
#[derive(Clone)]
struct Internal(String);

/// A failure that tells more.
#[derive(Serialize)]
struct With<'a, T> {
    #[serde(flatten)]
    error: ErrorBody<'a>,
    #[serde(flatten)]
    more: T,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.with(())
    }
}

impl ApiError {
    /// The answer, with the fields of `more` in its body.
    pub(crate) fn with(self, more: impl Serialize) -> Response {
        let status = self.status.code();
        let error = ErrorBody {
            code: status.as_u16(),
            message: self.message.as_str().into(),
            error_code: self.error_code,
        };
        let body = With { error, more };
        let mut response = (status, Json(body)).into_response();
        if let Some(seconds) = self.status.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.lasting {
            response.headers_mut().insert(SHOULD_RETRY, NO);
        }
        if let Some(internal) = self.internal {
            response.extensions_mut().insert(Internal(internal));
        }
        if let Some(reason) = self.denied {
            response.extensions_mut().insert(reason);
        }
        response
    }
}

/// Why a request was refused, where its answer says that it was, to be counted.
pub(crate) fn denial(response: &Response) -> Option<Denied> {
    response.extensions().get().copied()
}

/// Middleware: writes to the log what [`ApiError`] keeps from the client.
pub async fn log_internal(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    if let Some(Internal(why)) = response.extensions().get() {
        tracing::error!(%method, path, status = response.status().as_u16(), "{why}");
    }
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn internals_reach_the_log_and_not_the_client() {
        let secret = backend::Error::Timeout("mount of /secret", Duration::from_secs(1));
        let error = ApiError::from(sandbox::Error::from(secret));
        assert!(!error.message.contains("secret"));
        assert!(error.internal.as_deref().unwrap().contains("/secret"));
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        assert!(response.extensions().get::<Internal>().is_some());
    }
}
