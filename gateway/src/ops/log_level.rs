//! `GET` and `PUT /admin/log-level`: how much the gateway logs, from now until it is told otherwise.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use tracing::Level;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Gateway,
    control::ApiJson,
    error::{ApiError, InvalidBody},
    logging,
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(show, set))
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum LevelName {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Deserialize, Serialize, ToSchema)]
struct LogLevel {
    level: LevelName,
}

impl LevelName {
    fn of(level: Level) -> Self {
        match level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warn,
            Level::INFO => Self::Info,
            Level::DEBUG => Self::Debug,
            Level::TRACE => Self::Trace,
        }
    }

    fn level(self) -> Level {
        match self {
            Self::Error => Level::ERROR,
            Self::Warn => Level::WARN,
            Self::Info => Level::INFO,
            Self::Debug => Level::DEBUG,
            Self::Trace => Level::TRACE,
        }
    }
}

/// How much is logged.
#[utoipa::path(get, path = "/admin/log-level", tag = "gateway", responses(
    (status = 200, description = "the level", body = LogLevel),
))]
async fn show(State(gateway): State<Gateway>) -> Json<LogLevel> {
    Json(LogLevel { level: LevelName::of(gateway.log().level()) })
}

/// Logs so much from now on, until the gateway ends or its settings have another level.
#[utoipa::path(put, path = "/admin/log-level", tag = "gateway", request_body = LogLevel, responses(
    (status = 200, description = "the level from now on", body = LogLevel),
    InvalidBody,
))]
async fn set(
    State(gateway): State<Gateway>,
    ApiJson(wanted): ApiJson<LogLevel>,
) -> Result<Json<LogLevel>, ApiError> {
    let set = gateway.log().set_level(wanted.level.level());
    set.map_err(|error: logging::Error| ApiError::internal(error.to_string()))?;
    Ok(Json(wanted))
}
