//! `POST /v2/sandboxes` and its elder, `POST /sandboxes`.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::{
    ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, SchemaType, Type},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::ApiJson,
    name::{self, TemplateName},
    shape::Handle,
    timeout,
    unasked::{Unasked, asks_for_something, is_empty, unasked_memory, unasked_object},
};
use crate::{
    Gateway,
    error::{ApiError, InvalidBody, NoSandboxMade},
    sandbox::Wanted,
};

/// What a client that does not say gets (seconds).
const V1_TIMEOUT: i64 = 15;
const V2_TIMEOUT: i64 = 300;
const LONGEST_KEY: usize = 255;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(create_v1)).routes(routes!(create_v2))
}

/// Makes a sandbox, for 15 seconds unless told otherwise.
#[utoipa::path(post, path = "/sandboxes", tag = "sandboxes",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
        pattern = "^[ -~]*$",
        description = "the same key again, within five minutes, gives the same sandbox")),
    request_body = NewSandbox, responses(
        (status = 201, description = "it runs, and answers", body = Handle),
        InvalidBody, NoSandboxMade,
    ))]
async fn create_v1(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    ApiJson(body): ApiJson<NewSandbox>,
) -> Result<(StatusCode, Json<Handle>), ApiError> {
    create(gateway, &headers, body, V1_TIMEOUT).await
}

/// Makes a sandbox, for five minutes unless told otherwise.
#[utoipa::path(post, path = "/v2/sandboxes", tag = "sandboxes",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
        pattern = "^[ -~]*$",
        description = "the same key again, within five minutes, gives the same sandbox")),
    request_body = NewSandbox, responses(
        (status = 201, description = "it runs, and answers", body = Handle),
        InvalidBody, NoSandboxMade,
    ))]
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

/// Of both generations. What is not among the named fields is refused unless it asks for nothing.
#[derive(Deserialize, ToSchema)]
pub(super) struct NewSandbox {
    /// A template's name.
    #[serde(rename = "templateID")]
    #[schema(value_type = TemplateName)]
    template_id: String,
    /// Seconds until it ends by itself.
    #[schema(minimum = 1)]
    timeout: Option<i64>,
    /// Without it, what the gateway is configured for.
    allow_internet_access: Option<bool>,
    /// Given back as it is, and to filter lists by.
    metadata: Option<BTreeMap<String, String>>,
    #[serde(rename = "envVars")]
    #[schema(schema_with = variables, required = false)]
    env_vars: Option<BTreeMap<String, String>>,
    /// Every sandbox is: the field says nothing any more.
    #[serde(rename = "secure")]
    _secure: Option<bool>,
    #[serde(rename = "autoPauseMemory")]
    #[schema(schema_with = unasked_memory, required = false)]
    auto_pause_memory: Option<bool>,
    #[serde(default)]
    #[schema(schema_with = unasked_object, required = false)]
    network: Value,
    #[serde(default, rename = "autoResume")]
    #[schema(schema_with = unasked_object, required = false)]
    auto_resume: Value,
    #[serde(default)]
    #[schema(schema_with = unasked_object, required = false)]
    iam: Value,
    #[serde(flatten)]
    #[schema(value_type = BTreeMap<String, Unasked>, inline)]
    others: Map<String, Value>,
}

impl NewSandbox {
    fn wanted(self, default_timeout: i64, max: Duration) -> Result<Wanted, ApiError> {
        if self.auto_pause_memory == Some(false) {
            return Err(not_yet("autoPauseMemory"));
        }
        let objects =
            [("network", &self.network), ("autoResume", &self.auto_resume), ("iam", &self.iam)];
        if let Some((name, _)) = objects.iter().find(|(_, value)| asks_for_something(value)) {
            return Err(not_yet(name));
        }
        if let Some((name, _)) = self.others.iter().find(|(_, value)| !is_empty(value)) {
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
            template: name::parse(&self.template_id)?,
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

/// What [`is_variable`] is true of, in the document.
fn variables() -> RefOr<Schema> {
    let text = |pattern: &str| {
        ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern.to_owned()))
    };
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .description(Some("Of every process in it."))
        .property_names(Some(text(r"^[^=\u0000]+$")))
        .additional_properties(Some(text(r"^[^\u0000]*$")))
        .into()
}

fn is_variable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}
