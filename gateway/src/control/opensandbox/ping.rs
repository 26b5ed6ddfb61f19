//! `GET /sandboxes/{id}/ping`: whether anybody is in.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::super::extract::SandboxPath;
use crate::{
    Gateway,
    error::{ApiError, NoAnswer, NoSandbox},
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(ping))
}

#[derive(Serialize, ToSchema)]
struct Pong {
    /// `ok`.
    status: &'static str,
}

/// Asks its envd, which answers at once. A sandbox that is paused is not woken by it, nor is one
/// that would be paused when nobody uses it kept running.
#[utoipa::path(get, path = "/sandboxes/{id}/ping", tag = "opensandbox", params(SandboxPath),
    responses(
        (status = 200, description = "it runs, and its envd answers", body = Pong),
        NoSandbox, NoAnswer,
    ))]
async fn ping(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
) -> Result<Json<Pong>, ApiError> {
    gateway.sandboxes().ping(id).await?;
    Ok(Json(Pong { status: "ok" }))
}
