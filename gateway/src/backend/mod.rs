//! The platform: the one place where FreeBSD and Linux differ.
//!
//! A backend makes and ends [`Cell`]s, the kernel half of a sandbox. It knows nothing of tenants,
//! deadlines or HTTP, and keeps no state of its own: what exists is what the kernel says.

mod call;
mod copy;
mod cpus;
mod fresh;
#[cfg_attr(target_os = "freebsd", path = "jail/mod.rs")]
#[cfg_attr(target_os = "linux", path = "linux/mod.rs")]
mod host;
/// What of it is no system call is tested on every system.
#[cfg(all(test, not(target_os = "freebsd")))]
#[allow(dead_code)] // What uses it is compiled for FreeBSD only.
mod jail;
mod jail_options;
mod memory;
mod own;
mod rounds;
mod turns;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use envd::wire::Init;
use tokio_util::sync::CancellationToken;

use crate::{
    limits::{Limit, Limits},
    network::Filter,
    sandbox::SandboxId,
    template::Template,
};

pub use host::{
    Host, keep_cores_awake, racct_enabled, remove_whole, return_memory, shed_privileges, unlock,
};
pub use jail_options::JailOptions;
pub use memory::{available_memory, disk_free, disk_size, files_free};
pub use own::{OwnProcess, own_process};

/// The backend this program was built with: [`Backend::name`] of [`Host`].
pub const BUILT_IN: &str = if cfg!(target_os = "freebsd") { "jail" } else { "linux" };

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
    pub jail: JailOptions,
}

/// One sandbox to make.
#[derive(Clone, Debug)]
pub struct CellSpec {
    pub id: SandboxId,
    pub template: Arc<Template>,
    pub limits: Limits,
    pub network: NetworkMode,
    /// What of the network it may not reach, with [`NetworkMode::Nat`].
    pub filter: Filter,
    pub init: Init,
    pub layer: Layer,
}

/// The writable layer of a sandbox to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layer {
    /// There is none yet: nothing of the sandbox's is written over its template.
    #[default]
    Fresh,
    /// It is in the sandbox's directory, as its processes left it at their end. Whether it is whole
    /// is the caller's to know: it was flushed since, or the kernel that it was written under still
    /// runs ([`Backend::boot`]).
    Kept,
}

/// What [`Backend::copy_layer`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// The tree itself, in what was made for it: fit to be among a template's layers.
    pub root: PathBuf,
    /// By what means, for the log.
    pub by: &'static str,
    /// How long the sandbox stood still for it.
    pub stood_still: Duration,
    /// The copy is a root of its own; else it is to lie over the layers of the template that the
    /// sandbox was made from.
    pub whole: bool,
}

/// The kernel half of a living sandbox.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Cancelled when the sandbox's first process has ended, whoever ended it.
    pub ended: CancellationToken,
}

/// What the kernel says of why a sandbox's first process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was killed for want of memory.
    OutOfMemory,
    /// It was refused a process or thread.
    ProcessLimit,
}

/// What the kernel has counted for one sandbox, envd included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// When the CPU time was looked at.
    pub at: Instant,
    /// Since it was made, of all its processes, those that have ended too.
    pub cpu: Duration,
    /// Percent of one core, as the kernel averages it; `None` where it has no such figure (Linux).
    pub cpu_percent: Option<f64>,
    pub memory_bytes: u64,
    /// What of that is a copy of what is on the disk, and is given up for something better; 0
    /// where the system does not tell (FreeBSD).
    pub cache_bytes: u64,
    /// What its writable layer takes. Exact to some seconds where the file system counts it; else
    /// measured in the background and older, `None` until then.
    pub disk_bytes: Option<u64>,
    /// As [`Limits::processes`] counts them: with their threads on Linux.
    pub processes: u64,
    /// What has gone over its link; `None` where it has none.
    pub network: Option<Traffic>,
    /// What its processes had of the disk with the data directory; `None` where nothing counts it.
    pub block: Option<BlockIo>,
}

impl Usage {
    /// Of one without processes.
    pub(crate) fn none() -> Self {
        Self {
            at: Instant::now(),
            cpu: Duration::ZERO,
            cpu_percent: None,
            memory_bytes: 0,
            cache_bytes: 0,
            disk_bytes: None,
            processes: 0,
            network: None,
            block: None,
        }
    }
}

/// Bytes over a sandbox's link to the host, headers included, since it was made or booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub received: u64,
    pub sent: u64,
}

/// Bytes that a disk was asked for. What is read from memory is not among them, and what is written
/// into it counts once it goes to the disk: on Linux with cgroup v1 not at all, unless past the
/// cache. On FreeBSD they are added up from rates (racct(4)), so near and not exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockIo {
    pub read: u64,
    pub written: u64,
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
    /// By whoever asked for it.
    #[error("{0} was broken off")]
    BrokenOff(&'static str),
    /// What a sandbox made of its files.
    #[error("the files cannot be copied: {0}")]
    Unfit(String),
    /// This backend has it not, whatever the host is like.
    #[error("{0} not there with this backend")]
    NotYet(&'static str),
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

    /// Ends every process of a sandbox and removes all it had in the kernel, as [`Self::destroy`]
    /// does, but for its writable layer, which is then there for [`Layer::Kept`]. Fails before it
    /// has done anything where that is not to be had, or where something of the layer is known to
    /// be lost.
    async fn shut_down(&self, id: SandboxId) -> Result<(), Error>;

    /// Writes the writable layer of a sandbox to the disk; of one that stands still or has no
    /// processes. From then on it is whole after whatever becomes of the host. Takes as long as the
    /// disk does, which may have others' data to write first; where that is so, many who wait at
    /// the same time are served by one such write.
    async fn flush(&self, id: SandboxId) -> Result<(), Error>;

    /// Copies the writable layer of a running sandbox, as it is at one instant, into `to`,
    /// which is not there: see [`Copied::root`]. The sandbox stands still for that instant, and runs
    /// again when this returns. Neither memory nor processes are copied, nor what is mounted in it.
    /// Nobody else may freeze or thaw it meanwhile; an end cuts in. When `stop` is cancelled it
    /// fails soon. What is then left at `to` is the caller's to delete, which may take long.
    async fn copy_layer(
        &self,
        from: SandboxId,
        to: &Path,
        stop: CancellationToken,
    ) -> Result<Copied, Error>;

    /// Writes a copy that [`Self::copy_layer`] made to the disk, as [`Self::flush`] does a layer.
    async fn flush_copy(&self, copy: &Path) -> Result<(), Error>;

    /// Lets go of what a copy is beyond files in a directory (a dataset, a subvolume), when nothing
    /// needs it any more; what is left then is the caller's to delete. One that is not there is a
    /// success.
    async fn release_copy(&self, copy: &Path) -> Result<(), Error>;

    /// What tells this run of the host's kernel from every other: a layer that was written under
    /// it is whole though nobody flushed it. `None` where nothing does.
    fn boot(&self) -> Option<String>;

    /// Finds a sandbox that lived through a restart of the gateway; `None` when its first process
    /// is gone.
    async fn adopt(&self, id: SandboxId) -> Result<Option<Cell>, Error>;

    /// Has a living sandbox reach what the filter leaves open, and nothing else, from one instant
    /// to the next: whatever it sends after that, on connections of before too, is judged anew.
    /// Makes it a link, of those limits, where it has none and something is open. On error it may
    /// reach what it could before.
    async fn set_network(
        &self,
        id: SandboxId,
        filter: &Filter,
        limits: Limits,
    ) -> Result<(), Error>;

    /// Why the first process of a sandbox ended, as far as the kernel has taken note of it; to be
    /// asked before `destroy`.
    async fn cause(&self, _id: SandboxId) -> Result<Option<Cause>, Error> {
        Ok(None)
    }

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

    /// What the policies of sandboxes have refused: packets, questions of names, connections by
    /// them. Of all sandboxes of the host, since whenever; 0 where nothing counts it (FreeBSD).
    async fn refused(&self) -> Result<u64, Error> {
        Ok(0)
    }

    /// Memory (bytes) a sandbox has at present, all of its processes together.
    async fn memory_used(&self, id: SandboxId) -> Result<u64, Error>;

    /// The sandboxes of this data directory that have anything left in the kernel.
    async fn list(&self) -> Result<Vec<SandboxId>, Error>;

    /// Undoes `prepare`, when no sandbox of any gateway on this host is left.
    async fn retire(&self) -> Result<(), Error>;

    /// Whether anything here enforces that limit.
    fn enforces(&self, limit: Limit) -> bool;

    /// Looks the host over for `planned` sandboxes at once; changes nothing.
    fn probe(&self, planned: usize) -> Vec<Check>;
}
