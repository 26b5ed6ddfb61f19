//! One sandbox, as a container of Evonic's.

use serde::Serialize;
use utoipa::ToSchema;

use super::units;
use crate::{
    agents::memory_percent,
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
    /// Those below are left out where there is an `error`.
    #[serde(flatten)]
    #[schema(inline)]
    pub(super) figures: Option<Figures>,
    /// Why there are no figures; left out where there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    pub(super) error: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    Running,
    Paused,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Figures {
    /// 100 is one core.
    #[schema(minimum = 0)]
    pub(super) cpu_percent: f64,
    pub(super) memory: Memory,
    network: Network,
    block_io: BlockIo,
    /// How many there are, as text.
    pids: String,
    /// As a number.
    pub(super) pids_current: u64,
}

/// Without copies of files.
#[derive(Serialize, ToSchema)]
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
        // One whose files alone are kept uses nothing else, and the kernel knows nothing of it.
        let rests = phase != Phase::Running && sandbox.pause_mode() == Some(PauseMode::Filesystem);
        let figures = match latest {
            Some(latest) => Some(Figures::of(sandbox, latest)),
            None => rests.then(|| Figures::none(sandbox)),
        };
        let error = "nothing is known of what it uses yet; ?fresh=1 has it looked at";
        Self {
            session_id: metadata.get(SESSION).cloned().unwrap_or_else(|| id.to_string()),
            external_user_id: metadata.get(USER).cloned(),
            agent_id: metadata.get(AGENT).cloned(),
            container_id: id.to_string(),
            container_name: id.cell_name(),
            state: if phase == Phase::Running { State::Running } else { State::Paused },
            error: figures.is_none().then_some(error),
            figures,
        }
    }
}

impl Figures {
    fn of(sandbox: &Sandbox, latest: &Latest) -> Self {
        let usage = &latest.usage;
        let (network, block) = (usage.network.unwrap_or_default(), usage.block.unwrap_or_default());
        let used = usage.memory_bytes.saturating_sub(usage.cache_bytes);
        Self {
            cpu_percent: hundredths(latest.cpu_percent.unwrap_or(0.0)),
            memory: Memory::new(sandbox, used, memory_percent(sandbox, latest)),
            network: Network {
                input: units::decimal(network.received),
                output: units::decimal(network.sent),
                input_bytes: network.received,
                output_bytes: network.sent,
            },
            block_io: BlockIo {
                read: units::decimal(block.read),
                write: units::decimal(block.written),
                read_bytes: block.read,
                write_bytes: block.written,
            },
            pids: usage.processes.to_string(),
            pids_current: usage.processes,
        }
    }

    fn none(sandbox: &Sandbox) -> Self {
        let nothing = || units::decimal(0);
        Self {
            cpu_percent: 0.0,
            memory: Memory::new(sandbox, 0, 0.0),
            network: Network {
                input: nothing(),
                output: nothing(),
                input_bytes: 0,
                output_bytes: 0,
            },
            block_io: BlockIo { read: nothing(), write: nothing(), read_bytes: 0, write_bytes: 0 },
            pids: "0".to_owned(),
            pids_current: 0,
        }
    }
}

impl Memory {
    fn new(sandbox: &Sandbox, used: u64, percent: f64) -> Self {
        let limit = sandbox.facts().limits.memory_bytes;
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
