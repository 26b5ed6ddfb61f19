//! `POST /v2/sandboxes` and its elder, `POST /sandboxes`.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Extension, Json,
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
    network::NewNetwork,
    shape::Handle,
    timeout,
    unasked::{Unasked, asks_for_something, is_empty, not_yet, unasked_object},
};
use crate::{
    Gateway,
    audit::Made,
    auth::Caller,
    error::{ApiError, InvalidBody, NoSandboxMade, TooMany},
    limits::{self, Bounds},
    sandbox::{Owner, Wanted, idle},
};

/// What a client that does not say gets (seconds).
const V1_TIMEOUT: i64 = 15;
pub(super) const V2_TIMEOUT: i64 = 300;
const LONGEST_KEY: usize = 255;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(create_v1)).routes(routes!(create_v2))
}

/// Makes a sandbox, for 15 seconds unless told otherwise.
#[utoipa::path(post, path = "/sandboxes", tag = "sandboxes",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
        pattern = "^[ -~]*$",
        description = "the same key again, within five minutes and while the gateway runs, gives \
                       the same sandbox")),
    request_body = NewSandbox, responses(
        (status = 201, description = "it runs, and answers", body = Handle),
        InvalidBody, NoSandboxMade, TooMany,
    ))]
async fn create_v1(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    ApiJson(body): ApiJson<NewSandbox>,
) -> Result<(StatusCode, Extension<Made>, Json<Handle>), ApiError> {
    create(gateway, &caller, &headers, body, V1_TIMEOUT).await
}

/// Makes a sandbox, for five minutes unless told otherwise.
#[utoipa::path(post, path = "/v2/sandboxes", tag = "sandboxes",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255,
        pattern = "^[ -~]*$",
        description = "the same key again, within five minutes and while the gateway runs, gives \
                       the same sandbox")),
    request_body = NewSandbox, responses(
        (status = 201, description = "it runs, and answers", body = Handle),
        InvalidBody, NoSandboxMade, TooMany,
    ))]
async fn create_v2(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    ApiJson(body): ApiJson<NewSandbox>,
) -> Result<(StatusCode, Extension<Made>, Json<Handle>), ApiError> {
    create(gateway, &caller, &headers, body, V2_TIMEOUT).await
}

async fn create(
    gateway: Gateway,
    caller: &Caller,
    headers: &HeaderMap,
    body: NewSandbox,
    default_timeout: i64,
) -> Result<(StatusCode, Extension<Made>, Json<Handle>), ApiError> {
    let key = idempotency_key(headers)?;
    let wanted = body.wanted(default_timeout, gateway.max_timeout())?;
    caller.allowed(&wanted.template)?;
    let wanted = Wanted { owner: caller.owner().clone(), ..wanted };
    let sandbox = gateway.sandboxes().create(wanted, key).await?;
    gateway.agents().make_room(gateway.sandboxes(), &sandbox).await;
    let made = Made(vec![sandbox.id().to_string()]);
    Ok((StatusCode::CREATED, Extension(made), Json(Handle::new(&gateway, &sandbox))))
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
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
    /// Given back as it is, and to filter lists by. `coppice.idleTimeout` says after how many
    /// seconds without traffic the sandbox is paused, `coppice.limits` what it may use at most
    /// (`memory=512,open-files=4096`).
    metadata: Option<BTreeMap<String, String>>,
    #[serde(rename = "envVars")]
    #[schema(schema_with = variables, required = false)]
    env_vars: Option<BTreeMap<String, String>>,
    /// Every sandbox is: the field says nothing any more.
    #[serde(rename = "secure")]
    _secure: Option<bool>,
    /// At its deadline it is paused rather than ended.
    #[serde(rename = "autoPause")]
    auto_pause: Option<bool>,
    /// `false`: a pause at its deadline keeps its files alone. Only with `autoPause`, and without
    /// `autoResume`.
    #[serde(rename = "autoPauseMemory")]
    auto_pause_memory: Option<bool>,
    /// What it may reach, and who may reach it.
    network: Option<NewNetwork>,
    #[serde(rename = "autoResume")]
    auto_resume: Option<AutoResume>,
    #[serde(default)]
    #[schema(schema_with = unasked_object, required = false)]
    iam: Value,
    #[serde(flatten)]
    #[schema(value_type = BTreeMap<String, Unasked>, inline)]
    others: Map<String, Value>,
}

impl NewSandbox {
    /// One that asks for no more than that.
    pub(super) fn plain(
        template_id: String,
        timeout: Option<i64>,
        allow_internet_access: Option<bool>,
        metadata: Option<BTreeMap<String, String>>,
        env_vars: Option<BTreeMap<String, String>>,
    ) -> Self {
        Self {
            template_id,
            timeout,
            allow_internet_access,
            metadata,
            env_vars,
            _secure: None,
            auto_pause: None,
            auto_pause_memory: None,
            network: None,
            auto_resume: None,
            iam: Value::Null,
            others: Map::new(),
        }
    }

    pub(super) fn wanted(
        self,
        default_timeout: i64,
        max: Option<Duration>,
    ) -> Result<Wanted, ApiError> {
        let auto_pause = self.auto_pause.unwrap_or_default();
        let auto_resume = self.auto_resume.is_some_and(|auto| auto.enabled);
        let auto_pause_filesystem = self.auto_pause_memory == Some(false);
        if auto_pause_filesystem && (auto_resume || !auto_pause) {
            let text = "autoPauseMemory: false needs autoPause, and no autoResume";
            return Err(ApiError::bad_request(text));
        }
        if asks_for_something(&self.iam) {
            return Err(not_yet("iam"));
        }
        let (policy, ingress) =
            self.network.unwrap_or_default().parsed(self.allow_internet_access)?;
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
        let metadata = self.metadata.unwrap_or_default();
        if let Err(right) = idle::timeout(&metadata) {
            let text = format!("metadata: {} must be {right}", idle::IDLE_TIMEOUT);
            return Err(ApiError::bad_request(text));
        }
        let limits = Bounds::asked(&metadata).map_err(|right| {
            ApiError::bad_request(format!("metadata: {} must be {right}", limits::ASKED))
        })?;
        Ok(Wanted {
            owner: Owner::default(),
            template: name::parse(&self.template_id)?,
            timeout: timeout::bounded(seconds, max)?,
            policy,
            ingress,
            metadata,
            limits,
            env_vars,
            auto_pause,
            auto_pause_filesystem,
            auto_resume,
            batch: None,
        })
    }
}

/// Whether it is woken, when it is paused, by whoever sends it something.
#[derive(Deserialize, ToSchema)]
pub(super) struct AutoResume {
    #[serde(default)]
    enabled: bool,
}

/// What [`is_variable`] is true of, in the document.
pub(super) fn variables() -> RefOr<Schema> {
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

pub(super) fn is_variable(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

/// What a body asks for.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn wanted(body: &[u8], max: Option<Duration>) -> Result<Wanted, ApiError> {
    super::extract::object::<NewSandbox>(body)?.wanted(V2_TIMEOUT, max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::network::NetworkPolicy;

    const MAX: Duration = Duration::from_secs(24 * 3600);

    /// JSON of any shape, of a few levels.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-10..100_000_i64).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let fields = prop::collection::hash_map("[a-zA-Z=\0]{0,6}", inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    const FIELDS: &[&str] = &[
        "templateID",
        "timeout",
        "allow_internet_access",
        "metadata",
        "envVars",
        "secure",
        "autoPause",
        "autoPauseMemory",
        "autoResume",
        "network",
        "mcp",
        "iam",
        "volumeMounts",
    ];

    fn field() -> impl Strategy<Value = (String, Value)> {
        let name = prop_oneof![
            4 => prop::sample::select(FIELDS).prop_map(str::to_owned),
            1 => "[a-zA-Z]{1,8}",
        ];
        (name, json())
    }

    proptest! {
        #[test]
        fn no_body_breaks_or_gives_more_than_allowed(
            fields in prop::collection::vec(field(), 0..6),
            named: bool,
            cut in prop::option::of(0..40_usize),
        ) {
            let mut body: Map<String, Value> = fields.into_iter().collect();
            if named {
                body.insert("templateID".to_owned(), "base".into());
            }
            let mut text = serde_json::to_vec(&body).unwrap();
            text.truncate(cut.map_or(text.len(), |cut| text.len().saturating_sub(cut)));
            if let Ok(wanted) = wanted(&text, Some(MAX)) {
                prop_assert!(wanted.timeout > Duration::ZERO && wanted.timeout <= MAX);
                prop_assert!(wanted.env_vars.iter().all(|(name, value)| is_variable(name, value)));
                // What was asked for and cannot be had was refused.
                for later in ["mcp", "volumeMounts"] {
                    prop_assert!(body.get(later).is_none_or(is_empty), "{later}");
                }
            }
        }

        #[test]
        fn no_bytes_break(bytes: Vec<u8>) {
            let _ = wanted(&bytes, Some(MAX));
        }

        #[test]
        fn a_body_is_read_as_it_was_written(
            template in "[a-zA-Z0-9_-]{1,40}",
            timeout in 1..86_400_i64,
            metadata in prop::collection::btree_map("\\PC{0,8}", "\\PC{0,8}", 0..4),
            env_vars in prop::collection::btree_map("[^=\0]{1,8}", "[^\0]{0,8}", 0..4),
            allow in prop::option::of(any::<bool>()),
        ) {
            let body = serde_json::json!({
                "templateID": template, "timeout": timeout, "metadata": metadata,
                "envVars": env_vars, "allow_internet_access": allow,
            });
            let wanted = wanted(&serde_json::to_vec(&body).unwrap(), Some(MAX)).unwrap();
            prop_assert_eq!(wanted.template, template.to_lowercase());
            prop_assert_eq!(wanted.timeout, Duration::from_secs(timeout.unsigned_abs()));
            prop_assert_eq!(wanted.metadata, metadata);
            prop_assert_eq!(wanted.env_vars, env_vars);
            prop_assert_eq!(wanted.policy, NetworkPolicy::of_access(allow));
        }
    }
}
