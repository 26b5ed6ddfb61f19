//! `POST /sandboxes/{id}/pause`.

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{ApiJson, SandboxPath},
    unasked::{unasked_health, unasked_memory},
};
use crate::{
    Gateway,
    error::{ApiError, InvalidBody, NoSandbox, NotPaused},
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(pause))
}

#[derive(Default, Deserialize, ToSchema)]
pub(super) struct Pause {
    #[schema(schema_with = unasked_memory, required = false)]
    memory: Option<bool>,
    /// Whether only one whose envd answers is to be paused: not honoured yet, it is stopped from
    /// outside.
    #[serde(rename = "requireHealthyGuest")]
    #[schema(schema_with = unasked_health, required = false)]
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
    if let Some(ApiJson(body)) = body {
        let refused = [
            ("memory: false", body.memory == Some(false)),
            ("requireHealthyGuest", body.require_healthy_guest == Some(true)),
        ];
        if let Some((what, _)) = refused.into_iter().find(|(_, asked)| *asked) {
            let text = format!("{what} is not supported yet: leave it out");
            return Err(ApiError::bad_request(text));
        }
    }
    gateway.sandboxes().pause(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
