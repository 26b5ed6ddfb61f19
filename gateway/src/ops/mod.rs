//! What operators and their tools ask. Without a key: probes have none, and there is nothing to
//! learn.

pub(crate) mod document;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Gateway,
    error::{ApiError, NotReady},
    sandbox::Error,
    template::{BASE, FindError},
};

pub(crate) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(document::show))
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
