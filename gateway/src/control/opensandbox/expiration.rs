//! `POST /v1/sandboxes/{id}/renew-expiration`.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::super::{
    extract::{ApiJson, SandboxPath},
    shape::time,
    timeout::LONGEST,
};
use crate::{
    Gateway,
    error::{ApiError, InvalidBody, NoSandbox, NotNow},
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(renew))
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RenewSandboxExpiration {
    /// Later than now, and than it was.
    #[schema(format = DateTime)]
    expires_at: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RenewedSandboxExpiration {
    /// Sooner than was asked for where a sandbox would outlive what the gateway allows.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// Sets when it ends or is paused by itself, later than before.
#[utoipa::path(post, path = "/v1/sandboxes/{id}/renew-expiration", tag = "opensandbox",
    params(SandboxPath), request_body = RenewSandboxExpiration, responses(
        (status = 200, description = "as it is then", body = RenewedSandboxExpiration),
        InvalidBody, NoSandbox, NotNow,
    ))]
async fn renew(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    ApiJson(body): ApiJson<RenewSandboxExpiration>,
) -> Result<Json<RenewedSandboxExpiration>, ApiError> {
    let wanted = DateTime::parse_from_rfc3339(&body.expires_at)
        .map_err(|_| ApiError::bad_request("expiresAt must be a time as in RFC 3339"))?
        .with_timezone(&Utc);
    let now = Utc::now();
    let left = (wanted - now).to_std().ok().filter(|left| !left.is_zero());
    let left = left.ok_or_else(|| ApiError::bad_request("expiresAt must be in the future"))?;
    if left > LONGEST {
        return Err(ApiError::bad_request("expiresAt is too far in the future"));
    }
    let sandboxes = gateway.sandboxes();
    if let Some(expires) = sandboxes.see(id)?.expires_at
        && expires.timestamp_millis() >= wanted.timestamp_millis()
        && sandboxes.running(id).is_ok()
    {
        let text = format!("expiresAt must be later than it is, {}", time(expires));
        return Err(ApiError::bad_request(text));
    }
    let sandbox = sandboxes.extend(id, left).await?;
    let expires = sandbox.ends_at().ok_or_else(|| ApiError::no_sandbox(&id.to_string()))?;
    Ok(Json(RenewedSandboxExpiration { expires_at: time(expires) }))
}
