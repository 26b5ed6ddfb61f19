//! `POST /v2/sandboxes/{id}/connect`, its elder without `/v2`, and `resume` of clients before both.
//!
//! Sandboxes only ever run in this version, so there is nothing to resume: connecting is answered
//! by 200, and the deadline only ever moves away.

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{ApiJson, SandboxPath},
    shape::Handle,
    timeout,
};
use crate::{
    Gateway,
    error::{ApiError, InvalidBody, NoSandbox, Resumed},
    sandbox::SandboxId,
};

/// Of a v2 client that does not say (seconds).
const DEFAULT_TIMEOUT: i64 = 300;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(connect_v1))
        .routes(routes!(connect_v2))
        .routes(routes!(resume))
}

#[derive(Deserialize, ToSchema)]
pub(super) struct ConnectV1 {
    /// Seconds from now that it is to live at least.
    #[schema(minimum = 0)]
    timeout: i64,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct ConnectV2 {
    /// Seconds from now that it is to live at least; 300 if left out.
    #[schema(minimum = 0)]
    timeout: Option<i64>,
}

/// A sandbox's addresses and token, for a client that was not the one to create it.
#[utoipa::path(post, path = "/sandboxes/{id}/connect", tag = "sandboxes", params(SandboxPath),
    request_body = ConnectV1, responses(
        (status = 200, description = "it is running", body = Handle),
        InvalidBody, NoSandbox,
    ))]
async fn connect_v1(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    ApiJson(body): ApiJson<ConnectV1>,
) -> Result<Json<Handle>, ApiError> {
    connect(&gateway, id, body.timeout)
}

/// A sandbox's addresses and token, for a client that was not the one to create it.
#[utoipa::path(post, path = "/v2/sandboxes/{id}/connect", tag = "sandboxes", params(SandboxPath),
    request_body = Option<ConnectV2>, responses(
        (status = 200, description = "it is running", body = Handle),
        InvalidBody, NoSandbox,
    ))]
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

/// Of clients that had no `connect` yet. Whatever is there runs.
#[utoipa::path(
    post,
    path = "/sandboxes/{id}/resume",
    tag = "sandboxes",
    params(SandboxPath),
    responses(NoSandbox, Resumed)
)]
async fn resume(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
) -> Result<(), ApiError> {
    gateway.sandboxes().running(id)?;
    Err(ApiError::already_running(&id.to_string()))
}
