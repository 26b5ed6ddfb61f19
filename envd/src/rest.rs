//! The REST half but for `/files`: health, environment, figures, and the gateway's `POST /init`.
//! Errors as E2B words them.

mod figures;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};

use self::figures::Figures;
pub(crate) use self::figures::Gauges;
use crate::{kernel, state::Envd};

/// Becomes `{"code": <status>, "message": …}`.
#[derive(Clone, Debug)]
pub(crate) struct RestError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl RestError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

impl IntoResponse for RestError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({"code": self.status.as_u16(), "message": self.message});
        (self.status, Json(body)).into_response()
    }
}

pub(crate) fn routes() -> Router<Arc<Envd>> {
    Router::new()
        .route("/health", get(health))
        .route("/envs", get(envs))
        .route("/metrics", get(metrics))
        .route("/init", post(init))
        .route("/warm", post(kernel::warm))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
}

async fn health() -> StatusCode {
    StatusCode::NO_CONTENT
}

async fn envs(State(envd): State<Arc<Envd>>) -> Response {
    Json(&envd.settings().env).into_response()
}

async fn metrics(State(envd): State<Arc<Envd>>) -> Result<Json<Figures>, RestError> {
    let figures = envd.gauges.read();
    figures
        .map(Json)
        .map_err(|error| RestError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// From the gateway alone, which closes it to the public.
async fn init(State(envd): State<Arc<Envd>>, body: Bytes) -> Result<StatusCode, RestError> {
    let init = serde_json::from_slice(&body)
        .map_err(|error| RestError::new(StatusCode::BAD_REQUEST, format!("init: {error}")))?;
    envd.begin(init);
    Ok(StatusCode::NO_CONTENT)
}

async fn unknown_route() -> RestError {
    RestError::new(StatusCode::NOT_FOUND, "no such route")
}

async fn wrong_method() -> RestError {
    RestError::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}
