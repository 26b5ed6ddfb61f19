//! A backend without a kernel, for the paths of an error and for the protocol's shapes.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::Utc;
use envd::wire::Init;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    Facts, Inside, NotRun, Owner, PoolRules, Ran, Reason, Rules, Sandbox, SandboxId, Sandboxes,
    Task, Tenant, Wanted, life::Moment,
};
use crate::{
    backend::{Backend, Cause, Cell, CellSpec, Check, Copied, Error, NetworkMode, Usage},
    events::Tariff,
    limits::{Bounds, Limit, Limits},
    network::{Filter, Ingress, NetworkPolicy},
    template::{FindError, Template},
};

#[derive(Default)]
pub(crate) struct TestBackend {
    pub(crate) cells: Mutex<HashMap<SandboxId, CancellationToken>>,
    pub(crate) specs: Mutex<Vec<CellSpec>>,
    frozen: Mutex<HashSet<SandboxId>>,
    /// So many of the next calls fail.
    pub(crate) failing_creates: AtomicUsize,
    pub(crate) failing_stops: AtomicUsize,
    pub(crate) failing_destroys: AtomicUsize,
    /// And so many creates are not over in time.
    pub(crate) late_creates: AtomicUsize,
    pub(crate) failing_freezes: AtomicUsize,
    pub(crate) failing_thaws: AtomicUsize,
    pub(crate) late_freezes: AtomicUsize,
    pub(crate) late_thaws: AtomicUsize,
    pub(crate) failing_adopts: AtomicUsize,
    pub(crate) failing_shut_downs: AtomicUsize,
    pub(crate) failing_flushes: AtomicUsize,
    pub(crate) failing_copies: AtomicUsize,
    pub(crate) late_copies: AtomicUsize,
    /// So many creates find no room, and so many creates or copies none on the disk.
    pub(crate) full_creates: AtomicUsize,
    pub(crate) full_disks: AtomicUsize,
    pub(crate) failing_networks: AtomicUsize,
    pub(crate) late_networks: AtomicUsize,
    /// What sandboxes were kept from, in order.
    pub(crate) networks: Mutex<Vec<(SandboxId, Filter)>>,
    /// No envd answers.
    pub(crate) mute: AtomicBool,
    /// Whose layers were flushed, in order.
    pub(crate) flushed: Mutex<Vec<SandboxId>>,
    pub(crate) copy_takes: Mutex<Duration>,
    /// Another after a reboot of the host.
    pub(crate) boot: Mutex<String>,
    pub(crate) copies_stand_still: Mutex<Duration>,
    pub(crate) freeze_takes: Mutex<Duration>,
    pub(crate) create_takes: Mutex<Duration>,
    /// Of every end of a first process.
    pub(crate) cause: Mutex<Option<Cause>>,
    /// Creates under way, and the most there ever were.
    creating: AtomicUsize,
    pub(crate) most_creating: AtomicUsize,
    /// Bytes, of each.
    pub(crate) memory_used: AtomicUsize,
    pub(crate) warmed: AtomicUsize,
    pub(crate) warming_takes: Mutex<Duration>,
    /// What sandboxes of the pool were told, in order.
    pub(crate) begun: Mutex<Vec<(PathBuf, Init)>>,
    /// What was run in sandboxes, in order, and whether it was only looked for.
    pub(crate) tasks: Mutex<Vec<(Task, bool)>>,
    pub(crate) task_takes: Mutex<Duration>,
    /// So many of the next are not told.
    pub(crate) failing_begins: AtomicUsize,
    /// Told of what begins, before it does, and of what ends, after it did.
    pub(crate) watched: Mutex<Option<Watcher>>,
}

type Watcher = Box<dyn Fn(&'static str, SandboxId) + Send>;

impl TestBackend {
    pub(crate) fn is_frozen(&self, id: SandboxId) -> bool {
        self.frozen.lock().contains(&id)
    }

    pub(crate) fn freeze_quietly(&self, id: SandboxId) {
        self.frozen.lock().insert(id);
    }

    pub(crate) fn thaw_quietly(&self, id: SandboxId) {
        self.frozen.lock().remove(&id);
    }

    /// Nothing of it is left in the kernel.
    fn end_quietly(&self, id: SandboxId) {
        if let Some(ended) = self.cells.lock().remove(&id) {
            ended.cancel();
        }
        self.frozen.lock().remove(&id);
    }

    fn tell(&self, what: &'static str, id: SandboxId) {
        if let Some(watched) = &*self.watched.lock() {
            watched(what, id);
        }
    }

    /// What the kernel does when a sandbox's first process dies.
    pub(crate) fn end_cell(&self, id: SandboxId) {
        self.cells.lock()[&id].cancel();
    }
}

fn fails(calls: &AtomicUsize) -> Result<(), Error> {
    let left = calls.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    match left {
        Ok(_) => Err(Error::Call {
            call: "clone3",
            target: "secret path".into(),
            source: std::io::ErrorKind::WouldBlock.into(),
        }),
        Err(_) => Ok(()),
    }
}

fn full_disk(calls: &AtomicUsize) -> Result<(), Error> {
    fails(calls).map_err(|_| Error::Call {
        call: "write",
        target: "layer".into(),
        source: io::ErrorKind::StorageFull.into(),
    })
}

fn late(calls: &AtomicUsize) -> Result<(), Error> {
    fails(calls).map_err(|_| Error::Timeout("what was asked for", Duration::from_secs(1)))
}

#[async_trait]
impl Backend for TestBackend {
    fn name(&self) -> &'static str {
        "test"
    }

    async fn prepare(&self) -> Result<(), Error> {
        Ok(())
    }

    async fn create(&self, spec: CellSpec) -> Result<Cell, Error> {
        let takes = *self.create_takes.lock();
        let creating = self.creating.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_creating.fetch_max(creating, Ordering::SeqCst);
        tokio::time::sleep(takes).await;
        self.creating.fetch_sub(1, Ordering::SeqCst);
        fails(&self.failing_creates)?;
        late(&self.late_creates)?;
        fails(&self.full_creates).map_err(|_| Error::Full("taken".into()))?;
        full_disk(&self.full_disks)?;
        self.tell("create", spec.id);
        let ended = CancellationToken::new();
        self.cells.lock().insert(spec.id, ended.clone());
        self.specs.lock().push(spec);
        Ok(Cell { ended })
    }

    async fn stop(&self, id: SandboxId) -> Result<(), Error> {
        self.tell("stop", id);
        fails(&self.failing_stops)
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), Error> {
        fails(&self.failing_destroys)?;
        self.cells.lock().remove(&id);
        self.frozen.lock().remove(&id);
        Ok(())
    }

    async fn shut_down(&self, id: SandboxId) -> Result<(), Error> {
        fails(&self.failing_shut_downs)?;
        self.end_quietly(id);
        Ok(())
    }

    async fn flush(&self, id: SandboxId) -> Result<(), Error> {
        fails(&self.failing_flushes)?;
        self.flushed.lock().push(id);
        Ok(())
    }

    async fn copy_layer(
        &self,
        from: SandboxId,
        to: &Path,
        stop: CancellationToken,
    ) -> Result<Copied, Error> {
        let takes = *self.copy_takes.lock();
        if stop.run_until_cancelled(tokio::time::sleep(takes)).await.is_none() {
            return Err(Error::BrokenOff("the copy"));
        }
        fails(&self.failing_copies)?;
        late(&self.late_copies)?;
        full_disk(&self.full_disks)?;
        std::fs::create_dir(to)
            .and_then(|()| std::fs::write(to.join("from"), from.to_string()))
            .map_err(|source| Error::Call { call: "mkdir", target: "copy".into(), source })?;
        let root = to.to_owned();
        let stood_still = *self.copies_stand_still.lock();
        Ok(Copied { root, by: "test", stood_still, whole: false })
    }

    async fn flush_copy(&self, _copy: &Path) -> Result<(), Error> {
        fails(&self.failing_flushes)
    }

    async fn release_copy(&self, _copy: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn boot(&self) -> Option<String> {
        Some(self.boot.lock().clone())
    }

    async fn adopt(&self, id: SandboxId) -> Result<Option<Cell>, Error> {
        fails(&self.failing_adopts)?;
        let ended = self.cells.lock().get(&id).cloned();
        Ok(ended.filter(|e| !e.is_cancelled()).map(|ended| Cell { ended }))
    }

    async fn set_network(
        &self,
        id: SandboxId,
        filter: &Filter,
        _limits: Limits,
    ) -> Result<(), Error> {
        fails(&self.failing_networks)?;
        late(&self.late_networks)?;
        self.networks.lock().push((id, filter.clone()));
        Ok(())
    }

    async fn cause(&self, _id: SandboxId) -> Result<Option<Cause>, Error> {
        Ok(*self.cause.lock())
    }

    async fn freeze(&self, id: SandboxId) -> Result<(), Error> {
        let takes = *self.freeze_takes.lock();
        tokio::time::sleep(takes).await;
        fails(&self.failing_freezes)?;
        late(&self.late_freezes)?;
        self.freeze_quietly(id);
        Ok(())
    }

    async fn thaw(&self, id: SandboxId) -> Result<(), Error> {
        fails(&self.failing_thaws)?;
        late(&self.late_thaws)?;
        self.tell("thaw", id);
        self.thaw_quietly(id);
        Ok(())
    }

    fn enforces(&self, limit: Limit) -> bool {
        limit != Limit::DiskRead
    }

    async fn frozen(&self, id: SandboxId) -> Result<bool, Error> {
        Ok(self.frozen.lock().contains(&id))
    }

    async fn usage(&self) -> Result<BTreeMap<SandboxId, Usage>, Error> {
        let usage = Usage {
            at: Instant::now(),
            cpu: Duration::ZERO,
            cpu_percent: None,
            memory_bytes: self.memory_used.load(Ordering::SeqCst) as u64,
            cache_bytes: 0,
            disk_bytes: None,
            processes: 1,
            network: None,
            block: None,
        };
        Ok(self.cells.lock().keys().map(|id| (*id, usage)).collect())
    }

    async fn memory_used(&self, _id: SandboxId) -> Result<u64, Error> {
        Ok(self.memory_used.load(Ordering::SeqCst) as u64)
    }

    async fn list(&self) -> Result<Vec<SandboxId>, Error> {
        Ok(self.cells.lock().keys().copied().collect())
    }

    async fn retire(&self) -> Result<(), Error> {
        Ok(())
    }

    fn probe(&self, _planned: usize) -> Vec<Check> {
        Vec::new()
    }
}

/// The envds of that backend's cells, which only listen.
struct Listening(Arc<TestBackend>);

pub(crate) fn inside(backend: &Arc<TestBackend>) -> Box<dyn Inside> {
    Box::new(Listening(backend.clone()))
}

#[async_trait]
impl Inside for Listening {
    fn follow(&self, _: Arc<Sandbox>, _: &Arc<crate::metrics::Metrics>, _: &crate::events::Events) {
    }

    async fn answers(&self, _dir: &Path) -> bool {
        !self.0.mute.load(Ordering::SeqCst)
    }

    async fn warm(&self, _dir: &Path) -> io::Result<()> {
        self.0.warmed.fetch_add(1, Ordering::SeqCst);
        let takes = *self.0.warming_takes.lock();
        tokio::time::sleep(takes).await;
        Err(io::Error::other("there is no kernel"))
    }

    async fn begin(&self, dir: &Path, init: &Init) -> io::Result<()> {
        fails(&self.0.failing_begins).map_err(io::Error::other)?;
        self.0.begun.lock().push((dir.to_owned(), init.clone()));
        Ok(())
    }

    async fn run(
        &self,
        _dir: &Path,
        _token: &str,
        task: &Task,
        again: bool,
    ) -> Result<Ran, NotRun> {
        let takes = *self.0.task_takes.lock();
        tokio::time::sleep(takes).await;
        self.0.tasks.lock().push((task.clone(), again));
        let exit_code = task.command.get(1).and_then(|code| code.parse().ok());
        match task.command[0].as_str() {
            "exit" => Ok(Ran { exit_code, said: "it said so".to_owned() }),
            "lost" if !again => Err(NotRun::Lost("a cut".to_owned())),
            "lost" => Err(NotRun::Gone),
            _ => Err(NotRun::Refused("no such program".to_owned())),
        }
    }
}

pub(crate) fn template() -> Template {
    Template {
        id: "base".into(),
        layers: vec![PathBuf::from("/layers/abc")],
        limits: Limits { cpus: 2, memory_bytes: 1 << 30, processes: 1024, ..Limits::default() },
        env: BTreeMap::from([("LANG".into(), "C.UTF-8".into())]),
        user: "user".into(),
        workdir: None,
        kernels: false,
    }
}

pub(crate) fn facts() -> Facts {
    Facts {
        id: SandboxId::random(),
        tenant: Tenant::default(),
        template: template(),
        limits: template().limits,
        network: NetworkMode::Nat,
        ingress: Ingress::default(),
        traffic_token: None,
        metadata: BTreeMap::from([("who".into(), "me".into())]),
        env_vars: BTreeMap::new(),
        started_at: Utc::now(),
        envd_token: "0".repeat(64),
        from_pool: false,
        pool: None,
        batch: None,
        auto_pause: false,
        auto_resume: false,
        auto_pause_filesystem: false,
        timeout: 60,
        tariff: Tariff::default(),
    }
}

/// As if it had been, for a client.
pub(crate) fn pause(sandbox: &Sandbox) {
    sandbox.life.make(|moment, now| moment.pause(Reason::User, now)).unwrap();
    sandbox.life.make(Moment::stand).unwrap();
}

pub(crate) fn sandbox_in(id: SandboxId, dir: &Path, envd_token: &str) -> Arc<Sandbox> {
    sandbox_of(template(), id, dir, envd_token)
}

pub(crate) fn sandbox_of(
    template: Template,
    id: SandboxId,
    dir: &Path,
    envd_token: &str,
) -> Arc<Sandbox> {
    let facts = Facts { id, template, envd_token: envd_token.to_owned(), ..facts() };
    let deadline = Utc::now() + chrono::Duration::hours(1);
    Arc::new(Sandbox::new(facts, dir.to_owned(), deadline))
}

pub(crate) fn wanted() -> Wanted {
    Wanted {
        owner: Owner::default(),
        template: "base".into(),
        timeout: Duration::from_secs(60),
        policy: NetworkPolicy::default(),
        ingress: Ingress::default(),
        metadata: BTreeMap::new(),
        limits: Bounds::default(),
        env_vars: BTreeMap::new(),
        auto_pause: false,
        auto_resume: false,
        auto_pause_filesystem: false,
        batch: None,
    }
}

pub(crate) fn rules() -> Rules {
    Rules {
        max_sandboxes: 10,
        memory_headroom: 0,
        disk_headroom: 0,
        disk: None,
        limits: Bounds::default(),
        max_life: Some(Duration::from_secs(24 * 3600)),
        network: NetworkMode::Nat,
        pool: PoolRules::default(),
        tariff: Tariff::default(),
        resource_events: 1,
    }
}

/// `base` is there, `building` is being built, `broken` could not be.
pub(crate) fn find_template(name: &str) -> Result<Arc<Template>, FindError> {
    match name {
        "base" => Ok(Arc::new(template())),
        "building" => Err(FindError::Building("unpacking, 40 %".into())),
        "broken" => Err(FindError::Failed("no space".into())),
        _ => Err(FindError::Unknown),
    }
}

/// A gateway's sandboxes, kept tidy.
pub(crate) struct Bed {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) backend: Arc<TestBackend>,
    pub(crate) sandboxes: Sandboxes,
}

pub(crate) fn bed(rules: Rules) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(TestBackend::default());
    let sandboxes = sandboxes(dir.path(), &backend, rules);
    let tidy = sandboxes.clone();
    tokio::spawn(async move { tidy.keep_tidy().await });
    Bed { dir, backend, sandboxes }
}

impl Bed {
    pub(crate) fn left(&self, name: &str) -> usize {
        std::fs::read_dir(self.dir.path().join(name)).unwrap().count()
    }

    pub(crate) async fn until_nothing_is_left(&self) {
        let nothing = || {
            self.left("sandboxes") == 0
                && self.left("trash") == 0
                && self.backend.cells.lock().is_empty()
        };
        tokio::time::timeout(Duration::from_secs(30), async {
            while !nothing() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("something is left");
    }
}

pub(crate) async fn until(what: impl Fn() -> bool) {
    let waited = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waited).await.expect("it never comes");
}

/// Sandboxes in `dir`, with nobody keeping them tidy.
pub(crate) fn sandboxes(dir: &Path, backend: &Arc<TestBackend>, rules: Rules) -> Sandboxes {
    for name in ["sandboxes", "trash"] {
        std::fs::create_dir_all(dir.join(name)).unwrap();
    }
    Sandboxes::new(dir, backend.clone(), rules, Box::new(find_template), inside(backend))
}
