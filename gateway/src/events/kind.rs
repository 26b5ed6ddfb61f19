//! What can happen, and what is said of it.
//!
//! One variant for each type: its fields are the `data` of an event, in the words that stand in the
//! JSON. A field that need not be there is an `Option`, and left out. Durations are whole
//! milliseconds; costs and rates are [`Cost`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cost::Cost;

/// What a sandbox may use, as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    pub cpu_count: u32,
    pub memory_mb: u64,
    /// `None`: all the disk there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u64>,
}

/// What happened. Of commands, files, kernels and code it is what envd says, which lives with
/// hostile code; of all else it is the gateway's own word.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data", rename_all_fields = "camelCase")]
pub enum What {
    /// Its processes are there and its envd answers, and so is its record.
    #[serde(rename = "sandbox.created")]
    SandboxCreated {
        /// The template's name.
        image: String,
        resources: Resources,
        /// None where there is more than 16 KiB of it.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metadata: BTreeMap<String, String>,
        /// It was ready before it was asked for.
        #[serde(default, skip_serializing_if = "is_false")]
        from_pool: bool,
        /// The sandbox that it has the files of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        forked_from: Option<String>,
    },
    /// It runs, and clients see it.
    #[serde(rename = "sandbox.started")]
    SandboxStarted {
        /// From when it was asked for.
        startup_duration_ms: u64,
        /// The same in nanoseconds, as the metrics add it up.
        took_ns: u64,
    },
    #[serde(rename = "sandbox.paused")]
    SandboxPaused {
        /// Since it was started or last resumed.
        runtime_duration_ms: u64,
        /// A code of docs/lifecycle.md.
        reason: String,
        /// What the pause itself took.
        took_ns: u64,
    },
    #[serde(rename = "sandbox.resumed")]
    SandboxResumed {
        /// Since it was paused.
        paused_duration_ms: u64,
        reason: String,
        /// What the resume itself took.
        took_ns: u64,
    },
    /// Something of it was set anew.
    #[serde(rename = "sandbox.updated")]
    SandboxUpdated {
        /// `timeout`, `network`, `metadata`.
        changed: String,
        /// RFC 3339; when it ends or is paused by itself from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        end_at: Option<String>,
    },
    /// A snapshot was made of it.
    #[serde(rename = "sandbox.snapshotted")]
    SandboxSnapshotted { snapshot: String },
    /// Sandboxes were made from its files.
    #[serde(rename = "sandbox.forked")]
    SandboxForked { asked: u64, made: u64 },
    /// A gateway that has begun goes on with it.
    #[serde(rename = "sandbox.adopted")]
    SandboxAdopted {
        /// `running` or `paused`.
        state: String,
    },
    /// It should have been made and was not: nobody has seen it.
    #[serde(rename = "sandbox.failed")]
    SandboxFailed {
        /// As the metric of failed creates is labelled.
        reason: String,
    },
    #[serde(rename = "sandbox.terminated")]
    SandboxTerminated {
        /// Without its pauses.
        total_runtime_ms: u64,
        total_paused_ms: u64,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total_cost: Option<Cost>,
    },

    #[serde(rename = "exec.started")]
    ExecStarted {
        command: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cwd: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// It was begun again and again, word for word.
        #[serde(default, skip_serializing_if = "is_false")]
        repeated: bool,
    },
    #[serde(rename = "exec.completed")]
    ExecCompleted {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<String>,
        exit_code: i32,
        duration_ms: u64,
        /// Cut off after as much as is configured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stdout: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stderr: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
    },
    #[serde(rename = "exec.timed_out")]
    ExecTimedOut {
        timeout_ms: u64,
        signal: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
    },
    #[serde(rename = "exec.failed")]
    ExecFailed {
        error: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        command: Option<String>,
    },

    #[serde(rename = "file.created")]
    FileCreated { path: String, size_bytes: u64 },
    #[serde(rename = "file.modified")]
    FileModified { path: String, size_bytes: u64 },
    #[serde(rename = "file.deleted")]
    FileDeleted { path: String },
    #[serde(rename = "file.read")]
    FileRead { path: String, size_bytes: u64 },

    #[serde(rename = "tool.invoked")]
    ToolInvoked {
        tool_name: String,
        tool_args: serde_json::Value,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_id: Option<String>,
    },
    #[serde(rename = "tool.completed")]
    ToolCompleted { tool_name: String, result: serde_json::Value, duration_ms: u64 },
    #[serde(rename = "tool.failed")]
    ToolFailed { tool_name: String, error: String },

    #[serde(rename = "port.exposed")]
    PortExposed { port: u16, url: String },
    #[serde(rename = "port.closed")]
    PortClosed { port: u16 },
    #[serde(rename = "network.egress")]
    NetworkEgress { host: String, port: u16, bytes_sent: u64 },

    #[serde(rename = "resource.cpu")]
    ResourceCpu {
        /// 100 is one core.
        cpu_percent: f64,
        cores: u32,
    },
    #[serde(rename = "resource.memory")]
    ResourceMemory { memory_used_mb: f64, memory_limit_mb: u64 },
    #[serde(rename = "resource.disk")]
    ResourceDisk {
        disk_used_mb: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk_limit_mb: Option<u64>,
    },

    /// What it uses has come to its agent's threshold, or has fallen well below it again.
    #[serde(rename = "resource.threshold")]
    ResourceThreshold {
        agent_id: String,
        /// `cpu` or `memory`.
        resource: String,
        above: bool,
        /// 100 is one core, or all the memory it may have; the threshold's too.
        percent: f64,
        threshold: f64,
    },

    /// Of a time that it ran.
    #[serde(rename = "cost.runtime")]
    CostRuntime {
        duration_ms: u64,
        /// A second.
        rate: Cost,
        cost: Cost,
    },
    /// Of a time that it was paused.
    #[serde(rename = "cost.storage")]
    CostStorage {
        duration_ms: u64,
        /// An hour.
        rate: Cost,
        cost: Cost,
    },
    /// Of its whole life: the sum of all before.
    #[serde(rename = "cost.total")]
    CostTotal { sandbox_cost: Cost, period: Period },

    /// A kernel of the code interpreter came to answer.
    #[serde(rename = "kernel.started")]
    KernelStarted {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        language: Option<String>,
    },
    #[serde(rename = "kernel.exited")]
    KernelExited {
        /// By itself: a crash, an exit, out of memory.
        died: bool,
    },
    /// Code has had its turn.
    #[serde(rename = "code.executed")]
    CodeExecuted {
        language: String,
        /// Its answer had an `error` item.
        error: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
        /// It was run again and again, word for word.
        #[serde(default, skip_serializing_if = "is_false")]
        repeated: bool,
        /// Cut off after 4 KiB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
}

/// From a sandbox's beginning to its end; both RFC 3339.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Period {
    pub from: String,
    pub to: String,
}

fn is_false(value: &bool) -> bool {
    !value
}

macro_rules! kinds {
    ($($kind:ident $name:literal,)*) => {
        /// The type of an event, without what is said of it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($kind,)*
        }

        impl Kind {
            /// In the order of their discriminants.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$kind),*];

            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }

        impl What {
            pub fn kind_of(&self) -> Kind {
                match self {
                    $(Self::$kind { .. } => Kind::$kind,)*
                }
            }
        }
    };
}

kinds! {
    SandboxCreated "sandbox.created",
    SandboxStarted "sandbox.started",
    SandboxPaused "sandbox.paused",
    SandboxResumed "sandbox.resumed",
    SandboxUpdated "sandbox.updated",
    SandboxSnapshotted "sandbox.snapshotted",
    SandboxForked "sandbox.forked",
    SandboxAdopted "sandbox.adopted",
    SandboxFailed "sandbox.failed",
    SandboxTerminated "sandbox.terminated",
    ExecStarted "exec.started",
    ExecCompleted "exec.completed",
    ExecTimedOut "exec.timed_out",
    ExecFailed "exec.failed",
    FileCreated "file.created",
    FileModified "file.modified",
    FileDeleted "file.deleted",
    FileRead "file.read",
    ToolInvoked "tool.invoked",
    ToolCompleted "tool.completed",
    ToolFailed "tool.failed",
    PortExposed "port.exposed",
    PortClosed "port.closed",
    NetworkEgress "network.egress",
    ResourceCpu "resource.cpu",
    ResourceMemory "resource.memory",
    ResourceDisk "resource.disk",
    ResourceThreshold "resource.threshold",
    CostRuntime "cost.runtime",
    CostStorage "cost.storage",
    CostTotal "cost.total",
    KernelStarted "kernel.started",
    KernelExited "kernel.exited",
    CodeExecuted "code.executed",
}

impl Kind {
    pub(super) fn bit(self) -> u64 {
        1 << self as u64
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A bit for each.
const _: () = assert!(Kind::ALL.len() <= 64);

impl What {
    /// As the JSON's `type` has it.
    pub fn kind(&self) -> &'static str {
        self.kind_of().name()
    }

    /// Bytes of whatever may be long.
    pub(super) fn weight(&self) -> usize {
        let of = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        match self {
            Self::SandboxCreated { image, metadata, .. } => {
                let pairs = metadata.iter().map(|(name, value)| name.len() + value.len() + 50);
                image.len() + pairs.sum::<usize>()
            }
            Self::ExecStarted { command, cwd, .. } => command.len() + of(cwd),
            Self::ExecCompleted { command, stdout, stderr, .. } => {
                of(command) + of(stdout) + of(stderr)
            }
            Self::CodeExecuted { language, code, .. } => language.len() + of(code),
            Self::ExecFailed { error, command } => error.len() + of(command),
            Self::FileCreated { path, .. }
            | Self::FileModified { path, .. }
            | Self::FileDeleted { path }
            | Self::FileRead { path, .. } => path.len(),
            Self::ToolInvoked { tool_name, tool_args, agent_id } => {
                tool_name.len() + weight_of(tool_args) + of(agent_id)
            }
            Self::ToolCompleted { tool_name, result, .. } => tool_name.len() + weight_of(result),
            Self::ToolFailed { tool_name, error } => tool_name.len() + error.len(),
            Self::PortExposed { url, .. } => url.len(),
            Self::NetworkEgress { host, .. } => host.len(),
            Self::ResourceThreshold { agent_id, .. } => agent_id.len(),
            _ => 0,
        }
    }
}

/// About what it takes in memory.
fn weight_of(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::String(text) => text.len() + 32,
        Value::Array(all) => all.iter().map(weight_of).sum::<usize>() + 32,
        Value::Object(all) => {
            all.iter().map(|(name, value)| name.len() + 50 + weight_of(value)).sum::<usize>() + 32
        }
        _ => 32,
    }
}
