//! `GET /sandboxes/{id}/metrics` and `GET /sandboxes/metrics`: what sandboxes use and have used.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use chrono::DateTime;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{Parameters, SandboxPath},
    shape::time,
};
use crate::{
    Gateway,
    auth::Caller,
    error::{ApiError, InvalidQuery, NoSandbox},
    metrics::Sample,
    sandbox::{Sandbox, SandboxId},
};

/// Sandboxes that can be asked for at once.
const MOST: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(of_one)).routes(routes!(of_many))
}

/// One look at a sandbox.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SandboxMetric {
    #[schema(format = DateTime)]
    timestamp: String,
    /// In seconds.
    timestamp_unix: u32,
    cpu_count: u32,
    /// 100 is one core.
    cpu_used_pct: f64,
    /// In bytes, as is all that follows; what is in `memCache` is not in it.
    mem_used: u64,
    mem_total: u64,
    /// Copies of files, which give way to what needs the memory; 0 where the system does not tell.
    mem_cache: u64,
    /// What it has written; 0 as long as that is not known.
    disk_used: u64,
    disk_total: u64,
}

impl SandboxMetric {
    fn new(gateway: &Gateway, sandbox: &Sandbox, sample: &Sample) -> Self {
        let limits = &sandbox.facts().limits;
        let bytes = |kib: u32| u64::from(kib) << 10;
        Self {
            timestamp: time(DateTime::from_timestamp(sample.at.into(), 0).unwrap_or_default()),
            timestamp_unix: sample.at,
            cpu_count: limits.cpus,
            cpu_used_pct: (f64::from(sample.cpu_percent) * 100.0).round() / 100.0,
            mem_used: bytes(sample.memory_kib),
            mem_total: limits.memory_bytes,
            mem_cache: bytes(sample.cache_kib),
            disk_used: bytes(sample.disk_kib),
            disk_total: gateway.disk_bytes(limits),
        }
    }
}

/// The history of one, the oldest first: each five seconds of the last quarter of an hour, each
/// minute of six hours before that, each ten minutes of five days before that. There is none of
/// the time it was paused.
#[utoipa::path(get, path = "/sandboxes/{id}/metrics", tag = "sandboxes",
    params(
        SandboxPath,
        ("start" = Option<u64>, Query, maximum = 9007199254740991_u64,
            description = "in seconds since the epoch"),
        ("end" = Option<u64>, Query, maximum = 9007199254740991_u64,
            description = "in seconds since the epoch"),
    ),
    responses(
        (status = 200, description = "all there is in that time", body = [SandboxMetric]),
        NoSandbox,
    ))]
async fn of_one(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    parameters: Parameters,
) -> Result<Json<Vec<SandboxMetric>>, ApiError> {
    let start = parameters.number("start")?.unwrap_or(0);
    let end = parameters.number("end")?.unwrap_or(u64::MAX);
    let sandbox = gateway.sandboxes().present(id)?;
    let samples = gateway.sandboxes().samples().between(id, start, end);
    let shaped = samples.iter().map(|sample| SandboxMetric::new(&gateway, &sandbox, sample));
    Ok(Json(shaped.collect()))
}

#[derive(Serialize, ToSchema)]
struct SandboxesWithMetrics {
    /// By their ids.
    sandboxes: BTreeMap<String, SandboxMetric>,
}

/// The newest of several, without those that are not there or have none yet.
#[utoipa::path(get, path = "/sandboxes/metrics", tag = "sandboxes",
    params(("sandbox_ids" = String, Query, example = "0123456789abcdef0123456789abcdef",
        pattern = "^[^,]+(,[^,]+){0,99}$", description = "with commas between them, 100 at most")),
    responses(
        (status = 200, description = "of those that have any", body = SandboxesWithMetrics),
        InvalidQuery,
    ))]
async fn of_many(
    State(gateway): State<Gateway>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<SandboxesWithMetrics>, ApiError> {
    let text = parameters
        .text("sandbox_ids")
        .ok_or_else(|| ApiError::bad_request("sandbox_ids is required"))?;
    let ids: Vec<&str> = text.split(',').collect();
    if ids.len() > MOST || ids.contains(&"") {
        return Err(ApiError::bad_request(format!(
            "sandbox_ids are 1 to {MOST}, none of them empty"
        )));
    }
    let registry = gateway.sandboxes().registry();
    let found = ids.into_iter().filter_map(|text| {
        let id: SandboxId = text.parse().ok()?;
        let sandbox = registry.present(id)?;
        if sandbox.facts().tenant != *caller.tenant() {
            return None;
        }
        let sample = gateway.sandboxes().samples().newest(id)?;
        Some((text.to_owned(), SandboxMetric::new(&gateway, &sandbox, &sample)))
    });
    Ok(Json(SandboxesWithMetrics { sandboxes: found.collect() }))
}
