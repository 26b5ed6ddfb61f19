//! One sandbox, as a container of Evonic's.

use serde::Serialize;
use utoipa::ToSchema;

use super::units;
use crate::{
    backend::{self, Traffic, Usage},
    metrics::Latest,
    sandbox::{AGENT, PauseMode, Phase, Sandbox},
};

/// Keys of the metadata.
const SESSION: &str = "session_id";
const USER: &str = "external_user_id";

#[derive(Serialize, ToSchema)]
pub(super) struct Container {
    /// Of the metadata; without one the sandbox is a session of its own.
    pub(super) session_id: String,
    /// Of the metadata; `null` without one.
    external_user_id: Option<String>,
    /// Of the metadata; `null` without one.
    pub(super) agent_id: Option<String>,
    /// Of the sandbox.
    pub(super) container_id: String,
    container_name: String,
    #[schema(inline)]
    state: State,
    /// 100 is one core. Left out, as all that follow, where there is an `error`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = f64, required = false, minimum = 0)]
    pub(super) cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Memory, required = false)]
    pub(super) memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Network, required = false)]
    network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = BlockIo, required = false)]
    block_io: Option<BlockIo>,
    /// How many there are, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pids: Option<String>,
    /// As a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    pub(super) pids_current: Option<u64>,
    /// Why there are no figures; left out where there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    error: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    Running,
    Paused,
}

/// Without copies of files.
#[derive(Serialize, ToSchema)]
#[schema(as = ContainerMemory)]
pub(super) struct Memory {
    #[schema(example = "142MiB")]
    used: String,
    #[schema(example = "512MiB")]
    limit: String,
    #[schema(example = "27.73%")]
    percent: String,
    pub(super) used_bytes: u64,
    limit_bytes: u64,
}

/// Since it was made or booted; nothing of one without a network.
#[derive(Serialize, ToSchema)]
#[schema(as = ContainerNetwork)]
struct Network {
    #[schema(example = "2.1MB")]
    input: String,
    #[schema(example = "4.8MB")]
    output: String,
    input_bytes: u64,
    output_bytes: u64,
}

/// Since it was made or booted, as far as the host counts it.
#[derive(Serialize, ToSchema)]
#[schema(as = ContainerBlockIo)]
struct BlockIo {
    #[schema(example = "8.3MB")]
    read: String,
    #[schema(example = "12.5MB")]
    write: String,
    read_bytes: u64,
    write_bytes: u64,
}

impl Container {
    pub(super) fn of(sandbox: &Sandbox, latest: Option<&Latest>) -> Self {
        let (id, metadata) = (sandbox.id(), sandbox.metadata());
        let phase = sandbox.phase();
        let running = phase == Phase::Running;
        let container = Self {
            session_id: metadata.get(SESSION).cloned().unwrap_or_else(|| id.to_string()),
            external_user_id: metadata.get(USER).cloned(),
            agent_id: metadata.get(AGENT).cloned(),
            container_id: id.to_string(),
            container_name: id.cell_name(),
            state: if running { State::Running } else { State::Paused },
            cpu_percent: None,
            memory: None,
            network: None,
            block_io: None,
            pids: None,
            pids_current: None,
            error: Some("nothing is known of what it uses yet; ?fresh=1 has it looked at"),
        };
        match latest {
            Some(Latest { usage, cpu_percent }) => {
                let used = usage.memory_bytes.saturating_sub(usage.cache_bytes);
                container.with(sandbox, cpu_percent.unwrap_or(0.0), used, usage)
            }
            // One whose files alone are kept uses nothing else, and the kernel knows nothing of it.
            None if !running && sandbox.pause_mode() == Some(PauseMode::Filesystem) => {
                container.with(sandbox, 0.0, 0, &Usage::none())
            }
            None => container,
        }
    }

    fn with(self, sandbox: &Sandbox, cpu_percent: f64, used: u64, usage: &Usage) -> Self {
        Self {
            cpu_percent: Some(hundredths(cpu_percent)),
            memory: Some(Memory::new(sandbox, used)),
            network: Some(Network::of(usage.network.unwrap_or_default())),
            block_io: Some(BlockIo::of(usage.block.unwrap_or_default())),
            pids: Some(usage.processes.to_string()),
            pids_current: Some(usage.processes),
            error: None,
            ..self
        }
    }
}

impl Network {
    fn of(traffic: Traffic) -> Self {
        Self {
            input: units::decimal(traffic.received),
            output: units::decimal(traffic.sent),
            input_bytes: traffic.received,
            output_bytes: traffic.sent,
        }
    }
}

impl BlockIo {
    fn of(block: backend::BlockIo) -> Self {
        Self {
            read: units::decimal(block.read),
            write: units::decimal(block.written),
            read_bytes: block.read,
            write_bytes: block.written,
        }
    }
}

impl Memory {
    fn new(sandbox: &Sandbox, used: u64) -> Self {
        let limit = sandbox.facts().limits.memory_bytes;
        let percent = used as f64 / limit.max(1) as f64 * 100.0;
        Self {
            used: units::binary(used),
            limit: units::binary(limit),
            percent: units::percent(percent),
            used_bytes: used,
            limit_bytes: limit,
        }
    }
}

pub(super) fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
