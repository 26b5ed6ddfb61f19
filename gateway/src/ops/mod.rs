//! What the operator's tools ask.

use axum::{Json, Router, extract::State, routing::get};
use serde::Serialize;

use crate::{Gateway, error::ApiError, sandbox::Error, template::FindError};

/// Without a key: probes have none, and there is nothing to learn.
pub fn routes() -> Router<Gateway> {
    Router::new().route("/health", get(health))
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// 200 as soon as a sandbox can be made.
async fn health(State(gateway): State<Gateway>) -> Result<Json<Health>, ApiError> {
    match gateway.sandboxes().template("base") {
        Ok(_) => Ok(Json(Health { status: "healthy" })),
        Err(Error::Template { source: FindError::Unknown, .. }) => {
            Err(ApiError::unavailable("the gateway is starting"))
        }
        Err(error) => Err(error.into()),
    }
}
