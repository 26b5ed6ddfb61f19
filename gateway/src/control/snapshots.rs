//! Snapshots of sandboxes' files: made, listed, deleted; and forks, which are made from one that
//! nobody else can have. Neither memory nor processes are carried.

use std::{ops::ControlFlow, sync::Arc};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{ApiJson, Parameters, SandboxPath},
    name::{self, Reference, TemplateName},
    page::{Cursor, Order, Paging},
    shape::Handle,
    timeout,
    unasked::unasked_carried,
};
use crate::{
    Gateway,
    audit::Made,
    auth::Caller,
    error::{
        ApiError, ErrorBody, InvalidBody, InvalidQuery, NoSandbox, NoSnapshot, NotCopied, TooMany,
    },
    sandbox::{Among, Named, Sandboxes, Snapshot, Tenant},
};

/// Of forks whose client does not say (seconds).
const FORK_TIMEOUT: i64 = 15;
/// Of one request.
const MOST_FORKS: usize = 100;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(list))
        .routes(routes!(delete))
        .routes(routes!(fork))
}

#[derive(Default, Deserialize, ToSchema)]
struct NewSnapshot {
    /// With a tag, if it is to have another than `default`. The same again is another snapshot in
    /// the place of the one before.
    #[schema(max_length = 128, pattern = r"^\s*([A-Za-z0-9_-]+(:[A-Za-z0-9_.-]+)?\s*)?$")]
    name: Option<String>,
    #[schema(schema_with = unasked_carried, required = false)]
    memory: Option<bool>,
}

#[derive(Serialize, ToSchema)]
struct SnapshotInfo {
    /// To make sandboxes from, as `templateID`.
    #[serde(rename = "snapshotID")]
    snapshot_id: String,
    /// Empty where it was given none.
    names: Vec<String>,
    /// Always false: a sandbox made from it is booted.
    memory: bool,
}

impl SnapshotInfo {
    fn new(snapshot: &Snapshot) -> Self {
        let reference = snapshot.reference();
        let names = if snapshot.named { vec![reference.clone()] } else { Vec::new() };
        Self { snapshot_id: reference, names, memory: false }
    }
}

/// Copies the files of a running sandbox as they are at one instant, at which it stands still.
/// What is made from the copy has neither its processes nor what they have in memory. It outlives
/// the sandbox.
#[utoipa::path(post, path = "/sandboxes/{id}/snapshots", tag = "snapshots", params(SandboxPath),
    request_body = Option<NewSnapshot>, responses(
        (status = 201, description = "there is a snapshot", body = SnapshotInfo),
        InvalidBody, NoSandbox, NotCopied, TooMany,
    ))]
async fn create(
    State(gateway): State<Gateway>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    body: Option<ApiJson<NewSnapshot>>,
) -> Result<(StatusCode, Extension<Made>, Json<SnapshotInfo>), ApiError> {
    let body = body.map(|ApiJson(body)| body).unwrap_or_default();
    if body.memory == Some(true) {
        let text = "a snapshot does not carry memory here: leave it out, or say false";
        return Err(ApiError::bad_request(text));
    }
    let named = body.name.filter(|name| !name.trim().is_empty());
    let named = named.map(|name| name::parse_new(&name)).transpose()?;
    let snapshot = gateway.sandboxes().snapshot(id, named, &caller.owner().quota).await?;
    let made = Made(vec![snapshot.reference()]);
    Ok((StatusCode::CREATED, Extension(made), Json(SnapshotInfo::new(&snapshot))))
}

/// Snapshots in pages, the newest first; `X-Next-Token` is the `nextToken` of the next one.
#[utoipa::path(get, path = "/snapshots", tag = "snapshots",
    params(
        ("sandboxID" = Option<String>, Query, description = "only those of that sandbox's files"),
        ("name" = Option<String>, Query, description = "only those of that name or id"),
        Paging,
    ),
    responses(
        (status = 200, description = "one page", body = [SnapshotInfo], headers(
            ("x-next-token" = String, description = "there is another page"),
        )),
        InvalidQuery,
    ))]
async fn list(
    State(gateway): State<Gateway>,
    caller: Caller,
    parameters: Parameters,
) -> Result<(HeaderMap, Json<Vec<SnapshotInfo>>), ApiError> {
    let query = Query::parse(&parameters, caller.tenant())?;
    let page = query.page(gateway.sandboxes(), |snapshot| caller.may_use(&snapshot.name));
    let mut headers = HeaderMap::new();
    if page.more
        && let Some(last) = page.found.last()
        && let Ok(token) = HeaderValue::try_from(cursor(last).token())
    {
        headers.insert("x-next-token", token);
    }
    Ok((headers, Json(page.found.iter().map(|it| SnapshotInfo::new(it)).collect())))
}

struct Query {
    /// `None` where nothing can be so.
    among: Option<Among>,
    /// Beyond that.
    of: Option<String>,
    tag: Option<String>,
    limit: usize,
    after: Option<Cursor>,
}

struct Page {
    found: Vec<Arc<Snapshot>>,
    more: bool,
    /// Snapshots that were looked at for it.
    visited: usize,
}

fn cursor(snapshot: &Snapshot) -> Cursor {
    let (started_at, id) = snapshot.position();
    Cursor { started_at, id, order: Order::Descending }
}

impl Query {
    fn parse(parameters: &Parameters, tenant: &Tenant) -> Result<Self, ApiError> {
        let Paging { limit, token } = Paging::parse(parameters)?;
        let after = token.map(|token| Cursor::parse(&token, Order::Descending)).transpose()?;
        let of = parameters.text("sandboxID");
        let mut tag = None;
        let among = match (parameters.text("name"), &of) {
            // What can be no name names nothing.
            (Some(name), _) => name::split(&name).ok().map(|reference| {
                tag = reference.tag;
                Among::Named(tenant.clone(), reference.name)
            }),
            (None, Some(of)) => of.parse().ok().map(|of| Among::Of(tenant.clone(), of)),
            (None, None) => Some(Among::All(tenant.clone())),
        };
        Ok(Self { among, of, tag, limit, after })
    }

    fn admits(&self, snapshot: &Snapshot) -> bool {
        self.of.as_ref().is_none_or(|of| snapshot.of.to_string() == *of)
            && self.tag.as_ref().is_none_or(|tag| snapshot.tag == *tag)
    }

    fn page(&self, sandboxes: &Sandboxes, is_there: impl Fn(&Snapshot) -> bool) -> Page {
        let mut page = Page { found: Vec::new(), more: false, visited: 0 };
        let Some(among) = &self.among else { return page };
        let after = self.after.map(|cursor| (cursor.started_at, cursor.id));
        sandboxes.visit_snapshots(among, after, |snapshot| {
            page.visited += 1;
            if !self.admits(snapshot) || !is_there(snapshot) {
                return ControlFlow::Continue(());
            }
            page.more = page.found.len() == self.limit;
            if page.more {
                return ControlFlow::Break(());
            }
            page.found.push(snapshot.clone());
            ControlFlow::Continue(())
        });
        page
    }
}

/// Deletes a snapshot, or all of a name where no tag is given. The gateway's own templates are
/// whoever runs it to take away.
#[utoipa::path(delete, path = "/templates/{id}", tag = "snapshots",
    params(("id" = TemplateName, Path)),
    responses(
        (status = 204, description = "it is gone"),
        NoSnapshot,
    ))]
async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    reference: Reference,
) -> Result<StatusCode, ApiError> {
    let sandboxes = gateway.sandboxes();
    let Reference { name, tag } = &reference;
    let text = reference.to_string();
    let unknown = || ApiError::not_found(format!("template '{text}' not found"));
    if !caller.may_use(name) {
        return Err(unknown());
    }
    if sandboxes.delete_snapshot(caller.tenant(), name, tag.as_deref()).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    match sandboxes.template(caller.tenant(), &text) {
        Ok(_) => Err(ApiError::forbidden(format!(
            "template '{text}' is not a snapshot: whoever runs the gateway removes it"
        ))),
        Err(_) => Err(unknown()),
    }
}

#[derive(Default, Deserialize, ToSchema)]
struct Fork {
    /// Seconds until each fork ends by itself; 15 if left out.
    #[schema(minimum = 1)]
    timeout: Option<i64>,
    /// 1 if left out; fewer than there may be sandboxes.
    #[schema(minimum = 1, maximum = 100)]
    count: Option<i64>,
}

/// One of the two.
#[derive(Serialize, ToSchema)]
struct Forked {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Handle, required = false)]
    sandbox: Option<Handle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = ErrorBody, required = false)]
    error: Option<ErrorBody<'static>>,
}

/// Makes sandboxes over a copy of a running one's files, with its settings. They are booted: its
/// processes and what they have in memory stay its own.
#[utoipa::path(post, path = "/sandboxes/{id}/fork", tag = "snapshots", params(SandboxPath),
    request_body = Option<Fork>, responses(
        (status = 201, description = "what has become of each", body = [Forked]),
        InvalidBody, NoSandbox, NotCopied, TooMany,
    ))]
async fn fork(
    State(gateway): State<Gateway>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    body: Option<ApiJson<Fork>>,
) -> Result<(StatusCode, Extension<Made>, Json<Vec<Forked>>), ApiError> {
    let body = body.map(|ApiJson(body)| body).unwrap_or_default();
    let count = usize::try_from(body.count.unwrap_or(1)).unwrap_or_default();
    let quota = caller.owner().quota.max_sandboxes.unwrap_or(usize::MAX);
    let most = gateway.sandboxes().most().min(quota).saturating_sub(1).min(MOST_FORKS);
    if !(1..=most).contains(&count) {
        return Err(ApiError::bad_request(format!("count must be between 1 and {most}")));
    }
    let seconds = body.timeout.unwrap_or(FORK_TIMEOUT);
    if seconds <= 0 {
        return Err(ApiError::bad_request("Timeout must be greater than 0"));
    }
    let timeout = timeout::bounded(seconds, gateway.max_timeout())?;
    caller.allowed(&gateway.sandboxes().present(id)?.facts().template.id)?;
    let forks = gateway.sandboxes().fork(caller.owner().clone(), id, count, timeout).await?;
    for fork in forks.iter().flatten() {
        gateway.agents().make_room(gateway.sandboxes(), fork).await;
    }
    let made = forks.iter().flatten().map(|sandbox| sandbox.id().to_string()).collect();
    let told = forks.into_iter().map(|fork| match fork {
        Ok(sandbox) => Forked { sandbox: Some(Handle::new(&gateway, &sandbox)), error: None },
        Err(error) => Forked { sandbox: None, error: Some(ApiError::from(error).told()) },
    });
    Ok((StatusCode::CREATED, Extension(Made(made)), Json(told.collect())))
}

impl From<Reference> for Named {
    fn from(reference: Reference) -> Self {
        let tag = reference.tag.unwrap_or_else(|| name::DEFAULT.to_owned());
        Self { name: reference.name, tag }
    }
}
