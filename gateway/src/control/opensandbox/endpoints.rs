//! `GET /v1/sandboxes/{id}/endpoints/{port}`: how to reach a server in a sandbox.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, header, request::Parts},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::super::extract::{Parameters, SandboxPath};
use crate::{
    Gateway,
    auth::{Caller, Scope},
    error::{ApiError, NoSandbox},
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(show))
}

#[derive(Serialize, ToSchema)]
struct Endpoint {
    /// Host, maybe with a port, and no scheme.
    endpoint: String,
    /// To be sent with each request; left out where nothing is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false)]
    headers: BTreeMap<&'static str, String>,
}

struct Port(u16);

impl FromRequestParts<Gateway> for Port {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, gateway).await;
        let port = path.ok().and_then(|Path(path)| {
            let port =
                path.into_iter().find_map(|(name, text)| (name == "port").then_some(text))?;
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            port.parse().ok().filter(|port| digits && *port > 0)
        });
        port.map(Self).ok_or_else(|| ApiError::bad_request("port must be from 1 to 65535"))
    }
}

/// Where a server that listens on that port of a sandbox is reached, whether or not one does. Below
/// a domain that is the sandbox's own host; without one, or by the server's proxy, it is the
/// gateway itself, told by headers where to. `expires` is not there yet and refused.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/endpoints/{port}", tag = "opensandbox",
    params(
        SandboxPath,
        ("port" = u16, Path, minimum = 1, maximum = 65535),
        ("use_server_proxy" = Option<bool>, Query, description = "the gateway itself; false if left out"),
    ),
    responses(
        (status = 200, description = "how to reach it", body = Endpoint),
        NoSandbox,
    ))]
async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    SandboxPath(id): SandboxPath,
    Port(port): Port,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Json<Endpoint>, ApiError> {
    let by_proxy = match parameters.take("use_server_proxy").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::bad_request("use_server_proxy must be true or false")),
    };
    if parameters.take("expires").is_some() {
        return Err(ApiError::bad_request(
            "expires is not implemented yet: endpoints are not signed",
        ));
    }
    let sandbox = gateway.sandboxes().present(id)?;
    let mut with = BTreeMap::new();
    // It lets whoever has it in.
    if caller.may(Scope::Exec)
        && let Some(token) = &sandbox.facts().traffic_token
    {
        with.insert("e2b-traffic-access-token", token.clone());
    }
    let domain = gateway.domain();
    let is_local = domain.split(':').next() == Some("localhost");
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let endpoint = match host.filter(|_| by_proxy || is_local) {
        Some(host) => {
            with.insert("E2b-Sandbox-Id", id.to_string());
            with.insert("E2b-Sandbox-Port", port.to_string());
            host.to_owned()
        }
        None => format!("{port}-{id}.{domain}"),
    };
    Ok(Json(Endpoint { endpoint, headers: with }))
}
