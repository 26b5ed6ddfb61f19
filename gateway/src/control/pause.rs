//! `POST /sandboxes/{id}/pause`.

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{ApiJson, SandboxPath};
use crate::{
    Gateway,
    error::{ApiError, InvalidBody, NoSandbox, NotPaused},
    sandbox::{PauseMode, Pausing},
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(pause))
}

#[derive(Default, Deserialize, ToSchema)]
pub(super) struct Pause {
    /// `false`: its files are kept and nothing else, so that it is booted when it goes on. True if
    /// left out.
    memory: Option<bool>,
    /// Not to be paused unless its envd answers, as it has to in any case for a pause without
    /// memory. False if left out: then one whose envd does not answer can only be booted.
    #[serde(rename = "requireHealthyGuest")]
    require_healthy_guest: Option<bool>,
}

/// Stops it where it is, with its memory, its files and its connections inside; its time stands
/// still. Nothing of it runs when this is answered.
#[utoipa::path(post, path = "/sandboxes/{id}/pause", tag = "sandboxes", params(SandboxPath),
    request_body = Option<Pause>, responses(
        (status = 204, description = "it is paused"),
        InvalidBody, NoSandbox, NotPaused,
    ))]
async fn pause(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    body: Option<ApiJson<Pause>>,
) -> Result<StatusCode, ApiError> {
    let body = body.map(|ApiJson(body)| body).unwrap_or_default();
    let mode = match body.memory {
        Some(false) => PauseMode::Filesystem,
        _ => PauseMode::Full,
    };
    let require_healthy = body.require_healthy_guest.unwrap_or_default();
    gateway.sandboxes().pause(id, Pausing { mode, require_healthy }).await?;
    Ok(StatusCode::NO_CONTENT)
}
