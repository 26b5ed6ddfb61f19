//! Webhooks in E2B's shape: what a tenant is to be told of, and where; and what became of it.

use std::{str::FromStr, sync::Arc};

use axum::{
    Extension, Json,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, SchemaFormat, Type},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{
    extract::{ApiJson, Parameters},
    shape::time,
};
use crate::{
    Gateway,
    audit::Made,
    auth::Caller,
    error::{ApiError, InvalidBody, InvalidQuery, NoWebhook, NotKept},
    events::webhooks::{Asked, Attempt, Change, Group, Hook, Hour, Said, Stats},
};

/// Events on a page, and on one whose client does not say.
const MOST: usize = 100;
const USUAL: usize = 10;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, change, delete))
        .routes(routes!(deliveries))
        .routes(routes!(stats))
}

/// The webhook a path names. It is of the tenant who asks: to all others there is none.
struct HookPath(Arc<Hook>);

impl FromRequestParts<Gateway> for HookPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, gateway).await;
        let Path(text) = path.map_err(|_| ApiError::bad_request("Invalid webhook ID"))?;
        let Ok(id) = Uuid::from_str(&text) else {
            return Err(ApiError::bad_request("Invalid webhook ID"));
        };
        let Ok(caller) = Caller::from_request_parts(parts, gateway).await;
        gateway.webhooks().get(caller.tenant(), id).map(Self).ok_or_else(|| missing(id))
    }
}

fn missing(id: Uuid) -> ApiError {
    ApiError::not_found(format!("webhook '{id}' not found"))
}

impl IntoParams for HookPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::Custom("uuid".to_owned())));
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(id));
        vec![id.build()]
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewWebhook {
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    /// Where deliveries are posted to, by http or https. The gateway's own host and private networks
    /// are not asked, unless its operator allows it.
    #[schema(min_length = 1, max_length = 2048, format = "uri")]
    url: String,
    /// Types of events: `sandbox.lifecycle.created` and E2B's others, `exec.completed` and this
    /// gateway's others, or globs such as `exec.*`.
    #[schema(min_items = 1, max_items = 64)]
    events: Vec<String>,
    /// True if left out.
    enabled: Option<bool>,
    /// What deliveries are signed with. It is told to nobody.
    #[schema(min_length = 1, max_length = 1024)]
    signature_secret: String,
}

/// What is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WebhookChange {
    #[schema(min_length = 1, max_length = 256)]
    name: Option<String>,
    #[schema(min_length = 1, max_length = 2048, format = "uri")]
    url: Option<String>,
    #[schema(min_items = 1, max_items = 64)]
    events: Option<Vec<String>>,
    enabled: Option<bool>,
    #[schema(min_length = 1, max_length = 1024)]
    signature_secret: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Webhook {
    #[schema(format = "uuid")]
    id: String,
    /// The tenant.
    team_id: String,
    name: String,
    #[schema(format = DateTime)]
    created_at: String,
    url: String,
    enabled: bool,
    events: Vec<String>,
}

impl Webhook {
    fn new(hook: &Hook) -> Self {
        let Said { name, url, enabled, events, signature_secret: _ } = hook.said();
        Self {
            id: hook.id.to_string(),
            team_id: hook.tenant.name().to_owned(),
            name,
            created_at: time(hook.created_at),
            url,
            enabled,
            events,
        }
    }
}

/// Registers a webhook.
#[utoipa::path(post, path = "/events/webhooks", tag = "webhooks", request_body = NewWebhook,
    responses(
        (status = 201, description = "there is a webhook", body = Webhook),
        InvalidBody, NotKept,
    ))]
async fn create(
    State(gateway): State<Gateway>,
    caller: Caller,
    ApiJson(body): ApiJson<NewWebhook>,
) -> Result<(StatusCode, Extension<Made>, Json<Webhook>), ApiError> {
    let NewWebhook { name, url, events, enabled, signature_secret } = body;
    let said = Said { name, url, events, enabled: enabled.unwrap_or(true), signature_secret };
    let hook = gateway.webhooks().create(caller.tenant(), said).await?;
    let made = Made(vec![hook.id.to_string()]);
    Ok((StatusCode::CREATED, Extension(made), Json(Webhook::new(&hook))))
}

/// The tenant's webhooks, the oldest first.
#[utoipa::path(get, path = "/events/webhooks", tag = "webhooks",
    responses((status = 200, description = "all of them", body = [Webhook])))]
async fn list(State(gateway): State<Gateway>, caller: Caller) -> Json<Vec<Webhook>> {
    let hooks = gateway.webhooks().list(caller.tenant());
    Json(hooks.iter().map(|hook| Webhook::new(hook)).collect())
}

#[utoipa::path(get, path = "/events/webhooks/{id}", tag = "webhooks", params(HookPath),
    responses((status = 200, description = "as it is", body = Webhook), NoWebhook))]
async fn show(HookPath(hook): HookPath) -> Json<Webhook> {
    Json(Webhook::new(&hook))
}

/// Changes a webhook. What waits to be delivered goes where it leads by then.
#[utoipa::path(patch, path = "/events/webhooks/{id}", tag = "webhooks", params(HookPath),
    request_body = WebhookChange,
    responses(
        (status = 200, description = "as it is now", body = Webhook),
        NoWebhook, InvalidBody, NotKept,
    ))]
async fn change(
    State(gateway): State<Gateway>,
    caller: Caller,
    HookPath(hook): HookPath,
    ApiJson(body): ApiJson<WebhookChange>,
) -> Result<Json<Webhook>, ApiError> {
    let WebhookChange { name, url, events, enabled, signature_secret } = body;
    let change = Change { name, url, events, enabled, signature_secret };
    let changed = gateway.webhooks().change(caller.tenant(), hook.id, change).await?;
    let changed = changed.ok_or_else(|| missing(hook.id))?;
    Ok(Json(Webhook::new(&changed)))
}

/// Unregisters a webhook; what waits to be delivered is not.
#[utoipa::path(delete, path = "/events/webhooks/{id}", tag = "webhooks", params(HookPath),
    responses((status = 200, description = "it is gone"), NoWebhook, NotKept))]
async fn delete(
    State(gateway): State<Gateway>,
    caller: Caller,
    HookPath(hook): HookPath,
) -> Result<StatusCode, ApiError> {
    match gateway.webhooks().delete(caller.tenant(), hook.id).await? {
        true => Ok(StatusCode::OK),
        false => Err(missing(hook.id)),
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Deliveries {
    data: Vec<DeliveryGroup>,
    /// Of the next page; null where there is none.
    next_cursor: Option<String>,
}

/// The attempts to deliver one event, the first of them first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeliveryGroup {
    #[schema(format = "uuid")]
    event_id: String,
    event_type: String,
    sandbox_id: String,
    attempts: Vec<Delivery>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Success,
    Failed,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Delivery {
    #[schema(format = "uuid")]
    id: String,
    team_id: String,
    #[schema(format = "uuid")]
    webhook_id: String,
    #[schema(format = "uuid")]
    event_id: String,
    sandbox_id: String,
    event_type: String,
    status: Outcome,
    duration_ms: u64,
    /// Its beginning, where it is long.
    request_body: String,
    /// JSON, without the signature.
    request_headers: String,
    request_url: String,
    response_body: Option<String>,
    /// JSON.
    response_headers: Option<String>,
    response_http_status_code: Option<u16>,
    /// `http_error`, `dns_error`, `timeout`, `transport_error` or `request_error`; null of a success.
    error_class: Option<&'static str>,
    error_message: Option<String>,
    #[schema(format = DateTime)]
    timestamp: String,
}

impl Delivery {
    fn new(hook: &Hook, attempt: &Attempt) -> Self {
        let answer = attempt.answer.as_ref();
        Self {
            id: attempt.id.to_string(),
            team_id: hook.tenant.name().to_owned(),
            webhook_id: hook.id.to_string(),
            event_id: attempt.event.clone(),
            sandbox_id: attempt.sandbox.clone(),
            event_type: attempt.kind.clone(),
            status: if attempt.failed() { Outcome::Failed } else { Outcome::Success },
            duration_ms: attempt.took.as_millis().try_into().unwrap_or(u64::MAX),
            request_body: attempt.body.to_string(),
            request_headers: attempt.headers.clone(),
            request_url: attempt.url.clone(),
            response_body: answer.map(|answer| answer.body.clone()),
            response_headers: answer.map(|answer| answer.headers.clone()),
            response_http_status_code: answer.map(|answer| answer.status),
            error_class: attempt.error.as_ref().map(|(class, _)| *class),
            error_message: attempt.error.as_ref().map(|(_, message)| message.clone()),
            timestamp: time(attempt.at),
        }
    }
}

/// The last hundred attempts to deliver something, by event, the newest first.
#[utoipa::path(get, path = "/events/webhooks/{id}/deliveries", tag = "webhooks",
    params(
        HookPath,
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before"),
        ("limit" = Option<u64>, Query, description = "events on a page; 10 if left out",
            minimum = 1, maximum = 100),
        ("orderAsc" = Option<bool>, Query, description = "the oldest first"),
        ("start" = Option<String>, Query, format = DateTime, description = "attempts from then on"),
        ("end" = Option<String>, Query, format = DateTime, description = "attempts before then"),
        ("deliveryStatus" = Option<Vec<Outcome>>, Query, description = "only those"),
        ("eventType" = Option<Vec<String>>, Query, description = "types of events"),
    ),
    responses(
        (status = 200, description = "one page", body = Deliveries),
        InvalidQuery, NoWebhook,
    ))]
async fn deliveries(
    HookPath(hook): HookPath,
    parameters: Parameters,
) -> Result<Json<Deliveries>, ApiError> {
    let asked = asked(&parameters)?;
    let (groups, more) = hook.deliveries.lock().page(&asked);
    let last = groups.last().and_then(|group| group.first()).filter(|_| more);
    let next_cursor = last.map(|first| cursor(first));
    let data = groups.iter().filter_map(|group| DeliveryGroup::new(&hook, group)).collect();
    Ok(Json(Deliveries { data, next_cursor }))
}

impl DeliveryGroup {
    fn new(hook: &Hook, group: &Group) -> Option<Self> {
        let first = group.first()?;
        Some(Self {
            event_id: first.event.clone(),
            event_type: first.kind.clone(),
            sandbox_id: first.sandbox.clone(),
            attempts: group.iter().map(|attempt| Delivery::new(hook, attempt)).collect(),
        })
    }
}

fn asked(parameters: &Parameters) -> Result<Asked, ApiError> {
    let wrong = |what: &str| ApiError::bad_request(what.to_owned());
    let limit = parameters.take("limit").map_or(Some(USUAL), |text| text.parse().ok());
    let limit = limit.filter(|limit| (1..=MOST).contains(limit));
    let statuses = parameters.text("deliveryStatus").unwrap_or_default();
    let statuses: Vec<&str> = statuses.split(',').filter(|status| !status.is_empty()).collect();
    if !statuses.iter().all(|status| ["success", "failed"].contains(status)) {
        return Err(wrong("deliveryStatus must be success or failed"));
    }
    let failed = statuses.first().map(|first| *first == "failed");
    let failed = failed.filter(|_| statuses.iter().all(|status| *status == statuses[0]));
    let kinds = parameters.text("eventType").unwrap_or_default();
    let after =
        parameters.text("cursor").map(|text| after(&text).ok_or_else(|| wrong("Invalid cursor")));
    Ok(Asked {
        start: instant(parameters, "start")?,
        end: instant(parameters, "end")?,
        failed,
        kinds: kinds.split(',').filter(|kind| !kind.is_empty()).map(str::to_owned).collect(),
        ascending: flag(parameters, "orderAsc")?,
        limit: limit.ok_or_else(|| wrong("limit must be between 1 and 100"))?,
        after: after.transpose()?,
    })
}

fn instant(parameters: &Parameters, name: &str) -> Result<Option<DateTime<Utc>>, ApiError> {
    let Some(text) = parameters.take(name) else { return Ok(None) };
    let instant = DateTime::parse_from_rfc3339(&text);
    let wrong =
        |_| ApiError::bad_request(format!("{name} must be a time such as 2026-06-15T10:30:00Z"));
    instant.map(|instant| Some(instant.to_utc())).map_err(wrong)
}

fn flag(parameters: &Parameters, name: &str) -> Result<bool, ApiError> {
    match parameters.text(name).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(ApiError::bad_request(format!("{name} must be true or false"))),
    }
}

/// To a client its text means nothing.
fn cursor(first: &Attempt) -> String {
    let at = first.at.to_rfc3339_opts(SecondsFormat::Nanos, true);
    BASE64_URL_SAFE_NO_PAD.encode(format!("{at}__{}", first.event))
}

fn after(text: &str) -> Option<(DateTime<Utc>, String)> {
    let text = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (at, event) = text.split_once("__")?;
    Some((DateTime::parse_from_rfc3339(at).ok()?.to_utc(), event.to_owned()))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeliveryStats {
    /// One for each hour in which there were any.
    buckets: Vec<StatsBucket>,
    total: u64,
    failed: u64,
    duration_ms: Durations,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct StatsBucket {
    #[schema(format = DateTime)]
    timestamp: String,
    total: u64,
    failed: u64,
    duration_ms: Durations,
}

/// Milliseconds.
#[derive(Serialize, ToSchema)]
struct Durations {
    minimum: f64,
    average: f64,
    maximum: f64,
}

impl Durations {
    fn of(hour: &Hour) -> Self {
        let [minimum, average, maximum] = hour.durations();
        Self { minimum, average, maximum }
    }
}

/// How many attempts there were, and how long they took, by the hour, for up to a week.
#[utoipa::path(get, path = "/events/webhooks/{id}/stats", tag = "webhooks",
    params(
        HookPath,
        ("start" = Option<String>, Query, format = DateTime, description = "a day ago if left out"),
        ("end" = Option<String>, Query, format = DateTime, description = "now if left out"),
    ),
    responses(
        (status = 200, description = "of the hours in that time", body = DeliveryStats),
        InvalidQuery, NoWebhook,
    ))]
async fn stats(
    HookPath(hook): HookPath,
    parameters: Parameters,
) -> Result<Json<DeliveryStats>, ApiError> {
    let end = instant(&parameters, "end")?.unwrap_or_else(Utc::now);
    let day_before = end.checked_sub_signed(TimeDelta::days(1)).unwrap_or(end);
    let start = instant(&parameters, "start")?.unwrap_or(day_before);
    let Stats { all, hours } = hook.deliveries.lock().stats(start, end);
    let buckets = hours.iter().map(|hour| StatsBucket {
        timestamp: time(hour.from),
        total: hour.total,
        failed: hour.failed,
        duration_ms: Durations::of(hour),
    });
    Ok(Json(DeliveryStats {
        buckets: buckets.collect(),
        total: all.total,
        failed: all.failed,
        duration_ms: Durations::of(&all),
    }))
}
