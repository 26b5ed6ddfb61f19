//! The platform: the one place where FreeBSD and Linux differ.
//!
//! A backend makes and ends [`Cell`]s, the kernel half of a sandbox. It knows nothing of tenants,
//! deadlines or HTTP, and keeps no state of its own: what exists is what the kernel says.

mod call;
mod cpus;
#[cfg_attr(target_os = "freebsd", path = "jail/mod.rs")]
#[cfg_attr(target_os = "linux", path = "linux/mod.rs")]
mod host;
/// What of it is no system call is tested on every system.
#[cfg(all(test, not(target_os = "freebsd")))]
#[allow(dead_code)] // What uses it is compiled for FreeBSD only.
mod jail;
mod memory;
mod own;
mod turns;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use envd::wire::Init;
use tokio_util::sync::CancellationToken;

use crate::{sandbox::SandboxId, template::Template};

pub use host::{Host, return_memory, unlock};
pub use memory::{available_memory, disk_free, disk_size};
pub use own::{OwnProcess, own_process};

/// The backend this program was built with: [`Backend::name`] of [`Host`].
pub const BUILT_IN: &str = if cfg!(target_os = "freebsd") { "jail" } else { "linux" };

/// What a sandbox may use at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub processes: u64,
}

/// How a sandbox reaches the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// A stack of its own with loopback only.
    None,
    /// A stack of its own, outbound by NAT.
    Nat,
    /// The host's stack, loopback included: for development.
    Inherit,
}

impl NetworkMode {
    /// Whether the backend of this program has it.
    pub fn is_there(self) -> bool {
        self != Self::Inherit || cfg!(target_os = "freebsd")
    }
}

/// What a backend needs to know of the gateway it works for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Canonical; holds `sandboxes/` and `trash/`.
    pub data_dir: PathBuf,
    /// Resolvers for `nat`; always reachable from a sandbox, whatever range they are in.
    pub dns: Vec<IpAddr>,
}

/// One sandbox to make.
#[derive(Clone, Debug)]
pub struct CellSpec {
    pub id: SandboxId,
    pub template: Arc<Template>,
    pub limits: Limits,
    pub network: NetworkMode,
    pub init: Init,
}

/// The kernel half of a living sandbox.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Cancelled when the sandbox's first process has ended, whoever ended it.
    pub ended: CancellationToken,
}

/// What the kernel has counted for one sandbox, envd included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// Since it was made, of all its processes, those that have ended too.
    pub cpu: Duration,
    /// Percent of one core, as the kernel averages it; `None` where it has no such figure (Linux).
    pub cpu_percent: Option<f64>,
    pub memory_bytes: u64,
    /// As [`Limits::processes`] counts them: with their threads on Linux.
    pub processes: u64,
}

/// One line of `coppice doctor`.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was looked at, e.g. `cgroup controllers`.
    pub what: &'static str,
    pub verdict: Verdict,
    /// What was found, e.g. `memory, pids and cpu on cgroup v1`.
    pub found: String,
    /// The command that mends it, or what to do.
    pub mend: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    /// Works, with something missing or a ceiling lower than planned.
    Warn,
    /// No sandbox can be made.
    Bad,
}

/// A step that failed, with all that is needed to understand it from the log alone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call: what it was to do, on what, and errno.
    #[error("{call} {target}: {source}")]
    Call { call: &'static str, target: String, source: std::io::Error },
    /// envd could not enter the sandbox.
    #[error("envd could not {step}: {message}")]
    Attach { step: String, message: String },
    #[error("{0} did not finish within {1:?}")]
    Timeout(&'static str, Duration),
    #[error("no room for another sandbox: {0}")]
    Full(String),
    #[error("{0}")]
    Unsupported(String),
}

/// Lets this process have as many files open as its hard limit says: setrlimit(2).
///
/// # Errors
/// What the kernel said; the soft limit then stays.
pub fn raise_descriptor_limit() -> std::io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// The kernel's sandboxes. Every method has a bound in time.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// `jail` or `linux`.
    fn name(&self) -> &'static str;

    /// Makes the host ready (cgroup parents, packet filter, forwarding). Idempotent, called once
    /// at start before anything else.
    async fn prepare(&self) -> Result<(), Error>;

    /// Makes a sandbox and returns when its envd serves `envd.sock`, `tunnel.sock` and
    /// `report.sock` in the sandbox's directory, which exists and is empty but for files of the
    /// caller's. On error nothing is left of it in the kernel.
    async fn create(&self, spec: CellSpec) -> Result<Cell, Error>;

    /// Ends every process of a sandbox; when it returns nothing of it runs any more, and never
    /// will again. Idempotent: a sandbox that is not there is a success.
    async fn stop(&self, id: SandboxId) -> Result<(), Error>;

    /// Ends every process of a sandbox and removes all it had in the kernel; its directory is the
    /// caller's. Idempotent: a sandbox that is not there is a success.
    async fn destroy(&self, id: SandboxId) -> Result<(), Error>;

    /// Finds a sandbox that lived through a restart of the gateway; `None` when its first process
    /// is gone.
    async fn adopt(&self, id: SandboxId) -> Result<Option<Cell>, Error>;

    /// Stops every process of a sandbox where it is, envd included; when it returns nothing of it
    /// runs. Idempotent. What its user had stopped stays stopped after `thaw`. On error the
    /// sandbox runs on.
    async fn freeze(&self, id: SandboxId) -> Result<(), Error>;

    /// Lets a frozen sandbox go on. Idempotent. One that is frozen can be stopped and destroyed
    /// as it is.
    async fn thaw(&self, id: SandboxId) -> Result<(), Error>;

    /// Whether it is frozen, from the kernel (for adoption after a restart).
    async fn frozen(&self, id: SandboxId) -> Result<bool, Error>;

    /// What the kernel has counted, for all sandboxes of this data directory in one sweep. No
    /// child process.
    async fn usage(&self) -> Result<BTreeMap<SandboxId, Usage>, Error>;

    /// Memory (bytes) a sandbox has at present, all of its processes together.
    async fn memory_used(&self, id: SandboxId) -> Result<u64, Error>;

    /// The sandboxes of this data directory that have anything left in the kernel.
    async fn list(&self) -> Result<Vec<SandboxId>, Error>;

    /// Undoes `prepare`, when no sandbox of any gateway on this host is left.
    async fn retire(&self) -> Result<(), Error>;

    /// Looks the host over for `planned` sandboxes at once; changes nothing.
    fn probe(&self, planned: usize) -> Vec<Check>;
}
