//! `GET /admin/sandboxes`: the sandboxes of all tenants with what they use, in one answer, for whoever
//! watches them all.

use std::{ops::ControlFlow, sync::Arc};

use axum::{Json, extract::State};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Gateway,
    metrics::Latest,
    sandbox::{Phase, Sandbox, Shelf},
};

/// In one answer; the longest there first.
const MOST: usize = 1000;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(show))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Overview {
    /// Of all there are.
    running: usize,
    /// Likewise; one that is about to be paused or to go on is one of them.
    paused: usize,
    /// The oldest first, a thousand at most.
    sandboxes: Vec<Watched>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Watched {
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "templateID")]
    template_id: String,
    tenant: String,
    state: Phase,
    #[schema(format = DateTime)]
    started_at: String,
    cpu_count: u32,
    /// In the last second, 100 is one core; left out of what follows is what is not known, as of one
    /// that was made a moment ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = f64, required = false, minimum = 0)]
    cpu_used_pct: Option<f64>,
    /// In bytes, as is all that follows; without copies of files, which give way to what needs the
    /// memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    mem_used: Option<u64>,
    mem_total: u64,
    /// What it has written.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    disk_used: Option<u64>,
    disk_total: u64,
    /// As its limit counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    processes: Option<u64>,
    /// That went to it since this gateway began.
    requests: u64,
}

impl Watched {
    fn of(gateway: &Gateway, sandbox: &Sandbox, latest: Option<Latest>) -> Self {
        let facts = sandbox.facts();
        let started_at: DateTime<Utc> = facts.started_at;
        let usage = latest.map(|latest| latest.usage);
        let percent = latest.and_then(|latest| latest.cpu_percent);
        Self {
            sandbox_id: facts.id.to_string(),
            template_id: facts.template.id.clone(),
            tenant: facts.tenant.name().to_owned(),
            state: sandbox.phase(),
            started_at: started_at.to_rfc3339_opts(SecondsFormat::Millis, true),
            cpu_count: facts.limits.cpus,
            cpu_used_pct: percent.map(|percent| (percent * 100.0).round() / 100.0),
            mem_used: usage.map(|it| it.memory_bytes.saturating_sub(it.cache_bytes)),
            mem_total: facts.limits.memory_bytes,
            disk_used: usage.and_then(|usage| usage.disk_bytes),
            disk_total: gateway.disk_bytes(&facts.limits),
            processes: usage.map(|usage| usage.processes),
            requests: sandbox.requests(),
        }
    }
}

/// All sandboxes of all tenants, with what they use as of the last second; what `coppice top` shows.
/// Takes a key of scope admin.
#[utoipa::path(get, path = "/admin/sandboxes", tag = "gateway", responses(
    (status = 200, description = "as they are now", body = Overview),
))]
async fn show(State(gateway): State<Gateway>) -> Json<Overview> {
    let sandboxes = gateway.sandboxes();
    let (mut running, mut alive) = (0, 0);
    let mut shown: Vec<(Arc<Sandbox>, Option<Latest>)> = Vec::new();
    sandboxes.registry().visit(&Shelf::All, false, None, |sandbox| {
        alive += 1;
        running += usize::from(sandbox.phase() == Phase::Running);
        if shown.len() < MOST {
            shown.push((sandbox.clone(), None));
        }
        ControlFlow::Continue(())
    });
    let asked = shown.iter_mut().map(|(sandbox, latest)| (sandbox.id(), latest));
    sandboxes.samples().latest_of(asked, |latest, found| *latest = Some(*found));
    let of = |(sandbox, latest): &(Arc<Sandbox>, _)| Watched::of(&gateway, sandbox, *latest);
    Json(Overview { running, paused: alive - running, sandboxes: shown.iter().map(of).collect() })
}
