//! Linux: user, mount, pid, net, uts, ipc and cgroup namespaces around an overlay.
//!
//! A sandbox is its cgroups (what lives), its slot (uid range, address, link) and the sockets in
//! its directory. Nothing is kept in memory but a shortcut from id to slot; no program is started
//! when a sandbox is made or ended.

mod allocator;
mod cell;
mod cgroup;
mod cgroup_plan;
mod forwarding;
mod freezer;
mod guard;
mod idmap;
mod joining;
mod mountinfo;
mod net;
mod nft;
mod probe;
mod process;
mod ruleset;
mod slot;
mod spawner;
mod spreading;
mod upper;
mod usage;

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use nix::{
    sched::{CpuSet, sched_getaffinity},
    sys::prctl::set_dumpable,
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use self::{
    cgroup::Cgroups,
    error::{Call, blocking},
    guard::Guard,
    slot::{Owner, Slot, Slots},
    spawner::Spawner,
};
use super::{
    Backend, Cell, CellSpec, Check, Error, Settings, Usage, call as error, cpus::Cpus, turns::Turns,
};
use crate::sandbox::SandboxId;
pub use allocator::return_memory;

/// For all processes of a sandbox to end and its cgroups to be free.
const DYING: Duration = Duration::from_secs(5);

/// Sandboxes made at once on a host with few CPUs: more than those, as some wait for the disk.
const LEAST_AT_ONCE: usize = 16;

/// Whether what kept a file of a sandbox's from being removed was taken off: no user can put
/// anything of that kind on a file.
pub fn unlock(_path: &Path) -> bool {
    false
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
    /// Those being made at once; more would only wait for each other, and all be late.
    making: Semaphore,
    /// From `prepare` to `retire`.
    guard: Mutex<Option<Guard>>,
    taken: Mutex<HashMap<SandboxId, Slot>>,
    cpus: Cpus,
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
            making: Semaphore::new((2 * cpus.count()).max(LEAST_AT_ONCE)),
            guard: Mutex::default(),
            taken: Mutex::default(),
            cpus,
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
        spreading::turn_on(&inner.settings.data_dir.join("sandboxes"));
        inner.slots.prepare(inner.cgroups.parent())?;
        forwarding::turn_on()?;
        joining::turn_on()?;
        inner.stop_guard().await;
        nft::load(&inner.settings.dns).await?;
        *inner.guard.lock() = Some(Guard::start(inner.settings.dns.clone()));
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

    async fn adopt(&self, id: SandboxId) -> Result<Option<Cell>, Error> {
        let first = process::first_of(|| self.0.cgroups.envd_processes(id));
        first.call("look for the first process of", id)?.map(|pidfd| watch(id, pidfd)).transpose()
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

    async fn usage(&self) -> Result<BTreeMap<SandboxId, Usage>, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || usage::sweep(&inner.cgroups)).await
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
        upper::make(&directory.join(cell::LAYER), &spec, &self.settings.dns)?;
        let staged = cell::stage(&self.cgroups, &self.spawner, directory, &spec, slot)?;
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
            cell::remove_sockets(&inner.directory(id))
        });
        removed.await?;
        if let Some(slot) = slot {
            net::gone(slot).await?;
        }
        // Last: from here on the uid range and the address may be another's.
        if let Some(slot) = slot {
            self.slots.free(slot)?;
            self.taken.lock().remove(&id);
        }
        Ok(())
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
