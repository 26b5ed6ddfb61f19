//! `POST /v2/sandboxes` and its elder, `POST /sandboxes`.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{extract::ApiJson, shape::Handle, timeout};
use crate::{Gateway, error::ApiError, sandbox::Wanted};

/// What a client that does not say gets (seconds).
const V1_TIMEOUT: i64 = 15;
const V2_TIMEOUT: i64 = 300;
const LONGEST_KEY: usize = 255;
/// E2B's bound on names.
const LONGEST_NAME: usize = 128;

pub(super) fn routes() -> Router<Gateway> {
    Router::new().route("/sandboxes", post(create_v1)).route("/v2/sandboxes", post(create_v2))
}

async fn create_v1(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<NewSandbox>,
) -> Result<(StatusCode, Json<Handle>), ApiError> {
    create(gateway, &headers, body, V1_TIMEOUT).await
}

async fn create_v2(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<NewSandbox>,
) -> Result<(StatusCode, Json<Handle>), ApiError> {
    create(gateway, &headers, body, V2_TIMEOUT).await
}

async fn create(
    gateway: Gateway,
    headers: &HeaderMap,
    body: NewSandbox,
    default_timeout: i64,
) -> Result<(StatusCode, Json<Handle>), ApiError> {
    let key = idempotency_key(headers)?;
    let wanted = body.wanted(default_timeout, gateway.max_timeout())?;
    let sandbox = gateway.sandboxes().create(wanted, key).await?;
    Ok((StatusCode::CREATED, Json(Handle::new(&gateway, &sandbox))))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=LONGEST_KEY).contains(&key.len()));
    let refused = || {
        ApiError::bad_request(format!(
            "Idempotency-Key must be 1 to {LONGEST_KEY} ASCII characters"
        ))
    };
    key.map(Some).ok_or_else(refused)
}

#[derive(Deserialize)]
struct NewSandbox {
    #[serde(rename = "templateID")]
    template_id: String,
    timeout: Option<i64>,
    allow_internet_access: Option<bool>,
    metadata: Option<BTreeMap<String, String>>,
    #[serde(rename = "envVars")]
    env_vars: Option<BTreeMap<String, String>>,
    /// Every sandbox is: the field says nothing any more.
    #[serde(rename = "secure")]
    _secure: Option<bool>,
    #[serde(rename = "autoPauseMemory")]
    auto_pause_memory: Option<bool>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

impl NewSandbox {
    fn wanted(self, default_timeout: i64, max: Duration) -> Result<Wanted, ApiError> {
        if self.auto_pause_memory == Some(false) {
            return Err(not_yet("autoPauseMemory"));
        }
        if let Some((name, _)) =
            self.others.iter().find(|(name, value)| asks_for_something(name, value))
        {
            return Err(not_yet(name));
        }
        let seconds = self.timeout.unwrap_or(default_timeout);
        if seconds <= 0 {
            return Err(ApiError::bad_request("Timeout must be greater than 0"));
        }
        let env_vars = self.env_vars.unwrap_or_default();
        if let Some((name, _)) = env_vars.iter().find(|(name, value)| !is_variable(name, value)) {
            let text = format!("envVars: {name:?} cannot be an environment variable");
            return Err(ApiError::bad_request(text));
        }
        Ok(Wanted {
            template: template_name(&self.template_id)?,
            timeout: timeout::bounded(seconds, max)?,
            allow_internet_access: self.allow_internet_access,
            metadata: self.metadata.unwrap_or_default(),
            env_vars,
        })
    }
}

fn not_yet(field: &str) -> ApiError {
    ApiError::bad_request(format!("{field} is not supported yet: leave it out"))
}

/// False for what SDKs send when their caller did not ask for anything.
fn asks_for_something(name: &str, value: &Value) -> bool {
    match (name, value) {
        ("network" | "autoResume" | "iam", Value::Object(fields)) => {
            fields.iter().any(|field| match field {
                // That every port may be reached from outside is so in any case.
                (name, Value::Bool(public)) if name == "allowPublicTraffic" => !public,
                (_, value) => !is_empty(value),
            })
        }
        _ => !is_empty(value),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn is_variable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

/// `alias` or `alias:default`, in any case; the rest of E2B's grammar names what cannot exist
/// here.
fn template_name(text: &str) -> Result<String, ApiError> {
    let lower = text.trim().to_lowercase();
    let word = |word: &str, more: &[char]| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c) || more.contains(&c);
        !word.is_empty() && word.chars().all(allowed)
    };
    let (name, tag) = lower.split_once(':').map_or((&*lower, None), |(n, t)| (n, Some(t)));
    let (namespace, alias) = name.split_once('/').map_or((None, name), |(n, a)| (Some(n), a));
    let valid = lower.len() <= LONGEST_NAME
        && namespace.is_none_or(|namespace| word(namespace, &[]))
        && word(alias, &[])
        && tag.is_none_or(|tag| word(tag, &['.']));
    if !valid {
        let text = "templateID must be a template's name: letters, digits, - and _";
        return Err(ApiError::bad_request(text));
    }
    if namespace.is_some() {
        return Err(ApiError::not_found(format!("template '{text}' not found")));
    }
    match tag {
        None | Some("default") => Ok(alias.to_owned()),
        Some(tag) => {
            let text = format!("tag '{tag}' does not exist for template '{alias}'");
            Err(ApiError::not_found(text))
        }
    }
}
