//! `GET` and `DELETE /sandboxes/{id}`.

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};

use super::{extract::SandboxPath, shape::Detail};
use crate::{Gateway, error::ApiError};

pub(super) fn routes() -> Router<Gateway> {
    Router::new().route("/sandboxes/{id}", get(show).delete(kill))
}

async fn show(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
) -> Result<Json<Detail>, ApiError> {
    let sandbox = gateway.sandboxes().running(id)?;
    Detail::new(&gateway, &sandbox).map(Json).ok_or_else(|| ApiError::no_sandbox(&id.to_string()))
}

async fn kill(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
) -> Result<StatusCode, ApiError> {
    gateway.sandboxes().kill(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
