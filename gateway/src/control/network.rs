//! `PUT /sandboxes/{id}/network`, and what a create says of the network.

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::{
    ToSchema,
    openapi::{
        RefOr,
        schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::{ApiJson, SandboxPath},
    unasked::{Unasked, is_empty, not_yet},
};
use crate::{
    Gateway,
    error::{ApiError, InvalidBody, NoSandbox, NotFenced},
    network::{
        Ingress, InvalidIngress, InvalidPolicy, MOST_ENTRIES, MOST_PORTS, MOST_SERVERS,
        NetworkPolicy,
    },
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(set_network))
}

/// Says anew what it may reach; what is left out is as if it had never been said. Connections that
/// are open and denied from now on are cut.
#[utoipa::path(put, path = "/sandboxes/{id}/network", tag = "sandboxes", params(SandboxPath),
    request_body = NetworkUpdate, responses(
        (status = 204, description = "so it is"),
        InvalidBody, NoSandbox, NotFenced,
    ))]
async fn set_network(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    ApiJson(body): ApiJson<NetworkUpdate>,
) -> Result<StatusCode, ApiError> {
    gateway.sandboxes().set_network(id, body.parsed()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NetworkUpdate {
    /// `false`: as if `denyOut` had `0.0.0.0/0`. Without it, what the gateway is configured for.
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    /// Addresses, CIDRs, domains and `*.domain`: open though `denyOut` has them. A domain needs
    /// `0.0.0.0/0` in `denyOut`.
    #[schema(schema_with = allowed, required = false)]
    allow_out: Option<Vec<String>>,
    /// Addresses and CIDRs.
    #[schema(schema_with = denied, required = false)]
    deny_out: Option<Vec<String>>,
    /// Asked for the domains of `allowOut`, in the place of the gateway's own.
    #[schema(schema_with = servers, required = false)]
    dns_servers: Option<Vec<String>>,
    #[serde(flatten)]
    #[schema(value_type = BTreeMap<String, Unasked>, inline)]
    others: Map<String, Value>,
}

/// Of a create.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewNetwork {
    /// `false`: `trafficAccessToken` is asked for on every port but the sandbox's own.
    allow_public_traffic: Option<bool>,
    /// What its servers are told as the host; `${PORT}` stands for their port.
    #[schema(max_length = 253, pattern = r"^([A-Za-z0-9._:\[\]-]|\$\{PORT\})*$")]
    mask_request_host: Option<String>,
    /// Ports whose servers speak TLS; their certificates are not verified.
    #[schema(schema_with = ports, required = false)]
    https_ports: Option<Vec<u64>>,
    /// Addresses, CIDRs, domains and `*.domain`: open though `denyOut` has them. A domain needs
    /// `0.0.0.0/0` in `denyOut`.
    #[schema(schema_with = allowed, required = false)]
    allow_out: Option<Vec<String>>,
    /// Addresses and CIDRs.
    #[schema(schema_with = denied, required = false)]
    deny_out: Option<Vec<String>>,
    /// Asked for the domains of `allowOut`, in the place of the gateway's own.
    #[schema(schema_with = servers, required = false)]
    dns_servers: Option<Vec<String>>,
    #[serde(flatten)]
    #[schema(value_type = BTreeMap<String, Unasked>, inline)]
    others: Map<String, Value>,
}

impl NetworkUpdate {
    fn parsed(self) -> Result<NetworkPolicy, ApiError> {
        let Self { allow_internet_access, allow_out, deny_out, dns_servers, others } = self;
        nothing_else(&others)?;
        let (allow, deny) = (allow_out.unwrap_or_default(), deny_out.unwrap_or_default());
        Ok(NetworkPolicy::new(allow_internet_access, &allow, &deny, dns_servers.as_deref())?)
    }
}

impl NewNetwork {
    pub(super) fn parsed(self, access: Option<bool>) -> Result<(NetworkPolicy, Ingress), ApiError> {
        let public = self.allow_public_traffic.unwrap_or(true);
        let ports = self.https_ports.unwrap_or_default();
        let ingress = Ingress::new(public, self.mask_request_host, &ports)?;
        let Self { allow_out, deny_out, dns_servers, others, .. } = self;
        let allow_internet_access = access;
        let update =
            NetworkUpdate { allow_internet_access, allow_out, deny_out, dns_servers, others };
        Ok((update.parsed()?, ingress))
    }
}

/// What a body asks for.
#[cfg(feature = "fuzzing")]
pub(crate) fn policy(body: &[u8]) -> Result<NetworkPolicy, ApiError> {
    super::extract::object::<NetworkUpdate>(body)?.parsed()
}

fn nothing_else(others: &Map<String, Value>) -> Result<(), ApiError> {
    match others.iter().find(|(_, value)| !is_empty(value)) {
        Some((name, _)) => Err(not_yet(&format!("network.{name}"))),
        None => Ok(()),
    }
}

impl From<InvalidPolicy> for ApiError {
    fn from(invalid: InvalidPolicy) -> Self {
        Self::bad_request(invalid.to_string())
    }
}

impl From<InvalidIngress> for ApiError {
    fn from(invalid: InvalidIngress) -> Self {
        Self::bad_request(invalid.to_string())
    }
}

/// One number of an address, and how many bits of one may count.
const OCTET: &str = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
const PREFIX: &str = "(/(3[0-2]|[12]?[0-9]))?";

fn cidr() -> String {
    format!(r"{OCTET}(\.{OCTET}){{3}}{PREFIX}")
}

fn allowed() -> RefOr<Schema> {
    let label = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?";
    list(&format!(r"^({}|(\*\.)?({label}\.)*{label}\.?)$", cidr()), MOST_ENTRIES)
}

fn denied() -> RefOr<Schema> {
    list(&format!("^{}$", cidr()), MOST_ENTRIES)
}

fn servers() -> RefOr<Schema> {
    list(&format!(r"^{OCTET}(\.{OCTET}){{3}}$"), MOST_SERVERS)
}

fn list(pattern: &str, most: usize) -> RefOr<Schema> {
    let entry = ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
    nullable(ArrayBuilder::new().items(entry), most)
}

fn ports() -> RefOr<Schema> {
    let port =
        ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(u16::MAX));
    nullable(ArrayBuilder::new().items(port), MOST_PORTS)
}

fn nullable(list: ArrayBuilder, most: usize) -> RefOr<Schema> {
    let either = SchemaType::from_iter([Type::Array, Type::Null]);
    list.schema_type(either).max_items(Some(most)).into()
}
