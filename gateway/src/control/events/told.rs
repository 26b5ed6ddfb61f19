//! `POST /sandboxes/{id}/events`: what agents do in a sandbox, as they tell it.

use std::time::Instant;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::event_id;
use crate::{
    Gateway,
    control::extract::{ApiJson, SandboxPath},
    error::{ApiError, InvalidBody, NoSandbox, TooManyTold},
    events::{EventId, What},
    metrics::Denied,
};

/// Of a name (characters).
const NAME: usize = 256;
/// Of an error (characters).
const ERROR: usize = 4096;
/// Of arguments and results, as JSON (bytes).
const VALUE: usize = 16 << 10;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(tell))
}

/// What an agent did.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "type", deny_unknown_fields)]
enum ToolEvent {
    #[serde(rename = "tool.invoked")]
    Invoked {
        data: Invoked,
        /// The id of the event that it came of.
        #[serde(rename = "parentId", default)]
        #[schema(format = Uuid)]
        parent: Option<String>,
    },
    #[serde(rename = "tool.completed")]
    Completed {
        data: Completed,
        /// The id of the event that it came of: that of `tool.invoked`.
        #[serde(rename = "parentId", default)]
        #[schema(format = Uuid)]
        parent: Option<String>,
    },
    #[serde(rename = "tool.failed")]
    Failed {
        data: Failed,
        /// The id of the event that it came of: that of `tool.invoked`.
        #[serde(rename = "parentId", default)]
        #[schema(format = Uuid)]
        parent: Option<String>,
    },
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Invoked {
    #[schema(min_length = 1, max_length = 256)]
    tool_name: String,
    /// Of 16 KiB at most, as JSON.
    #[serde(default)]
    #[schema(value_type = Value)]
    tool_args: Value,
    #[serde(default)]
    #[schema(max_length = 256)]
    agent_id: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Completed {
    #[schema(min_length = 1, max_length = 256)]
    tool_name: String,
    /// Of 16 KiB at most, as JSON.
    #[serde(default)]
    #[schema(value_type = Value)]
    result: Value,
    #[schema(maximum = 9007199254740991_u64)]
    duration_ms: u64,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Failed {
    #[schema(min_length = 1, max_length = 256)]
    tool_name: String,
    #[schema(max_length = 4096)]
    error: String,
}

/// What was told has this id.
#[derive(Serialize, ToSchema)]
struct Told {
    #[schema(format = Uuid)]
    id: String,
}

impl ToolEvent {
    fn what(self) -> Result<(What, Option<EventId>), ApiError> {
        let (what, parent) = match self {
            Self::Invoked { data: Invoked { tool_name, tool_args, agent_id }, parent } => {
                let tool_args = bounded("toolArgs", tool_args)?;
                if let Some(id) = &agent_id {
                    short("agentId", id, NAME)?;
                }
                (What::ToolInvoked { tool_name: named(tool_name)?, tool_args, agent_id }, parent)
            }
            Self::Completed { data: Completed { tool_name, result, duration_ms }, parent } => {
                let result = bounded("result", result)?;
                (What::ToolCompleted { tool_name: named(tool_name)?, result, duration_ms }, parent)
            }
            Self::Failed { data: Failed { tool_name, error }, parent } => {
                short("error", &error, ERROR)?;
                (What::ToolFailed { tool_name: named(tool_name)?, error }, parent)
            }
        };
        Ok((what, parent.map(|id| event_id("parentId", &id)).transpose()?))
    }
}

fn named(name: String) -> Result<String, ApiError> {
    if name.is_empty() {
        return Err(ApiError::bad_request("toolName is empty"));
    }
    short("toolName", &name, NAME).map(|()| name)
}

fn short(of: &str, text: &str, most: usize) -> Result<(), ApiError> {
    let fits = text.len() <= most || text.chars().count() <= most;
    let wrong = || ApiError::bad_request(format!("{of} must have {most} characters at most"));
    fits.then_some(()).ok_or_else(wrong)
}

fn bounded(of: &str, value: Value) -> Result<Value, ApiError> {
    let fits = serde_json::to_string(&value).is_ok_and(|text| text.len() <= VALUE);
    let wrong = || ApiError::bad_request(format!("{of} must be {VALUE} bytes of JSON at most"));
    fits.then_some(value).ok_or_else(wrong)
}

/// What an agent does in a sandbox that runs or is paused: a tool that it calls, and what comes of
/// that. It is one more event of the sandbox's, of the trace that the request's `traceparent` names.
#[utoipa::path(post, path = "/sandboxes/{id}/events", tag = "events",
    params(SandboxPath),
    request_body = ToolEvent,
    responses(
        (status = 201, description = "it was told", body = Told),
        NoSandbox,
        InvalidBody,
        TooManyTold,
    ))]
async fn tell(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    ApiJson(event): ApiJson<ToolEvent>,
) -> Result<(StatusCode, Json<Told>), ApiError> {
    let (what, parent) = event.what()?;
    let sandbox = gateway.sandboxes().present(id)?;
    gateway.history().rates().take(id, Instant::now()).map_err(|again| {
        let text = format!("more was told of sandbox {id} than may be in a second");
        ApiError::too_many(again, text).because(Denied::Rate)
    })?;
    let new = sandbox.event(what);
    let new = if parent.is_some() { new.parent(parent) } else { new };
    let told = gateway.sandboxes().events().emit(new);
    Ok((StatusCode::CREATED, Json(Told { id: told.to_string() })))
}
