//! `POST /sandboxes/{id}/pause`.

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{ApiJson, SandboxPath},
    unasked::unasked_memory,
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
    /// What else is said is not asked for by anybody: a sandbox is paused whether envd answers or
    /// not, as it is stopped from outside.
    #[serde(flatten)]
    #[schema(value_type = Object, inline)]
    _others: Map<String, Value>,
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
    if body.is_some_and(|ApiJson(body)| body.memory == Some(false)) {
        return Err(ApiError::bad_request("memory: false is not supported yet: leave it out"));
    }
    gateway.sandboxes().pause(id).await?;
    Ok(StatusCode::NO_CONTENT)
}
