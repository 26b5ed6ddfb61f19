//! Pools that operators make while the gateway runs, in the shape of OpenSandbox's.

use axum::{
    Extension, Json,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    middleware,
};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::ApiJson,
    name::{self, TemplateName},
    shape::time,
};
use crate::{
    Gateway,
    audit::Made,
    auth,
    error::{ApiError, InvalidBody, NoPool, PoolNotChanged, PoolNotMade},
    limits::Bounds,
    sandbox::{self, Capacity, SeenPool},
};

/// Of a pool's name; one of the settings has a template's.
const LONGEST: usize = 63;
const LONGEST_PATH: usize = 128;
const LONGEST_LIMITS: usize = 1024;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, set, delete))
        .route_layer(middleware::from_fn(auth::require_admin_too))
}

/// The pool a path names, by its name or its id.
struct PoolPath(String);

impl<S: Send + Sync> FromRequestParts<S> for PoolPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let named = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b':');
        let valid = |text: &String| text.len() <= LONGEST_PATH && text.bytes().all(named);
        let text = path.ok().map(|Path(text)| text).filter(valid);
        text.map(Self).ok_or_else(|| ApiError::bad_request("Invalid pool name"))
    }
}

impl IntoParams for PoolPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let name = ObjectBuilder::new()
            .schema_type(Type::String)
            .max_length(Some(LONGEST_PATH))
            .pattern(Some("^[a-z0-9_.:-]+$"))
            .examples(["agents"]);
        let name = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("of a pool, or its name"))
            .schema(Some(name));
        vec![name.build()]
    }
}

/// How large a pool is, waiting (`buffer`) and with what was taken from it and runs (`pool`).
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(examples(json!({"bufferMin": 0, "bufferMax": 2, "poolMin": 0, "poolMax": 10})))]
struct CapacitySpec {
    /// More than so many do not wait.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 1000)]
    buffer_max: usize,
    /// When fewer wait, more are made.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 1000)]
    buffer_min: usize,
    /// None is made while so many wait or run.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 1000000)]
    pool_max: usize,
    /// So many wait or run.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 1000)]
    pool_min: usize,
}

/// JSON has one kind of number: `5.0` is as whole as `5`.
pub(super) fn whole<'de, D: Deserializer<'de>>(number: D) -> Result<usize, D::Error> {
    const MOST: f64 = 9_007_199_254_740_992.0;
    let number = f64::deserialize(number)?;
    if number.fract() == 0.0 && (0.0..MOST).contains(&number) {
        return Ok(number as usize);
    }
    Err(de::Error::custom("a whole number that is not negative is needed"))
}

impl CapacitySpec {
    fn checked(self) -> Result<Capacity, ApiError> {
        let Self { buffer_max, buffer_min, pool_max, pool_min } = self;
        let capacity = Capacity { buffer_max, buffer_min, pool_max, pool_min };
        let wrong = |why| ApiError::bad_request(format!("capacitySpec: {why}"));
        capacity.check().map_err(wrong)?;
        Ok(capacity)
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewPool {
    #[schema(max_length = 63, pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", examples("agents"))]
    name: String,
    /// What its sandboxes are made from.
    #[serde(rename = "templateID")]
    #[schema(value_type = TemplateName)]
    template_id: String,
    capacity_spec: CapacitySpec,
    /// What each of its sandboxes may use at most, as in a create's `coppice.limits`: it is for
    /// creates that say the same.
    #[schema(max_length = 1024)]
    limits: Option<String>,
    /// Without it, what the gateway is configured for. It is for creates that say the same.
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
}

/// Of a change. What a pool holds stays as it is: make another for that.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PoolChange {
    capacity_spec: CapacitySpec,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Pool {
    id: String,
    name: String,
    #[serde(rename = "templateID")]
    template_id: String,
    /// Left out where it has no limits of its own.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    limits: String,
    /// Left out where nothing is said.
    #[serde(rename = "allow_internet_access", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    allow_internet_access: Option<bool>,
    capacity_spec: CapacitySpec,
    status: PoolStatus,
    /// Of one of the settings, when the gateway began.
    #[schema(format = DateTime)]
    created_at: String,
    origin: PoolOrigin,
}

/// Who says that there is such a pool.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PoolOrigin {
    /// The gateway's settings: it can be neither changed nor deleted here.
    Settings,
    Api,
}

#[derive(Serialize, ToSchema)]
struct PoolStatus {
    /// Being made, available or allocated.
    total: usize,
    /// That were taken from it and run.
    allocated: usize,
    /// That are ready and nobody's.
    available: usize,
    /// How many of them all are of the version that its template is at now.
    updated: usize,
    /// Tells that version from others; empty while there is no such template.
    revision: String,
}

#[derive(Serialize, ToSchema)]
struct Pools {
    items: Vec<Pool>,
}

impl From<SeenPool> for Pool {
    fn from(SeenPool { spec, count, updated, revision }: SeenPool) -> Self {
        let Capacity { buffer_max, buffer_min, pool_max, pool_min } = spec.capacity;
        let (allocated, available) = (count.allocated, count.available);
        Self {
            id: spec.id.to_string(),
            name: spec.name.clone(),
            template_id: spec.template.clone(),
            limits: spec.limits.clone(),
            allow_internet_access: spec.allow_internet_access,
            capacity_spec: CapacitySpec { buffer_max, buffer_min, pool_max, pool_min },
            status: PoolStatus {
                total: count.total,
                allocated,
                available,
                updated,
                revision: revision.unwrap_or_default(),
            },
            created_at: time(spec.created_at),
            origin: if spec.of_settings { PoolOrigin::Settings } else { PoolOrigin::Api },
        }
    }
}

/// All pools, by their names: those of the gateway's settings too.
#[utoipa::path(get, path = "/pools", tag = "pools", responses(
    (status = 200, description = "all there are", body = Pools),
))]
async fn list(State(gateway): State<Gateway>) -> Json<Pools> {
    let pools = gateway.sandboxes().pools();
    Json(Pools { items: pools.into_iter().map(Pool::from).collect() })
}

/// Makes a pool, which is filled in the background from then on, and again when the gateway is
/// started anew.
#[utoipa::path(post, path = "/pools", tag = "pools", request_body = NewPool, responses(
    (status = 201, description = "there is such a pool", body = Pool),
    InvalidBody, PoolNotMade,
))]
async fn create(
    State(gateway): State<Gateway>,
    ApiJson(body): ApiJson<NewPool>,
) -> Result<(StatusCode, Extension<Made>, Json<Pool>), ApiError> {
    if !is_name(&body.name) {
        return Err(ApiError::bad_request(format!(
            "name must be 1 to {LONGEST} of a-z, 0-9 and -, and begin and end with a letter or digit"
        )));
    }
    let limits = body.limits.unwrap_or_default();
    let wrong = |right| ApiError::bad_request(format!("limits must be {right}"));
    if limits.len() > LONGEST_LIMITS {
        return Err(wrong(format!("at most {LONGEST_LIMITS} bytes")));
    }
    Bounds::parse(&limits).map_err(wrong)?;
    let new = sandbox::NewPool {
        name: body.name,
        template: name::parse(&body.template_id)?,
        limits,
        allow_internet_access: body.allow_internet_access,
        capacity: body.capacity_spec.checked()?,
    };
    let made = Pool::from(gateway.sandboxes().make_pool(new).await?);
    Ok((StatusCode::CREATED, Extension(Made(vec![made.id.clone()])), Json(made)))
}

fn is_name(text: &str) -> bool {
    let named = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= LONGEST
        && ends.into_iter().all(|end| end.is_some_and(named))
        && text.bytes().all(|b| named(b) || b == b'-')
}

/// One pool.
#[utoipa::path(get, path = "/pools/{id}", tag = "pools", params(PoolPath), responses(
    (status = 200, description = "it is there", body = Pool),
    NoPool,
))]
async fn show(
    State(gateway): State<Gateway>,
    PoolPath(name): PoolPath,
) -> Result<Json<Pool>, ApiError> {
    Ok(Json(gateway.sandboxes().see_pool(&name)?.into()))
}

/// Has a pool be as large as that.
#[utoipa::path(put, path = "/pools/{id}", tag = "pools", params(PoolPath),
    request_body = PoolChange, responses(
        (status = 200, description = "it is to be so from now on", body = Pool),
        InvalidBody, NoPool, PoolNotChanged,
    ))]
async fn set(
    State(gateway): State<Gateway>,
    PoolPath(name): PoolPath,
    ApiJson(body): ApiJson<PoolChange>,
) -> Result<Json<Pool>, ApiError> {
    let capacity = body.capacity_spec.checked()?;
    Ok(Json(gateway.sandboxes().set_pool(&name, capacity).await?.into()))
}

/// Deletes a pool and what waits in it. Sandboxes that were taken from it go on.
#[utoipa::path(delete, path = "/pools/{id}", tag = "pools", params(PoolPath), responses(
    (status = 204, description = "it is gone"),
    NoPool, PoolNotChanged,
))]
async fn delete(
    State(gateway): State<Gateway>,
    PoolPath(name): PoolPath,
) -> Result<StatusCode, ApiError> {
    gateway.sandboxes().remove_pool(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_of_kubernetes() {
        for name in ["a", "0", "my-pool", &"a".repeat(LONGEST)] {
            assert!(is_name(name), "{name}");
        }
        for wrong in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"a".repeat(LONGEST + 1)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
