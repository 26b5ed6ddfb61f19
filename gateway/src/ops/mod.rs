//! What operators and their tools ask. Without a key: probes have none, and all there is to learn is
//! how many sandboxes there are.

pub(crate) mod document;

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::IntoResponse,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Gateway,
    error::{ApiError, NotReady},
    metrics as figures,
    sandbox::Error,
    template::{BASE, FindError},
};

pub(crate) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(metrics))
        .routes(routes!(document::show))
}

#[derive(Serialize, ToSchema)]
struct Health {
    /// `healthy`.
    status: &'static str,
}

/// Whether a sandbox can be made.
#[utoipa::path(get, path = "/health", tag = "gateway", security(()), responses(
    (status = 200, description = "it can", body = Health),
    NotReady,
))]
async fn health(State(gateway): State<Gateway>) -> Result<Json<Health>, ApiError> {
    match gateway.sandboxes().template(BASE) {
        Ok(_) => Ok(Json(Health { status: "healthy" })),
        Err(Error::Template { source: FindError::Unknown, .. }) => Err(ApiError::starting()),
        Err(error) => Err(error.into()),
    }
}

/// Figures for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "gateway", security(()), responses(
    (status = 200, description = "in the text format 0.0.4", body = String,
        content_type = "text/plain"),
))]
async fn metrics(State(gateway): State<Gateway>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], figures::text(gateway.sandboxes()))
}
