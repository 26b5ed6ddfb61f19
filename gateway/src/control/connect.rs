//! `POST /v2/sandboxes/{id}/connect` and its elder without `/v2`.
//!
//! Sandboxes only ever run in this version, so there is nothing to resume: the answer is 200, and
//! the deadline only ever moves away.

use axum::{Json, Router, extract::State, routing::post};
use serde::Deserialize;

use super::{
    extract::{ApiJson, SandboxPath},
    shape::Handle,
    timeout,
};
use crate::{Gateway, error::ApiError, sandbox::SandboxId};

/// Of a v2 client that does not say (seconds).
const DEFAULT_TIMEOUT: i64 = 300;

pub(super) fn routes() -> Router<Gateway> {
    Router::new()
        .route("/sandboxes/{id}/connect", post(connect_v1))
        .route("/v2/sandboxes/{id}/connect", post(connect_v2))
}

#[derive(Deserialize)]
struct ConnectV1 {
    timeout: i64,
}

#[derive(Deserialize)]
struct ConnectV2 {
    timeout: Option<i64>,
}

async fn connect_v1(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    ApiJson(body): ApiJson<ConnectV1>,
) -> Result<Json<Handle>, ApiError> {
    connect(&gateway, id, body.timeout)
}

async fn connect_v2(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    body: Option<ApiJson<ConnectV2>>,
) -> Result<Json<Handle>, ApiError> {
    let timeout = body.and_then(|ApiJson(body)| body.timeout).unwrap_or(DEFAULT_TIMEOUT);
    connect(&gateway, id, timeout)
}

fn connect(gateway: &Gateway, id: SandboxId, seconds: i64) -> Result<Json<Handle>, ApiError> {
    let timeout = timeout::bounded(seconds, gateway.max_timeout())?;
    let sandbox = gateway.sandboxes().extend(id, timeout)?;
    Ok(Json(Handle::new(gateway, &sandbox)))
}
