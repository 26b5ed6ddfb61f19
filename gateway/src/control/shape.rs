//! Sandboxes as clients see them.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Gateway,
    sandbox::{Phase, Sandbox},
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
            Phase::Pausing | Phase::Paused | Phase::Resuming | Phase::Ended => Self::Paused,
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
            disk_size_mb: gateway.disk_bytes() >> 20,
            state: State::of(phase),
            envd_version: envd::wire::ENVD_VERSION,
            metadata: facts.metadata.clone(),
        })
    }
}

/// All about one.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    #[serde(flatten)]
    listed: Listed,
    envd_access_token: String,
    /// `null` while it is paused.
    domain: Option<String>,
    allow_internet_access: Option<bool>,
    lifecycle: Lifecycle,
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
    pub(super) fn new(gateway: &Gateway, sandbox: &Arc<Sandbox>) -> Option<Self> {
        let facts = sandbox.facts();
        let listed = Listed::new(gateway, sandbox)?;
        let running = matches!(listed.state, State::Running);
        Some(Self {
            domain: running.then(|| gateway.domain().to_owned()),
            listed,
            envd_access_token: sandbox.envd_token().to_owned(),
            allow_internet_access: facts.allow_internet_access,
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
