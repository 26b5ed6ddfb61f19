//! `GET /health`: whether a sandbox can be made, and with `?verbose=1` what that hangs on.
//!
//! Strangers may ask, so it says how each thing stands and no more: no size, no path, no number of
//! anything.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Gateway,
    control::Parameters,
    error::{ApiError, InvalidQuery, NotReady},
    sandbox::{Error, Tenant, Vital},
    template::{BASE, FindError},
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(health))
}

#[derive(Serialize, ToSchema)]
struct Health {
    /// `healthy`.
    status: &'static str,
    /// `template`: there is one to make sandboxes from. `disk`: of the data directory. `memory`: of
    /// the host. `kernel`: sandboxes can be looked at. `events`: they are written down. Left out unless asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = BTreeMap<String, Check>, required = false)]
    checks: Option<BTreeMap<&'static str, Check>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = HealthCheck)]
enum Check {
    Ok,
    /// What is there goes on, and nothing more may begin.
    Low,
    Failed,
}

impl From<Vital> for Check {
    fn from(vital: Vital) -> Self {
        match vital {
            Vital::Ok => Self::Ok,
            Vital::Low => Self::Low,
            Vital::Failed => Self::Failed,
        }
    }
}

/// Whether a sandbox can be made. With `verbose`, whether all that takes is there, and how each of it
/// stands; what is low makes nothing unhealthy.
#[utoipa::path(get, path = "/health", tag = "gateway", security(()),
    params(("verbose" = Option<bool>, Query, description = "false if left out")),
    responses(
        (status = 200, description = "it can", body = Health),
        InvalidQuery, NotReady,
    ))]
async fn health(
    State(gateway): State<Gateway>,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let verbose = match parameters.take("verbose").as_deref() {
        None | Some("0" | "false") => false,
        Some("1" | "true") => true,
        Some(_) => return Err(ApiError::bad_request("verbose must be true or false")),
    };
    let template = match gateway.sandboxes().template(&Tenant::default(), BASE) {
        Ok(_) => Ok(()),
        Err(Error::Template { source: FindError::Unknown, .. }) => Err(ApiError::starting()),
        Err(error) => Err(error.into()),
    };
    if !verbose {
        template?;
        return Ok(Json(Health { status: "healthy", checks: None }).into_response());
    }
    let vitals = gateway.sandboxes().vitals().await.map(|(name, vital)| (name, vital.into()));
    let mut checks = BTreeMap::from(vitals);
    let or_failed = |ok| if ok { Check::Ok } else { Check::Failed };
    checks.insert("template", or_failed(template.is_ok()));
    checks.insert("events", or_failed(gateway.history().writes()));
    Ok(told(checks))
}

fn told(checks: BTreeMap<&'static str, Check>) -> Response {
    let failed = checks.iter().filter(|(_, check)| **check == Check::Failed);
    let failed: Vec<&str> = failed.map(|(name, _)| *name).collect();
    let status = if failed.is_empty() { "healthy" } else { "unhealthy" };
    let health = Health { status, checks: Some(checks) };
    match failed.is_empty() {
        true => Json(health).into_response(),
        false => ApiError::unhealthy(&failed.join(", ")).with(health),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;

    #[tokio::test]
    async fn what_has_failed_is_named_and_what_is_low_is_not_a_failure() {
        let all = |disk| BTreeMap::from([("disk", disk), ("memory", Check::Low)]);
        for (disk, code, status) in [
            (Check::Ok, 200, "healthy"),
            (Check::Low, 200, "healthy"),
            (Check::Failed, 503, "unhealthy"),
        ] {
            let answer = told(all(disk));
            assert_eq!(answer.status().as_u16(), code);
            assert_eq!(answer.headers().contains_key("retry-after"), code == 503);
            let body = to_bytes(answer.into_body(), 1000).await.unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (&body["status"], &body["checks"]["memory"]),
                (&json!(status), &json!("low"))
            );
            if code == 503 {
                assert_eq!(body["message"], "not healthy: disk");
            }
        }
    }
}
