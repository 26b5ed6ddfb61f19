//! Linux: user, mount, pid, net, uts, ipc and cgroup namespaces around an overlay.
//!
//! A sandbox is its cgroups (what lives), its slot (uid range, address, link) and the sockets in
//! its directory. Nothing is kept in memory but a shortcut from id to slot; no program is started
//! when a sandbox is made or ended.

mod allocator;
mod block;
mod btrfs;
mod cause;
mod cell;
mod cgroup;
mod cgroup_limits;
mod cgroup_plan;
mod copy;
mod cores;
mod detours;
mod devices;
mod disk;
mod fence;
pub(super) mod files;
mod flushing;
mod forwarding;
mod freezer;
mod guard;
mod idmap;
mod joining;
mod layer;
#[cfg(test)]
mod loop_file;
mod mountinfo;
mod net;
mod net_late;
mod net_stats;
mod netfilter;
mod nft;
mod places;
mod privileges;
mod probe;
mod process;
mod resolver;
mod ruleset;
mod shaping;
mod slot;
mod spawner;
mod spreading;
mod upper;
mod usage;
mod walk;
mod web;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use envd::walls::{self, Wall};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::prctl::set_dumpable,
    unistd::Pid,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::{
    cgroup::Cgroups,
    disk::Disk,
    error::{Call, blocking},
    fence::Fences,
    flushing::Flushing,
    guard::Guard,
    slot::{Owner, Slot, Slots},
    spawner::Spawner,
};
use super::{
    Backend, Cause, Cell, CellSpec, Check, Copied, Error, Layer, NetworkMode, Settings, Usage,
    call as error, copy::UPPER, cpus::Cpus, fresh, turns::Turns,
};
use crate::{
    limits::{Limit, Limits},
    network::Filter,
    sandbox::SandboxId,
};
pub use allocator::return_memory;
pub use cores::keep_cores_awake;
pub use privileges::shed_privileges;
pub use usage::racct_enabled;

/// For all processes of a sandbox to end and its cgroups to be free.
const DYING: Duration = Duration::from_secs(5);

/// Sandboxes made at once on a host with few CPUs: more than those, as some wait for the disk.
const LEAST_AT_ONCE: usize = 16;

/// Whether what kept a file of a sandbox's from being removed was taken off: no user can put
/// anything of that kind on a file.
pub fn unlock(_path: &Path) -> bool {
    false
}

/// Whether the directory `path` was a file system of its own, so to speak, which is gone now with
/// all that was in it.
pub fn remove_whole(path: &Path) -> bool {
    disk::remove_whole(path)
}

/// This host.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    settings: Settings,
    cgroups: Cgroups,
    spawner: Spawner,
    slots: Slots,
    turns: Turns,
    flushing: Flushing,
    /// Those being made at once; more would only wait for each other, and all be late.
    making: Semaphore,
    /// From `prepare` to `retire`.
    guard: Mutex<Option<Guard>>,
    taken: Mutex<HashMap<SandboxId, Slot>>,
    fences: Arc<Fences>,
    /// From `prepare` on.
    detours: Mutex<Option<detours::Open>>,
    cpus: Cpus,
    /// Read anew by `prepare`.
    disk: RwLock<Arc<Disk>>,
    usage: Mutex<usage::Kept>,
}

impl Host {
    /// # Errors
    /// When the host lacks what no sandbox can be without; [`Backend::probe`] tells more.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let cpus = Cpus::new(host_cpus()?);
        Ok(Self(Arc::new(Inner {
            cgroups: Cgroups::detect(&settings.data_dir)?,
            spawner: Spawner::new()?,
            slots: Slots::new(),
            turns: Turns::default(),
            flushing: Flushing::default(),
            making: Semaphore::new((2 * cpus.count()).max(LEAST_AT_ONCE)),
            guard: Mutex::default(),
            taken: Mutex::default(),
            fences: Arc::default(),
            detours: Mutex::default(),
            cpus,
            usage: Mutex::default(),
            disk: RwLock::new(Arc::new(Disk::unknown(&settings.data_dir))),
            settings,
        })))
    }
}

#[async_trait]
impl Backend for Host {
    fn name(&self) -> &'static str {
        "linux"
    }

    async fn prepare(&self) -> Result<(), Error> {
        let inner = &self.0;
        // We hold keys, and the memory of a process that may not be dumped is nobody else's.
        set_dumpable(false).call("set", "PR_SET_DUMPABLE")?;
        inner.spawner.start()?;
        inner.cgroups.prepare()?;
        *inner.disk.write() = Arc::new(Disk::prepare(&inner.settings.data_dir)?);
        spreading::turn_on(&inner.settings.data_dir.join("sandboxes"));
        inner.slots.prepare(inner.cgroups.parent())?;
        forwarding::turn_on()?;
        joining::turn_on()?;
        inner.stop_guard().await;
        nft::load(&inner.settings.dns, &inner.fences).await?;
        for (slot, owner) in inner.slots.list() {
            let ours = owner.data_dir == inner.settings.data_dir;
            let cgroups = inner.cgroups.of(&owner.data_dir);
            if cgroups.exists(owner.id) {
                if ours {
                    inner.taken.lock().insert(owner.id, slot);
                }
            } else if ours || !owner.data_dir.exists() {
                net::remove(slot)?;
                inner.slots.free(slot)?;
            }
        }
        let ours: HashSet<_> = inner.taken.lock().values().map(|slot| slot.address()).collect();
        let all: HashSet<_> = inner.slots.list().iter().map(|(slot, _)| slot.address()).collect();
        if inner.fences.detours().is_none() {
            *inner.detours.lock() = Some(detours::open(&inner.fences, &inner.settings.dns)?);
        }
        inner.fences.take_up(|it| ours.contains(&it), |it| all.contains(&it)).await?;
        let guard = Guard::start(inner.settings.dns.clone(), inner.fences.clone());
        *inner.guard.lock() = Some(guard);
        Ok(())
    }

    /// Goes on to its end when the caller goes away, and is then undone.
    async fn create(&self, spec: CellSpec) -> Result<Cell, Error> {
        let inner = Arc::clone(&self.0);
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let id = spec.id;
            let _place = inner.making.acquire().await;
            let made = inner.turns.take(id, inner.make(spec)).await;
            if let Err(Ok(_)) = tell.send(made) {
                inner.turns.take(id, inner.end_or_log(id)).await;
            }
        });
        told.await.map_err(std::io::Error::other).call("make", "sandbox")?
    }

    async fn stop(&self, id: SandboxId) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        self.0.turns.take(id, blocking(move || inner.end_processes(id).map(drop))).await
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), Error> {
        self.0.turns.take(id, self.0.end(id)).await
    }

    async fn shut_down(&self, id: SandboxId) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        let end = async {
            let checked = Arc::clone(&inner);
            blocking(move || checked.nothing_is_lost(id)).await?;
            inner.end(id).await
        };
        self.0.turns.take(id, end).await
    }

    async fn flush(&self, id: SandboxId) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        inner.flushing.flush(inner.directory(id).join(cell::LAYER).join(UPPER)).await?;
        blocking(move || inner.nothing_is_lost(id)).await
    }

    async fn copy_layer(
        &self,
        from: SandboxId,
        to: &Path,
        stop: CancellationToken,
    ) -> Result<Copied, Error> {
        let freezer = self.0.cgroups.freezer(from)?;
        let layer = self.0.directory(from).join(cell::LAYER);
        let to = to.to_owned();
        blocking(move || copy::copy(&layer, &to, &freezer, stop)).await
    }

    async fn flush_copy(&self, copy: &Path) -> Result<(), Error> {
        self.0.flushing.flush(copy.to_owned()).await
    }

    async fn release_copy(&self, _copy: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn boot(&self) -> Option<String> {
        layer::boot()
    }

    async fn adopt(&self, id: SandboxId) -> Result<Option<Cell>, Error> {
        let first = process::first_of(|| self.0.cgroups.envd_processes(id));
        first.call("look for the first process of", id)?.map(|pidfd| watch(id, pidfd)).transpose()
    }

    async fn cause(&self, id: SandboxId) -> Result<Option<Cause>, Error> {
        self.0.cgroups.cause(id)
    }

    /// Waits for no turn: an end cuts in.
    async fn freeze(&self, id: SandboxId) -> Result<(), Error> {
        let freezer = self.0.cgroups.freezer(id)?;
        blocking(move || freezer.freeze()).await
    }

    async fn thaw(&self, id: SandboxId) -> Result<(), Error> {
        let freezer = self.0.cgroups.freezer(id)?;
        blocking(move || freezer.thaw()).await
    }

    async fn frozen(&self, id: SandboxId) -> Result<bool, Error> {
        match self.0.cgroups.freezer(id) {
            Ok(freezer) => freezer.frozen(),
            // Where none can be, this one is not.
            Err(_) => Ok(false),
        }
    }

    async fn set_network(
        &self,
        id: SandboxId,
        filter: &Filter,
        limits: Limits,
    ) -> Result<(), Error> {
        let (inner, filter) = (Arc::clone(&self.0), filter.clone());
        let set = blocking(move || inner.fence(id, &filter, &limits));
        self.0.turns.take(id, set).await
    }

    async fn usage(&self) -> Result<BTreeMap<SandboxId, Usage>, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let disk = inner.disk.read().clone();
            let mut all = usage::sweep(&inner.cgroups, &disk, &inner.usage);
            inner.add_traffic(&mut all);
            Ok(all)
        })
        .await
    }

    async fn refused(&self) -> Result<u64, Error> {
        self.0.fences.refused().call("read the counter", nft::REFUSALS)
    }

    async fn memory_used(&self, id: SandboxId) -> Result<u64, Error> {
        self.0.cgroups.memory_used(id)
    }

    async fn list(&self) -> Result<Vec<SandboxId>, Error> {
        let mut ids = self.0.cgroups.list();
        let slots = self.0.slots.list().into_iter();
        ids.extend(slots.filter_map(|(_, owner)| {
            (owner.data_dir == self.0.settings.data_dir).then_some(owner.id)
        }));
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    async fn retire(&self) -> Result<(), Error> {
        self.0.spawner.stop();
        self.0.cgroups.retire()?;
        // Before the rules are unloaded, or it would load them again.
        self.0.stop_guard().await;
        if !self.0.slots.retire(self.0.cgroups.parent()) {
            return Ok(());
        }
        nft::unload().await?;
        joining::restore()?;
        forwarding::restore()?;
        match std::fs::remove_dir(slot::RUN) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).call("rmdir", slot::RUN)
            }
            _ => Ok(()),
        }
    }

    fn enforces(&self, limit: Limit) -> bool {
        match limit {
            Limit::Disk => self.0.disk.read().bounds(&self.0.settings.data_dir),
            Limit::NetIn | Limit::NetOut => shaping::is_there(),
            Limit::DiskRead => self.0.cgroups.bounds_disk().0,
            Limit::DiskWrite => self.0.cgroups.bounds_disk().1,
            _ => true,
        }
    }

    fn probe(&self, planned: usize) -> Vec<Check> {
        probe::all(&self.0.settings, self.0.cgroups.plan(), planned)
    }
}

impl Inner {
    async fn stop_guard(&self) {
        let guard = self.guard.lock().take();
        if let Some(guard) = guard {
            guard.stop().await;
        }
    }

    async fn make(self: &Arc<Self>, spec: CellSpec) -> Result<Cell, Error> {
        let id = spec.id;
        if !spec.network.is_there() {
            return Err(Error::Unsupported("on Linux a sandbox's network is nat or none".into()));
        }
        if self.cgroups.exists(id) || self.taken.lock().contains_key(&id) {
            return Err(Error::Unsupported(format!("sandbox {id} is there already")));
        }
        let made = self.try_make(spec).await;
        if made.is_err() {
            self.end_or_log(id).await;
        }
        made
    }

    async fn try_make(self: &Arc<Self>, spec: CellSpec) -> Result<Cell, Error> {
        let id = spec.id;
        let inner = Arc::clone(self);
        let pidfd = blocking(move || inner.make_cell(spec)).await?;
        watch(id, pidfd)
    }

    /// Returns its first process when envd serves. Blocks.
    fn make_cell(&self, spec: CellSpec) -> Result<OwnedFd, Error> {
        let id = spec.id;
        let owner = Owner { id, data_dir: self.settings.data_dir.clone() };
        let slot = self.slots.take(&owner)?;
        self.taken.lock().insert(id, slot);
        let directory = self.directory(id);
        let own = !walls::is_down(Wall::Layer);
        let layer =
            if own { directory.join(cell::LAYER) } else { self.settings.data_dir.join("shared") };
        let disk = self.disk.read().clone();
        match spec.layer {
            Layer::Fresh if !own && layer.exists() => layer::take_up(&layer)?,
            Layer::Fresh => upper::make(&disk, &layer, &spec, &self.settings.dns)?,
            Layer::Kept => {
                layer::take_up(&layer)?;
                // A copy has the files of another's layer, and not its bound.
                disk.limit(&layer, spec.limits.disk_bytes)?;
            }
        }
        let staged = cell::stage(&self.cgroups, &self.spawner, directory, &layer, &spec, slot)?;
        if spec.network == NetworkMode::Nat {
            // Before there is a link.
            self.fences.set(slot.address(), &spec.filter)?;
        }
        let cpus = self.cpus.choose(spec.limits.cpus);
        let attach = cell::attach(&spec, cpus, slot);
        cell::start(staged, spec, attach, slot)
    }

    /// Ends whatever there is of a sandbox.
    async fn end(self: &Arc<Self>, id: SandboxId) -> Result<(), Error> {
        let slot = self.slot_of(id);
        let inner = Arc::clone(self);
        let removed = blocking(move || {
            let deadline = inner.end_processes(id)?;
            inner.cgroups.remove(id, deadline)?;
            fresh::remove_sockets(&inner.directory(id))
        });
        removed.await?;
        if let Some(slot) = slot {
            net::gone(slot).await?;
            let inner = Arc::clone(self);
            blocking(move || inner.fences.set(slot.address(), &Filter::default())).await?;
        }
        // Last: from here on the uid range and the address may be another's.
        if let Some(slot) = slot {
            self.slots.free(slot)?;
            self.taken.lock().remove(&id);
        }
        Ok(())
    }

    /// Of a sandbox that is there. Blocks.
    fn fence(&self, id: SandboxId, filter: &Filter, limits: &Limits) -> Result<(), Error> {
        let slot = self.slot_of(id);
        let slot = slot.ok_or_else(|| Error::Unsupported(format!("sandbox {id} has no slot")))?;
        self.fences.set(slot.address(), filter)?;
        if net::exists(slot) || filter.is_closed() {
            return Ok(());
        }
        let first = process::first_of(|| self.cgroups.envd_processes(id));
        let first = first.call("look for the first process of", id)?;
        let gone = || Error::Unsupported(format!("sandbox {id} has no processes"));
        net_late::link(slot, &first.ok_or_else(gone)?, limits)
    }

    /// Of a sandbox whose processes are there. Blocks.
    fn nothing_is_lost(&self, id: SandboxId) -> Result<(), Error> {
        let first = process::first_of(|| self.cgroups.envd_processes(id));
        match first.call("look for the first process of", id)? {
            Some(first) => layer::nothing_is_lost(&first, id),
            None => Ok(()),
        }
    }

    /// When it returns nothing of the sandbox runs. Blocks.
    fn end_processes(&self, id: SandboxId) -> Result<Instant, Error> {
        let deadline = Instant::now() + DYING;
        if !self.cgroups.exists(id) {
            return Ok(deadline);
        }
        let mut pause = Duration::from_micros(200);
        loop {
            let first = process::first_of(|| self.cgroups.envd_processes(id));
            let killed = self.cgroups.kill(id);
            if let Some(first) = first.call("look for the first process of", id)? {
                process::kill(&first);
                // Linux: it outlives all else in its pid namespace.
                if process::wait(&first, deadline) {
                    return Ok(deadline);
                }
            } else if !self.cgroups.is_populated(id).call("look for processes of", id)? {
                return Ok(deadline);
            }
            killed.call("kill", id)?;
            if Instant::now() >= deadline {
                return Err(Error::Timeout("the end of a sandbox's processes", DYING));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    async fn end_or_log(self: &Arc<Self>, id: SandboxId) {
        if let Err(error) = self.end(id).await {
            error!(sandbox = %id, %error, "could not undo the making of a sandbox");
        }
    }

    fn slot_of(&self, id: SandboxId) -> Option<Slot> {
        let known = self.taken.lock().get(&id).copied();
        known.or_else(|| {
            let mut slots = self.slots.list().into_iter();
            slots.find(|(_, owner)| owner.id == id).map(|(slot, _)| slot)
        })
    }

    /// What has gone over the links of those that have one. Blocks.
    fn add_traffic(&self, all: &mut BTreeMap<SandboxId, Usage>) {
        if all.is_empty() {
            return;
        }
        let links = match net_stats::links() {
            Ok(links) => links,
            Err(error) => return warn!(%error, "what goes over links cannot be told"),
        };
        let taken = self.taken.lock();
        for (id, usage) in all {
            usage.network = taken.get(id).and_then(|slot| links.get(slot)).copied();
        }
    }

    fn directory(&self, id: SandboxId) -> PathBuf {
        self.settings.data_dir.join("sandboxes").join(id.to_string())
    }
}

fn watch(id: SandboxId, pidfd: std::os::fd::OwnedFd) -> Result<Cell, Error> {
    let ended = CancellationToken::new();
    process::watch(pidfd, ended.clone()).call("watch", id)?;
    Ok(Cell { ended })
}

fn host_cpus() -> Result<Vec<u16>, Error> {
    let set = sched_getaffinity(Pid::from_raw(0)).call("sched_getaffinity", "gateway")?;
    let cpus = (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false));
    let cpus: Vec<u16> = cpus.filter_map(|cpu| u16::try_from(cpu).ok()).collect();
    if cpus.is_empty() {
        warn!("no cpu is allowed to the gateway");
    }
    Ok(cpus)
}

/// Ends a test early, saying why, where only root can pass it; that is a failure where CI is set.
#[cfg(test)]
macro_rules! require_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "namespaces and other users need root");
            return println!("skipped: namespaces and other users need root");
        }
    };
}
#[cfg(test)]
pub(super) use require_root;
