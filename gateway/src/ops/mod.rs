//! What operators and their tools ask. Without a key: probes have none, and all there is to learn is
//! how many sandboxes there are.

pub(crate) mod document;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::IntoResponse,
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Gateway,
    error::{ApiError, NotReady},
    metrics::{self as figures, Format},
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

/// Figures for Prometheus; docs/metrics.md has what each means.
#[utoipa::path(get, path = "/metrics", tag = "gateway", security(()), responses(
    (status = 200, description = "in the text format 0.0.4, or in OpenMetrics 1.0 where `Accept` names it",
        content((String = "text/plain"), (String = "application/openmetrics-text"))),
))]
async fn metrics(State(gateway): State<Gateway>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::wanted(accept.unwrap_or_default());
    let kind = HeaderValue::from_static(format.content_type());
    ([(header::CONTENT_TYPE, kind)], figures::tell(gateway.sandboxes(), format))
}
