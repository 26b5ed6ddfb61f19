//! `GET /events/sandboxes` and what is below it: what happened to sandboxes, also to those that have
//! ended, as E2B tells it; and `POST /sandboxes/{id}/events`, what agents do there.

mod told;
mod watch;

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::{Parameters, PastPath};
use crate::{
    Gateway,
    auth::Caller,
    error::{ApiError, InvalidQuery, NoSandbox},
    events::{
        EventId, Kind, e2b,
        store::{Filter, Line, Query, Start},
    },
    metrics::Denied,
    sandbox::SandboxId,
};

/// In one answer: by itself, and at most.
const LIMIT: u64 = 10;
const MOST: u64 = 1000;
/// Beyond it whoever pages goes on `after` an event.
const MOST_OFFSET: u64 = 100_000;
/// Types, or sandboxes, that can be asked for at once.
const MOST_NAMES: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(of_all))
        .routes(routes!(of_one))
        .merge(watch::routes())
        .merge(told::routes())
}

/// One thing that happened.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SandboxEvent {
    /// Of this form: `v2`.
    version: &'static str,
    #[schema(format = Uuid)]
    id: String,
    /// `sandbox.lifecycle.created`, `.killed`, `.updated`, `.paused`, `.resumed`, `.checkpointed`, or
    /// a type of docs/events.md.
    #[serde(rename = "type")]
    kind: String,
    #[schema(format = DateTime)]
    timestamp: String,
    #[schema(value_type = Object)]
    event_data: Map<String, Value>,
    sandbox_id: String,
    /// The sandbox's.
    sandbox_execution_id: String,
    sandbox_template_id: String,
    /// The template's.
    sandbox_build_id: String,
    /// The tenant's name.
    sandbox_team_id: String,
    /// The event that it came of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = Uuid, required = false)]
    parent_id: Option<String>,
    /// The trace of the request that it came of: 32 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    trace_id: Option<String>,
}

impl SandboxEvent {
    /// `None` of a line that is no event.
    fn of(gateway: &Gateway, line: &str) -> Option<Self> {
        let Line { timestamp, id, parent, sandbox, kind, data, trace, tenant, template } =
            Line::read(line.as_bytes())?;
        let known = Kind::named(kind);
        let mut data = serde_json::from_str(data.get()).unwrap_or_default();
        if let Some(known) = known {
            let at =
                DateTime::parse_from_rfc3339(timestamp).map_or_else(|_| Utc::now(), Into::into);
            // To see it copies its metadata.
            let id = if e2b::is_of_life(known) { sandbox.parse().ok() } else { None };
            let seen = id.and_then(|id| gateway.sandboxes().see(id).ok());
            data = e2b::data(known, at, data, seen.as_ref());
        }
        Some(Self {
            version: "v2",
            id: id.to_owned(),
            kind: match known {
                Some(known) => e2b::name(known).to_owned(),
                None => kind.to_owned(),
            },
            timestamp: timestamp.to_owned(),
            event_data: data,
            sandbox_id: sandbox.to_owned(),
            sandbox_execution_id: sandbox.to_owned(),
            sandbox_template_id: template.clone().into_owned(),
            sandbox_build_id: template.into_owned(),
            sandbox_team_id: tenant.to_owned(),
            parent_id: parent.map(str::to_owned),
            trace_id: trace.map(str::to_owned),
        })
    }
}

/// Which of them, of those that concern the caller.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "it is how the document names what is read by hand")]
struct Which {
    /// Types and globs such as `exec.*`, by E2B's names or ours; several by commas, or each by
    /// itself. What matches no type finds nothing
    #[param(value_type = Option<Vec<String>>, max_items = 100)]
    types: (),
    /// In milliseconds since the epoch: what happened from then on
    #[param(value_type = Option<u64>, maximum = 9007199254740991_u64)]
    start: (),
    /// In milliseconds since the epoch: what happened until then
    #[param(value_type = Option<u64>, maximum = 9007199254740991_u64)]
    end: (),
}

/// How they are given.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[allow(dead_code, reason = "it is how the document names what is read by hand")]
struct Paged {
    /// So many are passed over
    #[param(value_type = Option<u64>, maximum = 100000)]
    offset: (),
    /// 10 if left out
    #[param(value_type = Option<u64>, minimum = 1, maximum = 1000)]
    limit: (),
    /// The oldest first
    #[param(value_type = Option<bool>)]
    order_asc: (),
    /// The id of an event: only what was told behind it
    #[param(value_type = Option<String>, format = Uuid)]
    after: (),
}

/// Of all sandboxes, the newest first.
#[utoipa::path(get, path = "/events/sandboxes", tag = "events",
    params(
        Which,
        ("sandboxId" = Option<Vec<String>>, Query, max_items = 100,
            description = "of these alone; several by commas, or each by itself"),
        Paged,
    ),
    responses(
        (status = 200, description = "as asked for", body = [SandboxEvent]),
        InvalidQuery,
    ))]
async fn of_all(
    State(gateway): State<Gateway>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<Vec<SandboxEvent>>, ApiError> {
    let filter = among(which(&caller, &parameters)?, &parameters)?;
    found(&gateway, paged(filter, &parameters)?).await
}

/// Of one sandbox, which may have ended long ago, the newest first.
#[utoipa::path(get, path = "/events/sandboxes/{id}", tag = "events",
    params(
        PastPath,
        Which,
        Paged,
    ),
    responses(
        (status = 200, description = "as asked for", body = [SandboxEvent]),
        NoSandbox,
    ))]
async fn of_one(
    State(gateway): State<Gateway>,
    caller: Caller,
    PastPath(id): PastPath,
    parameters: Parameters,
) -> Result<Json<Vec<SandboxEvent>>, ApiError> {
    let known = gateway.sandboxes().tenant(id);
    if known.as_ref().is_some_and(|tenant| tenant != caller.tenant()) {
        return Err(ApiError::no_sandbox(&id.to_string()).because(Denied::Tenant));
    }
    let filter = Filter { sandboxes: vec![id], ..which(&caller, &parameters)? };
    let query = paged(filter, &parameters)?;
    let tenant = Some(caller.tenant().clone());
    let ever = Filter { tenant, sandboxes: vec![id], ..Filter::default() };
    if known.is_none() && !gateway.history().any(ever).await {
        return Err(ApiError::no_sandbox(&id.to_string()));
    }
    found(&gateway, query).await
}

async fn found(gateway: &Gateway, query: Query) -> Result<Json<Vec<SandboxEvent>>, ApiError> {
    let page = gateway.history().find(query).await;
    let events = page.lines.iter().filter_map(|line| SandboxEvent::of(gateway, line));
    Ok(Json(events.collect()))
}

fn which(caller: &Caller, parameters: &Parameters) -> Result<Filter, ApiError> {
    let at = |name: &str| -> Result<Option<DateTime<Utc>>, ApiError> {
        let millis = parameters.number(name)?.and_then(|millis| i64::try_from(millis).ok());
        // Beyond what a calendar has is as good as its end.
        Ok(millis.map(|at| DateTime::from_timestamp_millis(at).unwrap_or(DateTime::<Utc>::MAX_UTC)))
    };
    let kinds = match parameters.take("types") {
        None => None,
        Some(globs) => {
            let globs = names("types", &globs)?;
            let mut kinds: Vec<Kind> = globs.into_iter().flat_map(e2b::kinds).collect();
            kinds.sort_unstable();
            kinds.dedup();
            Some(kinds)
        }
    };
    let tenant = Some(caller.tenant().clone());
    Ok(Filter { tenant, sandboxes: Vec::new(), kinds, from: at("start")?, until: at("end")? })
}

/// Of those sandboxes alone, if any are named.
fn among(filter: Filter, parameters: &Parameters) -> Result<Filter, ApiError> {
    let Some(ids) = parameters.take("sandboxId") else { return Ok(filter) };
    let ids = names("sandboxId", &ids)?;
    let sandboxes: Vec<SandboxId> = ids.into_iter().filter_map(|id| id.parse().ok()).collect();
    // What is no id of ours has nothing, and none of them is not all.
    let kinds = if sandboxes.is_empty() { Some(Vec::new()) } else { filter.kinds };
    Ok(Filter { sandboxes, kinds, ..filter })
}

fn names<'a>(of: &str, text: &'a str) -> Result<Vec<&'a str>, ApiError> {
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    if names.len() > MOST_NAMES {
        return Err(ApiError::bad_request(format!("{of} must be {MOST_NAMES} at most")));
    }
    // Longer than any name.
    Ok(names.into_iter().filter(|name| name.len() <= 100).collect())
}

fn paged(filter: Filter, parameters: &Parameters) -> Result<Query, ApiError> {
    let within = |name: &str, default: u64, least: u64, most: u64| {
        let number = parameters.number(name)?.unwrap_or(default);
        let wrong = || {
            let text = format!("{name} must be between {least} and {most}");
            ApiError::bad_request(if name == "offset" { text + "; go on with after" } else { text })
        };
        let number = Some(number).filter(|number| (least..=most).contains(number));
        number.map(|number| number as usize).ok_or_else(wrong)
    };
    let descending = match parameters.text("orderAsc").as_deref() {
        None | Some("false") => true,
        Some("true") => false,
        Some(_) => return Err(ApiError::bad_request("orderAsc must be true or false")),
    };
    let start = match parameters.take("after") {
        None => Start::Oldest,
        Some(id) => Start::After(event_id("after", &id)?),
    };
    Ok(Query {
        filter,
        start,
        descending,
        offset: within("offset", 0, 0, MOST_OFFSET)?,
        limit: within("limit", LIMIT, 1, MOST)?,
    })
}

fn event_id(of: &str, text: &str) -> Result<EventId, ApiError> {
    text.parse().map_err(|_| ApiError::bad_request(format!("{of} must be the id of an event")))
}
