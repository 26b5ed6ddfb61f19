//! `GET /sandboxes/{id}/metrics/now`: what a sandbox uses, by the five fields of OpenSandbox's
//! daemon, from the last look at it.

use std::time::Duration;

use axum::{Json, extract::State};
use chrono::{TimeDelta, Utc};
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::super::extract::SandboxPath;
use crate::{
    Gateway,
    error::{ApiError, NoFigures, NoSandbox},
    metrics::Latest,
    sandbox::{Phase, Sandbox},
};

/// Between two looks for those who ask.
const FRESH: Duration = Duration::from_millis(200);

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(now))
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = CurrentMetrics)]
pub(super) struct Metrics {
    /// CPUs it may use.
    #[schema(minimum = 0)]
    cpu_count: f64,
    /// Of all its CPUs.
    #[schema(minimum = 0, maximum = 100)]
    cpu_used_pct: f64,
    #[schema(minimum = 0)]
    mem_total_mib: f64,
    /// Without copies of files, which give way to what needs the memory.
    #[schema(minimum = 0)]
    mem_used_mib: f64,
    /// Of the look, in milliseconds since the epoch.
    pub(super) timestamp: i64,
}

impl Metrics {
    pub(super) fn of(sandbox: &Sandbox, latest: &Latest) -> Self {
        let (limits, usage) = (&sandbox.facts().limits, &latest.usage);
        let cpus = f64::from(limits.cpus.max(1));
        // 100 is one core there.
        let used = (latest.cpu_percent.unwrap_or(0.0) / cpus).clamp(0.0, 100.0);
        let memory = usage.memory_bytes.saturating_sub(usage.cache_bytes);
        let age = TimeDelta::from_std(usage.at.elapsed()).unwrap_or_default();
        Self {
            cpu_count: cpus,
            cpu_used_pct: hundredths(used),
            mem_total_mib: mib(limits.memory_bytes),
            mem_used_mib: mib(memory),
            timestamp: (Utc::now() - age).timestamp_millis(),
        }
    }
}

fn mib(bytes: u64) -> f64 {
    hundredths(bytes as f64 / f64::from(1 << 20))
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// The last look at a sandbox; one that runs and has not been looked at yet is, though not for each
/// that asks: a look is one at the whole host.
pub(super) async fn latest(gateway: &Gateway, sandbox: &Sandbox) -> Option<Latest> {
    let sandboxes = gateway.sandboxes();
    if let Some(latest) = sandboxes.samples().latest(sandbox.id()) {
        return Some(latest);
    }
    for wait in [Duration::ZERO, FRESH] {
        if sandbox.phase() != Phase::Running {
            return None;
        }
        // It may have been made since the last look, which then is soon too old.
        sleep(wait).await;
        sandboxes.sample_if_older(FRESH).await;
        if let Some(latest) = sandboxes.samples().latest(sandbox.id()) {
            return Some(latest);
        }
    }
    None
}

/// What it uses now, by a look that is a second old at most while it runs. Of one that is paused it
/// is what it keeps, and no CPU; of one whose files alone are kept nothing is known.
#[utoipa::path(get, path = "/sandboxes/{id}/metrics/now", tag = "opensandbox", params(SandboxPath),
    responses(
        (status = 200, description = "as it was last looked at", body = Metrics),
        NoSandbox, NoFigures,
    ))]
async fn now(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
) -> Result<Json<Metrics>, ApiError> {
    let sandbox = gateway.sandboxes().present(id)?;
    let latest = latest(&gateway, &sandbox).await;
    let latest = latest.ok_or_else(|| ApiError::no_figures(&id.to_string()))?;
    Ok(Json(Metrics::of(&sandbox, &latest)))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        backend::Usage,
        limits::Limits,
        sandbox::{Facts, testing},
    };

    #[test]
    fn the_share_is_of_all_its_cpus_and_memory_is_in_mib_without_the_cache() {
        let limits = Limits { cpus: 4, memory_bytes: 8 << 30, ..Limits::default() };
        let facts = Facts { limits, ..testing::facts() };
        let deadline = facts.started_at;
        let sandbox = Sandbox::new(facts, "/nowhere".into(), deadline);
        let usage = Usage {
            at: Instant::now().checked_sub(Duration::from_millis(500)).unwrap(),
            cpu: Duration::ZERO,
            cpu_percent: None,
            memory_bytes: (4 << 30) + (1 << 19),
            cache_bytes: 1 << 30,
            disk_bytes: None,
            processes: 1,
            network: None,
            block: None,
        };
        for (of_core, of_all) in [(Some(182.0), 45.5), (Some(500.0), 100.0), (None, 0.0)] {
            let metrics = Metrics::of(&sandbox, &Latest { usage, cpu_percent: of_core });
            assert_eq!((metrics.cpu_count, metrics.cpu_used_pct), (4.0, of_all));
            assert_eq!((metrics.mem_total_mib, metrics.mem_used_mib), (8192.0, 3072.5));
            let age = Utc::now().timestamp_millis() - metrics.timestamp;
            assert!((500..2000).contains(&age), "{age}");
        }
    }
}
