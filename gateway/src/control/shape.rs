//! Sandboxes as clients see them.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Gateway,
    auth::{Caller, Scope},
    network::{Ingress, NetworkPolicy},
    sandbox::{PauseMode, Phase, Sandbox},
};

/// Clients require the key and make nothing of it.
const CLIENT_ID: &str = "coppice";

/// Of create and connect.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Handle {
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    alias: String,
    envd_version: &'static str,
    envd_access_token: String,
    /// Asked for on its ports, as the header `e2b-traffic-access-token`; left out where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    traffic_access_token: Option<String>,
    /// Always ours: without one an SDK would send the sandbox's traffic and its token to E2B.
    domain: String,
}

impl Handle {
    pub(super) fn new(gateway: &Gateway, sandbox: &Sandbox) -> Self {
        let template = &sandbox.facts().template;
        Self {
            sandbox_id: sandbox.id().to_string(),
            template_id: template.id.clone(),
            client_id: CLIENT_ID,
            alias: template.id.clone(),
            envd_version: envd::wire::ENVD_VERSION,
            envd_access_token: sandbox.envd_token().to_owned(),
            traffic_access_token: sandbox.facts().traffic_token.clone(),
            domain: gateway.domain().to_owned(),
        }
    }
}

/// One that is about to be either is told as paused.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    Running,
    Paused,
}

impl State {
    fn of(phase: Phase) -> Self {
        match phase {
            Phase::Running => Self::Running,
            _ => Self::Paused,
        }
    }
}

/// Of a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    #[serde(rename = "sandboxID")]
    sandbox_id: String,
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    alias: String,
    #[schema(format = DateTime)]
    started_at: String,
    /// When it ends or is paused by itself; of one that is paused, since when.
    #[schema(format = DateTime)]
    end_at: String,
    cpu_count: u32,
    #[serde(rename = "memoryMB")]
    memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    disk_size_mb: u64,
    state: State,
    envd_version: &'static str,
    metadata: BTreeMap<String, String>,
    /// Its envd did not answer when it was paused; left out where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = bool, required = false)]
    envd_unresponsive_at_pause: Option<bool>,
}

impl Listed {
    /// `None` when it has ended meanwhile.
    pub(super) fn new(gateway: &Gateway, sandbox: &Sandbox) -> Option<Self> {
        let facts = sandbox.facts();
        let (phase, end_at) = sandbox.stands()?;
        Some(Self {
            sandbox_id: facts.id.to_string(),
            template_id: facts.template.id.clone(),
            client_id: CLIENT_ID,
            alias: facts.template.id.clone(),
            started_at: time(facts.started_at),
            end_at: time(end_at),
            cpu_count: facts.limits.cpus,
            memory_mb: facts.limits.memory_bytes >> 20,
            disk_size_mb: gateway.disk_bytes(&facts.limits) >> 20,
            state: State::of(phase),
            envd_version: envd::wire::ENVD_VERSION,
            metadata: (*sandbox.metadata()).clone(),
            envd_unresponsive_at_pause: sandbox.was_unresponsive().then_some(true),
        })
    }
}

/// All about one.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    #[serde(flatten)]
    listed: Listed,
    /// Left out for a key without the scope exec: it lets whoever has it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    envd_access_token: Option<String>,
    /// `null` while it is paused.
    domain: Option<String>,
    allow_internet_access: Option<bool>,
    /// As it was last said; left out where nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Network, required = false)]
    network: Option<Network>,
    lifecycle: Lifecycle,
    /// What its pause keeps; left out unless it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = PauseMode, required = false)]
    pause_mode: Option<PauseMode>,
    /// Since when it survives a reboot of the host, with its files; left out while it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, format = DateTime, required = false)]
    durable_at: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Network {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    allow_out: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    deny_out: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Vec<String>, required = false)]
    dns_servers: Option<Vec<String>>,
    /// Only where it is `false`.
    #[serde(skip_serializing_if = "is_true")]
    #[schema(required = false)]
    allow_public_traffic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    mask_request_host: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    https_ports: Vec<u16>,
}

fn is_true(value: &bool) -> bool {
    *value
}

impl Network {
    fn of(policy: &NetworkPolicy, ingress: &Ingress) -> Option<Self> {
        let said = policy.has_lists() || *ingress != Ingress::default();
        said.then(|| Self {
            allow_out: policy.allow_out().map(str::to_owned).collect(),
            deny_out: policy.deny_out().map(str::to_owned).collect(),
            dns_servers: policy
                .dns_servers()
                .map(|servers| servers.iter().map(ToString::to_string).collect()),
            allow_public_traffic: ingress.public,
            mask_request_host: ingress.mask_host().map(str::to_owned),
            https_ports: ingress.https_ports().iter().copied().collect(),
        })
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    auto_resume: bool,
    on_timeout: OnTimeout,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum OnTimeout {
    Kill,
    Pause,
}

impl Detail {
    /// `None` when it has ended meanwhile.
    pub(super) fn new(gateway: &Gateway, caller: &Caller, sandbox: &Arc<Sandbox>) -> Option<Self> {
        let (facts, policy) = (sandbox.facts(), sandbox.policy());
        let listed = Listed::new(gateway, sandbox)?;
        let running = matches!(listed.state, State::Running);
        Some(Self {
            domain: running.then(|| gateway.domain().to_owned()),
            listed,
            envd_access_token: caller.may(Scope::Exec).then(|| sandbox.envd_token().to_owned()),
            allow_internet_access: policy.allow_internet_access,
            network: Network::of(&policy, &facts.ingress),
            pause_mode: sandbox.pause_mode(),
            durable_at: sandbox.durable_at().map(time),
            lifecycle: Lifecycle {
                auto_resume: facts.auto_resume,
                on_timeout: if facts.auto_pause { OnTimeout::Pause } else { OnTimeout::Kill },
            },
        })
    }
}

pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
