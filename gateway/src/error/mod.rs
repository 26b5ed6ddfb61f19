//! What a client is told when something goes wrong; the only place that knows status codes.
//!
//! The body is always E2B's `{"code", "message"}`, `code` being the HTTP status. What went wrong
//! inside is logged once, by [`log_internal`], and never told.

mod data_plane;

use std::time::Duration;

use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{backend, sandbox, template::FindError};

pub use data_plane::DataPlaneError;

/// Seconds after which a client had better try again.
const RETRY_FULL: u32 = 1;
const RETRY_BUILDING: u32 = 5;

#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    error_code: Option<&'static str>,
    retry_after: Option<u32>,
    /// For the log only.
    internal: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            error_code: None,
            retry_after: None,
            internal: None,
        }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// A sandbox that is not there; E2B's text.
    pub fn no_sandbox(id: &str) -> Self {
        let text = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
        Self::not_found(text)
    }

    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
    }

    pub fn request_timeout(patience: Duration) -> Self {
        let text = format!("the request body did not come within {} s", patience.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, text)
    }

    pub fn too_large(limit: usize) -> Self {
        let text = format!("the request body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    }

    /// What this version cannot do yet.
    pub fn not_implemented(what: &str) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, format!("{what} is not implemented yet"))
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// A failure of ours: `internal` goes to the log, the client learns that there is one.
    pub fn internal(internal: impl Into<String>) -> Self {
        let message = "internal error; the gateway's log has the reason";
        Self {
            internal: Some(internal.into()),
            ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    fn full(message: String) -> Self {
        Self {
            error_code: Some("sandbox_capacity_unavailable"),
            ..Self::unavailable(message).retry_after(RETRY_FULL)
        }
    }
}

impl From<sandbox::Error> for ApiError {
    fn from(error: sandbox::Error) -> Self {
        use sandbox::Error as E;
        match error {
            E::Template { name, source: FindError::Unknown } => {
                Self::not_found(format!("template '{name}' not found"))
            }
            E::Template { name, source: FindError::Building(progress) } => {
                Self::unavailable(format!("template '{name}' is being built: {progress}"))
                    .retry_after(RETRY_BUILDING)
            }
            E::Template { name, source: FindError::Failed(why) } => Self {
                internal: Some(format!("template '{name}' could not be built: {why}")),
                ..Self::unavailable(format!(
                    "template '{name}' could not be built; the gateway's log has the reason"
                ))
            },
            E::Full(_) => Self::full(error.to_string()),
            E::Stopping => Self::unavailable(error.to_string()).retry_after(RETRY_FULL),
            E::NotFound(id) => Self::no_sandbox(&id.to_string()),
            E::EndedInCreation(id) => {
                Self::new(StatusCode::CONFLICT, format!("Sandbox \"{id}\" is being killed"))
            }
            E::KeyReused => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "this Idempotency-Key came before with a different request",
            ),
            E::TooOld(_) => Self::bad_request("Max instance length exceeded"),
            E::Backend(backend::Error::Full(_)) => Self {
                internal: Some(error.to_string()),
                ..Self::full("no room for another sandbox".to_owned())
            },
            E::Backend(backend::Error::Timeout(..)) => Self {
                internal: Some(error.to_string()),
                ..Self::new(StatusCode::GATEWAY_TIMEOUT, "the sandbox did not start in time")
            },
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

#[derive(Serialize)]
struct Body<'a> {
    code: u16,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'static str>,
}

/// Travels with the response to [`log_internal`].
#[derive(Clone)]
struct Internal(String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body {
            code: self.status.as_u16(),
            message: &self.message,
            error_code: self.error_code,
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(internal) = self.internal {
            response.extensions_mut().insert(Internal(internal));
        }
        response
    }
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
