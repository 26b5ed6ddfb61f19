//! Templates, read-only: there is what the gateway itself builds.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Parameters,
    name::TemplateName,
    page::{Paging, names},
    shape::time,
};
use crate::{
    Gateway,
    auth::Caller,
    error::{ApiError, InvalidQuery, NoTemplate},
    template::Available,
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(list_v1))
        .routes(routes!(list_v2))
        .routes(routes!(show))
        .routes(routes!(alias))
}

/// All templates.
#[utoipa::path(get, path = "/templates", tag = "templates", responses(
    (status = 200, description = "all there are", body = [Template]),
))]
async fn list_v1(State(gateway): State<Gateway>, caller: Caller) -> Json<Vec<Template>> {
    let mut all = gateway.templates();
    all.retain(|found| caller.may_use(&found.template.id));
    Json(all.iter().map(|found| Template::new(&gateway, found)).collect())
}

/// Templates in pages; `X-Next-Token` is the `nextToken` of the next one.
#[utoipa::path(get, path = "/v2/templates", tag = "templates",
    params(
        Paging,
    ),
    responses(
        (status = 200, description = "one page", body = [Template], headers(
            ("x-next-token" = String, description = "there is another page"),
        )),
        InvalidQuery,
    ))]
async fn list_v2(
    State(gateway): State<Gateway>,
    caller: Caller,
    parameters: Parameters,
) -> Result<(HeaderMap, Json<Vec<Template>>), ApiError> {
    let Paging { limit, token } = Paging::parse(&parameters)?;
    let after = token.map(|token| names::parse(&token)).transpose()?;
    let mut all = gateway.templates();
    all.retain(|found| caller.may_use(&found.template.id));
    all.retain(|found| after.as_ref().is_none_or(|last| found.template.id > *last));
    let mut headers = HeaderMap::new();
    if all.len() > limit {
        all.truncate(limit);
        if let Some(token) = all.last().map(|found| names::token(&found.template.id)) {
            let token = HeaderValue::try_from(token).expect("base64 is ASCII");
            headers.insert("x-next-token", token);
        }
    }
    Ok((headers, Json(all.iter().map(|found| Template::new(&gateway, found)).collect())))
}

/// One template with its builds, of which the last is the one that is left.
#[utoipa::path(get, path = "/templates/{id}", tag = "templates",
    params(("id" = TemplateName, Path)),
    responses(
        (status = 200, description = "it is there", body = WithBuilds),
        NoTemplate,
    ))]
async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    TemplateName(name): TemplateName,
) -> Result<Json<WithBuilds>, ApiError> {
    let found = find(&gateway, &caller, &name)?;
    Ok(Json(WithBuilds::new(&gateway, &found)))
}

/// Whether a name is taken.
#[utoipa::path(get, path = "/templates/aliases/{alias}", tag = "templates",
    params(("alias" = TemplateName, Path)),
    responses(
        (status = 200, description = "it is", body = Alias),
        NoTemplate,
    ))]
async fn alias(
    State(gateway): State<Gateway>,
    caller: Caller,
    TemplateName(name): TemplateName,
) -> Result<Json<Alias>, ApiError> {
    caller.allowed(&name)?;
    if let Some(snapshot) = gateway.sandboxes().find_snapshot(caller.tenant(), &name) {
        return Ok(Json(Alias { template_id: snapshot.name.clone(), public: PUBLIC }));
    }
    let found = find(&gateway, &caller, &name)?;
    Ok(Json(Alias { template_id: found.template.id.clone(), public: PUBLIC }))
}

fn find(gateway: &Gateway, caller: &Caller, name: &str) -> Result<Available, ApiError> {
    caller.allowed(name)?;
    let found = gateway.templates().into_iter().find(|found| found.template.id == name);
    match found {
        Some(found) => Ok(found),
        // What is told of templates does not hold for it: it was not built.
        None if gateway.sandboxes().find_snapshot(caller.tenant(), name).is_some() => {
            Err(ApiError::not_found(format!("template '{name}' not found")))
        }
        // Why not, or that it came this very moment.
        None => Err(match gateway.sandboxes().template(caller.tenant(), name) {
            Err(why) => why.into(),
            Ok(_) => ApiError::starting(),
        }),
    }
}

/// All that hold a key may use it.
const PUBLIC: bool = true;
const READY: &str = "ready";

/// Of a list. Uses are not counted, as E2B does not count those of its default templates.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Template {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    #[schema(format = "uuid")]
    build_id: String,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u64,
    public: bool,
    aliases: Vec<String>,
    names: Vec<String>,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// Always null.
    created_by: Option<String>,
    /// Always null.
    last_spawned_at: Option<String>,
    /// Always 0.
    spawn_count: u64,
    build_count: u64,
    envd_version: &'static str,
    /// `ready`.
    build_status: &'static str,
    is_default: bool,
}

impl Template {
    fn new(gateway: &Gateway, found: &Available) -> Self {
        let template = &found.template;
        let names = vec![template.id.clone()];
        Self {
            template_id: template.id.clone(),
            build_id: build_id(found),
            cpu_count: template.limits.cpus,
            memory_mb: template.limits.memory_bytes >> 20,
            disk_size_mb: gateway.disk_bytes(&gateway.sandboxes().limits(template)) >> 20,
            public: PUBLIC,
            aliases: names.clone(),
            names,
            created_at: time(found.built_at),
            updated_at: time(found.built_at),
            created_by: None,
            last_spawned_at: None,
            spawn_count: 0,
            build_count: 1,
            envd_version: envd::wire::ENVD_VERSION,
            build_status: READY,
            is_default: true,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WithBuilds {
    #[serde(flatten)]
    template: Template,
    builds: [Build; 1],
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Build {
    #[serde(rename = "buildID")]
    #[schema(format = "uuid")]
    build_id: String,
    /// `ready`.
    status: &'static str,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    #[schema(format = DateTime)]
    finished_at: String,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u64,
    envd_version: &'static str,
}

impl WithBuilds {
    fn new(gateway: &Gateway, found: &Available) -> Self {
        let template = Template::new(gateway, found);
        let build = Build {
            build_id: template.build_id.clone(),
            status: READY,
            created_at: template.created_at.clone(),
            updated_at: template.updated_at.clone(),
            finished_at: template.updated_at.clone(),
            cpu_count: template.cpu_count,
            memory_mb: template.memory_mb,
            disk_size_mb: template.disk_size_mb,
            envd_version: template.envd_version,
        };
        Self { template, builds: [build] }
    }
}

/// Clients read a UUID; ours is the content's, so that it changes when that does.
fn build_id(found: &Available) -> String {
    let mut content = blake3::Hasher::new();
    for layer in &found.template.layers {
        let digest = layer.file_name().unwrap_or_default();
        content.update(digest.as_encoded_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&content.finalize().as_bytes()[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

#[derive(Serialize, ToSchema)]
struct Alias {
    #[serde(rename = "templateID")]
    template_id: String,
    public: bool,
}
