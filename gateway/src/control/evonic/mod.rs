//! What the sandboxes of agents use, in the shapes of Evonic's stats: as `docker stats` writes it, and
//! in bytes beside that. An agent is who the settings say; a sandbox is of the agent that its
//! metadata names as `agent_id`, and of the session `session_id` and the user `external_user_id`.
//!
//! Whoever asks is told of the sandboxes of their own tenant.

mod history;
mod shape;
mod stats;
mod units;

use std::{ops::ControlFlow, sync::Arc};

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use utoipa_axum::router::OpenApiRouter;

use crate::{
    Gateway,
    agents::Agent,
    auth::Caller,
    error::ApiError,
    sandbox::{AGENT, Sandbox, Shelf},
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().merge(stats::routes()).merge(history::routes())
}

/// The agent that a path names: one that is there and has sandboxes.
struct AgentPath(Agent);

impl FromRequestParts<Gateway> for AgentPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, gateway).await;
        let Path(id) = path.map_err(|_| ApiError::bad_request("Invalid agent ID"))?;
        let agent = gateway.agents().get(&id).ok_or_else(|| {
            ApiError::not_found(format!(
                "Agent {id:?} not found: the setting agents has no such id"
            ))
        })?;
        if !agent.sandbox_enabled {
            let text = format!("Sandbox is disabled for agent {id:?}");
            return Err(ApiError::bad_request(text));
        }
        Ok(Self(agent.clone()))
    }
}

/// Those of whoever asks that are there, the oldest first; all, or one agent's.
fn sandboxes_of(gateway: &Gateway, caller: &Caller, agent: Option<&str>) -> Vec<Arc<Sandbox>> {
    let mut found = Vec::new();
    let theirs = Shelf::Of(caller.tenant().clone());
    gateway.sandboxes().registry().visit(&theirs, false, None, |sandbox| {
        if agent.is_none_or(|agent| sandbox.metadata().get(AGENT).is_some_and(|id| id == agent)) {
            found.push(sandbox.clone());
        }
        ControlFlow::Continue(())
    });
    found
}
