//! `GET /api/agents/{agent}/sandbox/stats` and `GET /api/sandbox/stats`: as it is now.

use std::time::Duration;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    super::extract::Parameters,
    AgentPath, sandboxes_of,
    shape::{Container, hundredths},
};
use crate::{
    Gateway,
    auth::Caller,
    error::{ApiError, InvalidQuery, NoAgent},
};

/// What was looked at no longer ago than this is fresh.
const FRESH: Duration = Duration::from_millis(200);

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(of_agent)).routes(routes!(of_all))
}

#[derive(Serialize, ToSchema)]
struct AgentStats {
    agent_id: String,
    agent_name: String,
    /// Always true: it is an error otherwise.
    sandbox_enabled: bool,
    /// Those that run and those that are paused.
    active_containers: usize,
    containers: Vec<Container>,
    aggregate: Aggregate,
}

#[derive(Serialize, ToSchema)]
struct PoolStats {
    /// Those that run and those that are paused.
    pool_size: usize,
    /// So many there may be at once.
    max_containers: usize,
    containers: Vec<Container>,
    aggregate: Aggregate,
}

/// Over those with figures, but for their number.
#[derive(Serialize, ToSchema)]
#[schema(as = StatsAggregate)]
struct Aggregate {
    /// 100 is one core.
    total_cpu_percent: f64,
    active_containers: usize,
    total_memory_bytes: u64,
    total_pids: u64,
}

impl Aggregate {
    fn of(containers: &[Container]) -> Self {
        let all = || containers.iter();
        let memory = all().filter_map(|one| Some(one.memory.as_ref()?.used_bytes));
        Self {
            total_cpu_percent: hundredths(all().filter_map(|one| one.cpu_percent).sum()),
            active_containers: containers.len(),
            total_memory_bytes: memory.sum(),
            total_pids: all().filter_map(|one| one.pids_current).sum(),
        }
    }
}

/// What the sandboxes of an agent use: as they were last looked at, a second ago at most. One that
/// nothing is known of has an `error` in the place of its figures.
#[utoipa::path(get, path = "/api/agents/{agent}/sandbox/stats", tag = "agents",
    params(
        ("agent" = String, Path, example = "admin", description = "its id in the settings"),
        ("fresh" = Option<bool>, Query, description = "have all looked at now; false if left out"),
    ),
    responses(
        (status = 200, description = "of those there are", body = AgentStats),
        NoAgent,
    ))]
async fn of_agent(
    State(gateway): State<Gateway>,
    caller: Caller,
    AgentPath(agent): AgentPath,
    parameters: Parameters,
) -> Result<Json<AgentStats>, ApiError> {
    let containers = containers(&gateway, &caller, Some(&agent.id), &parameters).await?;
    Ok(Json(AgentStats {
        agent_id: agent.id,
        agent_name: agent.name,
        sandbox_enabled: agent.sandbox_enabled,
        active_containers: containers.len(),
        aggregate: Aggregate::of(&containers),
        containers,
    }))
}

/// What all sandboxes use, those of agents and others.
#[utoipa::path(get, path = "/api/sandbox/stats", tag = "agents",
    params(
        ("fresh" = Option<bool>, Query, description = "have all looked at now; false if left out"),
    ),
    responses(
        (status = 200, description = "of those there are", body = PoolStats),
        InvalidQuery,
    ))]
async fn of_all(
    State(gateway): State<Gateway>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<PoolStats>, ApiError> {
    let containers = containers(&gateway, &caller, None, &parameters).await?;
    let quota = caller.owner().quota.max_sandboxes.unwrap_or(usize::MAX);
    Ok(Json(PoolStats {
        pool_size: containers.len(),
        max_containers: gateway.sandboxes().most().min(quota),
        aggregate: Aggregate::of(&containers),
        containers,
    }))
}

async fn containers(
    gateway: &Gateway,
    caller: &Caller,
    agent: Option<&str>,
    parameters: &Parameters,
) -> Result<Vec<Container>, ApiError> {
    let fresh = match parameters.take("fresh").as_deref() {
        None | Some("0" | "false") => false,
        Some("1" | "true") => true,
        Some(_) => return Err(ApiError::bad_request("fresh must be true or false")),
    };
    let sandboxes = sandboxes_of(gateway, caller, agent);
    if fresh {
        gateway.sandboxes().sample_if_older(FRESH).await;
    }
    let mut figures = vec![None; sandboxes.len()];
    let each = sandboxes.iter().map(|sandbox| sandbox.id()).zip(&mut figures);
    gateway.sandboxes().samples().latest_of(each, |place, latest| *place = Some(*latest));
    let containers = sandboxes.iter().zip(&figures);
    Ok(containers.map(|(sandbox, latest)| Container::of(sandbox, latest.as_ref())).collect())
}
