//! `GET /v1/sandboxes/{id}`: where a sandbox stands and why, in OpenSandbox's shape.
//!
//! E2B's clients know running and paused; here are all phases, and those of sandboxes that have
//! ended, as long as this gateway remembers them.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::super::{extract::SandboxPath, shape::time};
use crate::{
    Gateway,
    error::{ApiError, NoSandbox},
    sandbox::{Phase, Reason, Seen, Status},
};

/// What every sandbox begins with: what its clients want of it, it is told later.
const ENTRYPOINT: [&str; 2] = ["coppice", "envd"];

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(show))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sandbox {
    id: String,
    status: SandboxStatus,
    metadata: BTreeMap<String, String>,
    /// What its first process is.
    #[schema(value_type = Vec<String>)]
    entrypoint: [&'static str; 2],
    /// When it ends or is paused by itself, or of one that has ended would have; left out while no
    /// time runs for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, required = false, nullable = false)]
    expires_at: Option<String>,
    #[schema(format = DateTime)]
    created_at: String,
    /// What it may use at most, by the names that `coppice.limits` has for it; left out while it is
    /// being made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = BTreeMap<String, u64>, required = false)]
    limits: Option<BTreeMap<&'static str, u64>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SandboxStatus {
    state: Phase,
    /// Why it is in that state; left out of one that runs since it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    reason: Option<&'static str>,
    /// For people.
    message: &'static str,
    #[schema(format = DateTime)]
    last_transition_at: String,
}

impl SandboxStatus {
    fn of(status: Status) -> Self {
        let begun = if status.phase == Phase::Pending { "it is being made" } else { "it runs" };
        Self {
            state: status.phase,
            reason: status.reason.map(Reason::code),
            message: status.reason.map_or(begun, Reason::message),
            last_transition_at: time(status.since),
        }
    }
}

impl Sandbox {
    pub(super) fn of(seen: Seen) -> Self {
        Self {
            id: seen.id.to_string(),
            status: SandboxStatus::of(seen.status),
            metadata: seen.metadata,
            entrypoint: ENTRYPOINT,
            expires_at: seen.expires_at.map(time),
            created_at: time(seen.created_at),
            limits: seen.limits.map(|limits| limits.told()),
        }
    }
}

/// Where a sandbox stands, why, and since when; the last thousand that ended too, until the gateway
/// is started anew.
#[utoipa::path(get, path = "/v1/sandboxes/{id}", tag = "opensandbox", params(SandboxPath), responses(
    (status = 200, description = "it is there, or was", body = Sandbox),
    NoSandbox,
))]
async fn show(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
) -> Result<Json<Sandbox>, ApiError> {
    Ok(Json(Sandbox::of(gateway.sandboxes().see(id)?)))
}
