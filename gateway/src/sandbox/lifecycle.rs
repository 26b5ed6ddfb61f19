//! All a gateway does with sandboxes: what that needs, and what is asked of it. The making, the
//! pausing and the ending of them are in files of their own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{
    BatchId, Error, Inside, Owner, PoolRules, Quota, Registry, Sandbox, SandboxId, Tenant,
    batches::Batches,
    copy_turns::CopyTurns,
    deadlines::Deadlines,
    ended::Ended,
    flushing::Flushes,
    making::turns,
    pool::{Pool, Shape},
    rates::Rates,
    repeats::Repeats,
    snapshots::Snapshots,
    trash::Trash,
};
use crate::{
    backend::{Backend, NetworkMode},
    events::{Events, Tariff},
    limits::{self, Bounds, Limit, Limits},
    logging::Tasks,
    metrics::Metrics,
    network::{Ingress, NetworkPolicy},
    template::{FindError, Template},
};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub owner: Owner,
    pub template: String,
    pub timeout: Duration,
    /// What it may reach.
    pub policy: NetworkPolicy,
    /// Who may reach it.
    pub ingress: Ingress,
    pub metadata: BTreeMap<String, String>,
    /// What it may use at most, as far as it says.
    pub limits: Bounds,
    pub env_vars: BTreeMap<String, String>,
    /// To be paused at its deadline rather than ended.
    pub auto_pause: bool,
    /// A pause at its deadline keeps its files alone.
    pub auto_pause_filesystem: bool,
    /// To be woken, when it is paused, by whoever sends it something.
    pub auto_resume: bool,
    /// To be one of that.
    pub batch: Option<BatchId>,
}

/// What the operator allows.
#[derive(Clone, Debug)]
pub struct Rules {
    /// At once, from being made to being gone.
    pub max_sandboxes: usize,
    /// Memory (bytes) of the host that is left alone.
    pub memory_headroom: u64,
    /// What is kept free (bytes) of the data directory's file system when files are copied.
    pub disk_headroom: u64,
    /// Disk (bytes) of a sandbox whose template does not say.
    pub disk: Option<u64>,
    /// What each sandbox may use at most.
    pub limits: Bounds,
    /// The longest a sandbox may run without a pause, if there is such a thing.
    pub max_life: Option<Duration>,
    /// For sandboxes that do not say.
    pub network: NetworkMode,
    /// What is kept ready.
    pub pool: PoolRules,
    /// What sandboxes that are made from now on cost.
    pub tariff: Tariff,
    /// Between two events of what a sandbox uses (seconds); 0: there are none.
    pub resource_events: u32,
}

/// Which template a name means at present.
pub type FindTemplate = Box<dyn Fn(&str) -> Result<Arc<Template>, FindError> + Send + Sync>;

/// All a gateway does with sandboxes; cheap to clone.
#[derive(Clone)]
pub struct Sandboxes(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) registry: Arc<Registry>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) events: Events,
    /// `<data-dir>/sandboxes`.
    pub(super) home: PathBuf,
    pub(super) deadlines: Deadlines,
    pub(super) ended: Ended,
    pub(super) trash: Trash,
    pub(super) find_template: FindTemplate,
    pub(super) inside: Box<dyn Inside>,
    pub(super) rules: Rules,
    pub(super) pool: Pool,
    pub(super) batches: Batches,
    pub(super) repeats: Arc<Repeats>,
    pub(super) rates: Rates,
    pub(super) flushes: Flushes,
    pub(super) snapshots: Arc<Snapshots>,
    pub(super) copies: CopyTurns,
    /// The run of the host's kernel.
    pub(super) boot: Option<String>,
    /// Turns to be made: more at once only get into each other's way in the kernel.
    pub(super) making: Semaphore,
    /// Transitions and record writes under way.
    pub(super) tasks: Tasks,
    pub(super) stopping: AtomicBool,
}

impl Sandboxes {
    /// Sandboxes under `data_dir`, whose `sandboxes/` and `trash/` exist. Nothing of before is
    /// there until [`Self::adopt_all`].
    pub fn new(
        data_dir: &Path,
        backend: Arc<dyn Backend>,
        rules: Rules,
        find_template: FindTemplate,
        inside: Box<dyn Inside>,
    ) -> Self {
        let pool = Pool::new(data_dir.join("pools"), &rules.pool.sizes);
        Self(Arc::new(Shared {
            registry: Arc::new(Registry::default()),
            boot: backend.boot(),
            backend,
            metrics: Arc::default(),
            events: Events::default(),
            home: data_dir.join("sandboxes"),
            deadlines: Deadlines::default(),
            ended: Ended::default(),
            trash: Trash::new(data_dir.join("trash")),
            find_template,
            inside,
            rules,
            pool,
            batches: Batches::new(data_dir.join("batches")),
            repeats: Arc::default(),
            rates: Rates::default(),
            flushes: Flushes::default(),
            snapshots: Arc::new(Snapshots::new(data_dir.join("snapshots"))),
            copies: CopyTurns::default(),
            making: turns(),
            tasks: Tasks::default(),
            stopping: AtomicBool::new(false),
        }))
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }

    /// So many there may be at once.
    pub fn most(&self) -> usize {
        self.0.rules.max_sandboxes
    }

    /// What happens to them is counted there.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// What happens to them is told there.
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    pub fn running(&self, id: SandboxId) -> Result<Arc<Sandbox>, Error> {
        self.0.registry.running(id).ok_or(Error::NotFound(id))
    }

    /// Running or paused.
    pub fn present(&self, id: SandboxId) -> Result<Arc<Sandbox>, Error> {
        self.0.registry.present(id).ok_or(Error::NotFound(id))
    }

    /// What a sandbox of that template would be made from now, for that tenant.
    pub fn template(&self, tenant: &Tenant, name: &str) -> Result<Arc<Template>, Error> {
        let found = (self.0.find_template)(name).or_else(|why| match why {
            FindError::Unknown => self.0.snapshots.template(tenant, name).ok_or(why),
            _ => Err(why),
        });
        found.map_err(|source| Error::Template { name: name.to_owned(), source })
    }

    /// Of a sandbox of that template.
    pub fn limits(&self, template: &Template) -> Limits {
        let disk_bytes = template.limits.disk_bytes.or(self.0.rules.disk);
        self.0.rules.limits.bound(Limits { disk_bytes, ..template.limits })
    }

    pub(super) fn shape(
        &self,
        template: Arc<Template>,
        policy: &NetworkPolicy,
        asked: &Bounds,
        quota: &Quota,
    ) -> Result<Shape, Error> {
        let unheld = |limit: &Limit| !self.0.backend.enforces(*limit);
        if let Some(limit) = asked.said().find(unheld) {
            return Err(Error::NoSuchLimit(limit));
        }
        Ok(Shape {
            limits: limits::resolve(self.limits(&template), asked, &quota.limits)?,
            template,
            network: policy.mode(self.0.rules.network),
        })
    }
}
