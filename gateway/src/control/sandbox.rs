//! `GET` and `DELETE /sandboxes/{id}`.

use axum::{Json, extract::State, http::StatusCode};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{extract::SandboxPath, shape::Detail};
use crate::{
    Gateway,
    auth::Caller,
    error::{ApiError, NoSandbox},
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(show, kill))
}

/// All about one sandbox.
#[utoipa::path(get, path = "/sandboxes/{id}", tag = "sandboxes", params(SandboxPath), responses(
    (status = 200, description = "it is running, or paused", body = Detail),
    NoSandbox,
))]
async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
) -> Result<Json<Detail>, ApiError> {
    let sandbox = gateway.sandboxes().present(id)?;
    Detail::new(&gateway, &caller, &sandbox)
        .map(Json)
        .ok_or_else(|| ApiError::no_sandbox(&id.to_string()))
}

/// Ends it, now. What ran in it is gone when this is answered.
#[utoipa::path(delete, path = "/sandboxes/{id}", tag = "sandboxes", params(SandboxPath), responses(
    (status = 204, description = "it is gone"),
    NoSandbox,
))]
async fn kill(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
) -> Result<StatusCode, ApiError> {
    gateway.sandboxes().kill(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
