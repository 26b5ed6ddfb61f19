//! `POST /sandboxes/{id}/timeout`, and `/refreshes` of older clients.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{ApiJson, SandboxPath};
use crate::{
    Gateway,
    error::{ApiError, InvalidBody, NoSandbox, NotNow},
    sandbox::{Error, Phase},
};

/// Refreshes are never shorter, nor longer, than this (seconds).
const SHORTEST_REFRESH: i64 = 15;
const LONGEST_REFRESH: i64 = 3600;

/// E2B's is a 32-bit number of seconds.
pub(super) const LONGEST: Duration = Duration::from_secs(i32::MAX as u64);

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(set_timeout)).routes(routes!(refresh))
}

#[derive(Deserialize, ToSchema)]
pub(super) struct SetTimeout {
    /// Seconds from now; cut short where it would outlive what the gateway allows.
    #[schema(minimum = 0, maximum = 2147483647)]
    timeout: i64,
}

/// Sets when it ends by itself, sooner or later than before.
#[utoipa::path(post, path = "/sandboxes/{id}/timeout", tag = "sandboxes", params(SandboxPath),
    request_body = SetTimeout, responses(
        (status = 204, description = "done"),
        InvalidBody, NoSandbox, NotNow,
    ))]
async fn set_timeout(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    ApiJson(body): ApiJson<SetTimeout>,
) -> Result<StatusCode, ApiError> {
    // Longer than allowed is cut short by the registry, as E2B does; absurd is refused.
    gateway.sandboxes().set_timeout(id, seconds(body.timeout)?).await.map_err(absent)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize, ToSchema)]
pub(super) struct Refresh {
    /// Seconds from now that it is to live at least; 15 if left out.
    #[schema(minimum = 0, maximum = 3600)]
    duration: Option<i64>,
}

/// Of older clients: keeps it alive.
#[utoipa::path(post, path = "/sandboxes/{id}/refreshes", tag = "sandboxes", params(SandboxPath),
    request_body = Option<Refresh>, responses(
        (status = 204, description = "done"),
        InvalidBody, NoSandbox, NotNow,
    ))]
async fn refresh(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    body: Option<ApiJson<Refresh>>,
) -> Result<StatusCode, ApiError> {
    let duration = body.and_then(|ApiJson(body)| body.duration).unwrap_or(SHORTEST_REFRESH);
    if !(0..=LONGEST_REFRESH).contains(&duration) {
        let text = format!("duration must be between 0 and {LONGEST_REFRESH}");
        return Err(ApiError::bad_request(text));
    }
    let duration = seconds(duration.max(SHORTEST_REFRESH))?;
    gateway.sandboxes().extend(id, duration).await.map_err(absent)?;
    Ok(StatusCode::NO_CONTENT)
}

/// To E2B's clients a paused sandbox has no timeout, as if it were not there.
fn absent(error: Error) -> Error {
    match error {
        Error::NotNow(id, Phase::Paused) => Error::NotFound(id),
        error => error,
    }
}

/// A timeout that a client may ask for.
fn seconds(seconds: i64) -> Result<Duration, ApiError> {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds <= LONGEST.as_secs() => Ok(Duration::from_secs(seconds)),
        Ok(_) => Err(ApiError::bad_request("Timeout is too large")),
        Err(_) => Err(ApiError::bad_request("Timeout must not be negative")),
    }
}

/// A timeout of at most `max`; E2B's text.
pub(super) fn bounded(wanted: i64, max: Option<Duration>) -> Result<Duration, ApiError> {
    if let Some(max) = max
        && u64::try_from(wanted).is_ok_and(|wanted| wanted > max.as_secs())
    {
        let hours = max.as_secs() / 3600;
        return Err(ApiError::bad_request(format!("Timeout cannot be greater than {hours} hours")));
    }
    seconds(wanted)
}
