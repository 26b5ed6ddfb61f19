//! `GET /api/sandbox/stats/history` and `GET /api/agents/{agent}/sandbox/stats/history`: as it was.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    super::{extract::Parameters, shape::time},
    AgentPath, sandboxes_of,
    shape::{Container, hundredths},
};
use crate::{
    Gateway,
    auth::Caller,
    error::{ApiError, InvalidQuery, NoAgent},
    metrics::Sample,
};

/// In one answer; of more the history of each is drawn together.
const MOST: usize = 20_000;
/// If nothing is said (seconds).
const HOUR: u64 = 3600;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(of_agent)).routes(routes!(of_all))
}

#[derive(Serialize, ToSchema)]
struct StatsHistory {
    #[schema(format = DateTime)]
    since: String,
    containers: Vec<ContainerHistory>,
}

#[derive(Serialize, ToSchema)]
struct ContainerHistory {
    session_id: String,
    agent_id: Option<String>,
    container_id: String,
    /// The oldest first; none of the time it was paused.
    samples: Vec<StatsSample>,
}

#[derive(Serialize, ToSchema)]
struct StatsSample {
    /// At its end, in seconds since the epoch.
    timestamp: u32,
    /// 100 is one core; the mean since the sample before.
    cpu_percent: f64,
    /// The most there was, as of the disk.
    memory_bytes: u64,
    disk_bytes: u64,
}

impl StatsSample {
    fn of(sample: &Sample) -> Self {
        Self {
            timestamp: sample.at,
            cpu_percent: hundredths(f64::from(sample.cpu_percent)),
            memory_bytes: u64::from(sample.memory_kib) << 10,
            disk_bytes: u64::from(sample.disk_kib) << 10,
        }
    }
}

/// What the sandboxes of an agent that are there have used: each five seconds of the last quarter of
/// an hour, each minute of six hours before that, each ten minutes of five days before that.
#[utoipa::path(get, path = "/api/agents/{agent}/sandbox/stats/history", tag = "agents",
    params(
        ("agent" = String, Path, example = "admin", description = "its id in the settings"),
        ("since" = Option<String>, Query, example = "2026-06-15T10:30:00Z", description = "a time as \
            in RFC 3339, or seconds since the epoch; an hour ago if left out"),
    ),
    responses(
        (status = 200, description = "of those there are", body = StatsHistory),
        NoAgent,
    ))]
async fn of_agent(
    State(gateway): State<Gateway>,
    caller: Caller,
    AgentPath(agent): AgentPath,
    parameters: Parameters,
) -> Result<Json<StatsHistory>, ApiError> {
    history(&gateway, &caller, Some(&agent.id), &parameters)
}

/// What all sandboxes that are there have used, those of agents and others, as finely; more coarsely
/// where there are many.
#[utoipa::path(get, path = "/api/sandbox/stats/history", tag = "agents",
    params(
        ("since" = Option<String>, Query, example = "2026-06-15T10:30:00Z", description = "a time as \
            in RFC 3339, or seconds since the epoch; an hour ago if left out"),
    ),
    responses(
        (status = 200, description = "of those there are", body = StatsHistory),
        InvalidQuery,
    ))]
async fn of_all(
    State(gateway): State<Gateway>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<StatsHistory>, ApiError> {
    history(&gateway, &caller, None, &parameters)
}

fn history(
    gateway: &Gateway,
    caller: &Caller,
    agent: Option<&str>,
    parameters: &Parameters,
) -> Result<Json<StatsHistory>, ApiError> {
    let since = match parameters.text("since") {
        None => u64::try_from(Utc::now().timestamp()).unwrap_or_default().saturating_sub(HOUR),
        Some(text) => seconds(&text).ok_or_else(|| {
            ApiError::bad_request(
                "since must be a time as in RFC 3339, or whole seconds since the epoch",
            )
        })?,
    };
    let sandboxes = sandboxes_of(gateway, caller, agent);
    let most = (MOST / sandboxes.len().max(1)).max(1);
    let containers = sandboxes.iter().map(|sandbox| {
        let samples = gateway.sandboxes().samples().between(sandbox.id(), since, u64::MAX);
        let Container { session_id, agent_id, container_id, .. } = Container::of(sandbox, None);
        let samples = Sample::drawn_together(&samples, most);
        let samples = samples.iter().map(StatsSample::of).collect();
        ContainerHistory { session_id, agent_id, container_id, samples }
    });
    let since = i64::try_from(since).ok().and_then(|since| DateTime::from_timestamp(since, 0));
    Ok(Json(StatsHistory {
        since: time(since.unwrap_or_default()),
        containers: containers.collect(),
    }))
}

/// Since the epoch; none before it, and none that is no date.
fn seconds(text: &str) -> Option<u64> {
    let seconds = match text.parse() {
        Ok(seconds) => seconds,
        // In a query a plus is a space, unless its client has said otherwise.
        Err(_) => DateTime::parse_from_rfc3339(&text.replace(' ', "+")).ok()?.timestamp(),
    };
    let seconds = u64::try_from(seconds).ok()?;
    (seconds <= u64::from(u32::MAX)).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_or_a_date() {
        for (text, expected) in [
            ("1750000000", Some(1_750_000_000)),
            ("2026-06-15T10:30:00Z", Some(1_781_519_400)),
            ("2026-06-15T12:30:00+02:00", Some(1_781_519_400)),
            ("2026-06-15T12:30:00 02:00", Some(1_781_519_400)),
            ("0", Some(0)),
            ("-1", None),
            ("1960-01-01T00:00:00Z", None),
            ("99999999999", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }
}
