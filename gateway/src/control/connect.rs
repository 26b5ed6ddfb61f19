//! `POST /v2/sandboxes/{id}/connect`, its elder without `/v2`, and `resume` of clients before both.
//!
//! Of a sandbox that runs the deadline only ever moves away, and the answer is 200; one that is
//! paused goes on, and the answer is 201.

use axum::{Json, extract::State, http::StatusCode};
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
    error::{ApiError, BeingKilled, InvalidBody, NoSandbox, NotResumed, Resumed},
    sandbox::{Reason, SandboxId},
};

/// Of a v2 client that does not say (seconds).
const DEFAULT_TIMEOUT: i64 = 300;
/// Of one that asks to resume.
const RESUME_TIMEOUT: i64 = 15;

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
    /// `false`: one that is paused is booted from its files, whatever else it has; a running one
    /// is left as it is.
    memory: Option<bool>,
}

#[derive(Deserialize, ToSchema)]
pub(super) struct ConnectV2 {
    /// Seconds from now that it is to live at least; 300 if left out.
    #[schema(minimum = 0)]
    timeout: Option<i64>,
    /// `false`: one that is paused is booted from its files, whatever else it has; a running one
    /// is left as it is.
    memory: Option<bool>,
}

#[derive(Default, Deserialize, ToSchema)]
pub(super) struct Resume {
    /// Seconds from now until it ends by itself; 15 if left out.
    #[schema(minimum = 0)]
    timeout: Option<i64>,
    /// `false`: one that is paused is booted from its files, whatever else it has; a running one
    /// is left as it is.
    memory: Option<bool>,
}

/// A sandbox's addresses and token, for a client that was not the one to create it; one that is
/// paused goes on.
#[utoipa::path(post, path = "/sandboxes/{id}/connect", tag = "sandboxes", params(SandboxPath),
    request_body = ConnectV1, responses(
        (status = 200, description = "it was running", body = Handle),
        (status = 201, description = "it was paused, and runs", body = Handle),
        InvalidBody, NoSandbox, BeingKilled, NotResumed,
    ))]
async fn connect_v1(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    ApiJson(body): ApiJson<ConnectV1>,
) -> Result<(StatusCode, Json<Handle>), ApiError> {
    connect(&gateway, id, body.timeout, body.memory).await
}

/// A sandbox's addresses and token, for a client that was not the one to create it; one that is
/// paused goes on.
#[utoipa::path(post, path = "/v2/sandboxes/{id}/connect", tag = "sandboxes", params(SandboxPath),
    request_body = Option<ConnectV2>, responses(
        (status = 200, description = "it was running", body = Handle),
        (status = 201, description = "it was paused, and runs", body = Handle),
        InvalidBody, NoSandbox, BeingKilled, NotResumed,
    ))]
async fn connect_v2(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    body: Option<ApiJson<ConnectV2>>,
) -> Result<(StatusCode, Json<Handle>), ApiError> {
    let (timeout, memory) = body.map_or((None, None), |ApiJson(body)| (body.timeout, body.memory));
    connect(&gateway, id, timeout.unwrap_or(DEFAULT_TIMEOUT), memory).await
}

async fn connect(
    gateway: &Gateway,
    id: SandboxId,
    seconds: i64,
    memory: Option<bool>,
) -> Result<(StatusCode, Json<Handle>), ApiError> {
    let timeout = timeout::bounded(seconds, gateway.max_timeout())?;
    let (sandbox, resumed) =
        gateway.sandboxes().connect(id, timeout, memory != Some(false)).await?;
    let status = if resumed { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Handle::new(gateway, &sandbox))))
}

/// Of clients that had no `connect` yet.
#[utoipa::path(post, path = "/sandboxes/{id}/resume", tag = "sandboxes", params(SandboxPath),
    request_body = Option<Resume>, responses(
        (status = 201, description = "it was paused, and runs", body = Handle),
        InvalidBody, NoSandbox, Resumed, NotResumed,
    ))]
async fn resume(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    body: Option<ApiJson<Resume>>,
) -> Result<(StatusCode, Json<Handle>), ApiError> {
    let (timeout, memory) = body.map_or((None, None), |ApiJson(body)| (body.timeout, body.memory));
    let timeout = timeout::bounded(timeout.unwrap_or(RESUME_TIMEOUT), gateway.max_timeout())?;
    if !gateway.sandboxes().resume(id, timeout, Reason::User, memory != Some(false)).await? {
        return Err(ApiError::already_running(&id.to_string()));
    }
    let sandbox = gateway.sandboxes().present(id)?;
    Ok((StatusCode::CREATED, Json(Handle::new(&gateway, &sandbox))))
}
