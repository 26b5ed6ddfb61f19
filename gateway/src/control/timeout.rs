//! `POST /sandboxes/{id}/timeout`, and `/refreshes` of older clients.

use std::time::Duration;

use axum::{Router, extract::State, http::StatusCode, routing::post};
use serde::Deserialize;

use super::extract::{ApiJson, SandboxPath};
use crate::{Gateway, error::ApiError};

/// Refreshes are never shorter, nor longer, than this (seconds).
const SHORTEST_REFRESH: i64 = 15;
const LONGEST_REFRESH: i64 = 3600;

pub(super) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/sandboxes/{id}/timeout", post(set_timeout))
        .route("/sandboxes/{id}/refreshes", post(refresh))
}

#[derive(Deserialize)]
struct SetTimeout {
    timeout: i64,
}

async fn set_timeout(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    ApiJson(body): ApiJson<SetTimeout>,
) -> Result<StatusCode, ApiError> {
    // Longer than allowed is cut short by the registry, as E2B does; absurd is refused.
    gateway.sandboxes().set_timeout(id, seconds(body.timeout)?)?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize)]
struct Refresh {
    duration: Option<i64>,
}

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
    gateway.sandboxes().extend(id, seconds(duration.max(SHORTEST_REFRESH))?)?;
    Ok(StatusCode::NO_CONTENT)
}

/// A timeout that a client may ask for: E2B's is a 32-bit number.
fn seconds(seconds: i64) -> Result<Duration, ApiError> {
    match u64::try_from(seconds) {
        Ok(seconds) if i32::try_from(seconds).is_ok() => Ok(Duration::from_secs(seconds)),
        Ok(_) => Err(ApiError::bad_request("Timeout is too large")),
        Err(_) => Err(ApiError::bad_request("Timeout must not be negative")),
    }
}

/// A timeout of at most `max`.
pub(super) fn bounded(wanted: i64, max: Duration) -> Result<Duration, ApiError> {
    let wanted =
        u64::try_from(wanted).map_err(|_| ApiError::bad_request("Timeout must not be negative"))?;
    if wanted > max.as_secs() {
        let hours = max.as_secs() / 3600;
        return Err(ApiError::bad_request(format!("Timeout cannot be greater than {hours} hours")));
    }
    Ok(Duration::from_secs(wanted))
}
