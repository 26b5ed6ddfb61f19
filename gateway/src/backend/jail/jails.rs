//! This host: the trait, and what is shared by all sandboxes.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rctl_sys::{jail, process, rctl, sysctl};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    cause,
    counted::Disks,
    cpu_time::Clocks,
    cpus, devfs, ending,
    ends::Ends,
    error::{Call, Kernel},
    first, freezing, holding, layers, limits, linking,
    making::Making,
    net::Network,
    plan::{self, Decided},
    probe,
    spawn::{self, Image, Process},
    usage,
    zfs::Zfs,
};
use crate::{
    backend::{
        Backend, Cause, Cell, CellSpec, Check, Copied, Error, Layer, Settings, Usage,
        call::blocking, cpus::Cpus, fresh, rounds::Rounds, turns::Turns,
    },
    limits::{Limit, Limits},
    network::Filter,
    sandbox::SandboxId,
};

/// Sandboxes made at once on a host with few CPUs: more than those, as some wait for the disk.
const LEAST_AT_ONCE: usize = 8;

/// This host.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

pub(super) struct Inner {
    pub(super) settings: Settings,
    /// From `prepare` on: whoever only looks the host over leaves nothing in it.
    image: OnceLock<Image>,
    pub(super) network: Network,
    /// `None` where the data directory is not on ZFS.
    pub(super) zfs: Option<Zfs>,
    turns: Turns,
    /// Of writing the pool to its disks.
    flushes: Rounds,
    ends: Ends,
    /// Those being made at once; more would only wait for each other, and all be late.
    making: Semaphore,
    /// The envds that this gateway has started and not yet seen the end of, to reap them.
    pub(super) children: Mutex<HashMap<SandboxId, Arc<Process>>>,
    pub(super) cpus: Cpus,
    pub(super) clocks: Mutex<Clocks>,
    pub(super) disks: Mutex<Disks>,
    /// Why envds have ended, until what they left is gone.
    causes: Mutex<HashMap<SandboxId, Cause>>,
}

impl Host {
    /// # Errors
    /// When the host lacks what no sandbox can be without; [`Backend::probe`] tells more.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let cpus = Cpus::new(cpus::ours()?);
        Ok(Self(Arc::new(Inner {
            image: OnceLock::new(),
            network: Network::new(&settings),
            zfs: Zfs::detect(&settings)?,
            turns: Turns::default(),
            flushes: Rounds::default(),
            ends: Ends::default(),
            making: Semaphore::new((2 * cpus.count()).max(LEAST_AT_ONCE)),
            children: Mutex::default(),
            cpus,
            clocks: Mutex::default(),
            disks: Mutex::default(),
            causes: Mutex::default(),
            settings,
        })))
    }

    /// One at a time for each sandbox, off the runtime's own threads.
    async fn turn<T: Send + 'static>(
        &self,
        id: SandboxId,
        work: impl FnOnce(&Inner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let inner = Arc::clone(&self.0);
        self.0.turns.take(id, blocking(move || work(&inner))).await
    }

    /// Has the pool written to its disks where `work` says that this is still to be done.
    async fn flush_pool_where(
        &self,
        work: impl FnOnce(&Inner) -> Result<bool, Error> + Send + 'static,
    ) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        if !blocking(move || work(&inner)).await? {
            return Ok(());
        }
        let inner = Arc::clone(&self.0);
        self.0.flushes.join(blocking(move || layers::flush_pool(&inner))).await
    }
}

/// jemalloc gives back what is unused by itself.
pub fn return_memory() {}

/// What cores do when they have nothing to do is set for the host as a whole (`machdep.idle`), and
/// would stay so when we are gone.
///
/// # Errors
/// Always.
pub fn keep_cores_awake() -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[async_trait]
impl Backend for Host {
    fn name(&self) -> &'static str {
        "jail"
    }

    async fn prepare(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        let prepared = blocking(move || {
            if sysctl::racct_enabled().to("read", "kern.racct.enable")? != Some(true) {
                return Err(Error::Unsupported(
                    "limits need racct(4): put kern.racct.enable=1 into /boot/loader.conf and \
                     reboot"
                        .into(),
                ));
            }
            spawn::keep_private()?;
            if inner.image.get().is_none() {
                let _ = inner.image.set(Image::take(&inner.settings.data_dir)?);
            }
            devfs::prepare()?;
            if let Some(zfs) = &inner.zfs {
                zfs.prepare()?;
            }
            inner.network.prepare()
        });
        prepared.await
    }

    /// Goes on to its end when the caller goes away, and is then undone.
    async fn create(&self, spec: CellSpec) -> Result<Cell, Error> {
        let host = self.clone();
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let id = spec.id;
            let _place = host.0.making.acquire().await;
            let made = host.turn(id, move |inner| inner.make(&spec)).await;
            let there = made.is_ok();
            let cell = made.and_then(|process| host.watch(id, process.pid, Some(process)));
            if there && cell.is_err() {
                host.destroy_or_log(id).await;
            }
            if let Err(Ok(_)) = tell.send(cell) {
                host.destroy_or_log(id).await;
            }
        });
        told.await.map_err(std::io::Error::other).call("make", "sandbox")?
    }

    async fn stop(&self, id: SandboxId) -> Result<(), Error> {
        let _wanted = self.0.ends.want(id);
        self.turn(id, move |inner| {
            let child = inner.children.lock().get(&id).cloned();
            ending::end_processes(id, child.as_deref())
        })
        .await
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), Error> {
        let _wanted = self.0.ends.want(id);
        self.turn(id, move |inner| {
            let directory = inner.directory(id);
            inner.causes.lock().remove(&id);
            holding::release(&mut Making::new(inner, id, &directory))?;
            fresh::remove_sockets(&directory)
        })
        .await
    }

    async fn cause(&self, id: SandboxId) -> Result<Option<Cause>, Error> {
        Ok(self.0.causes.lock().get(&id).copied())
    }

    async fn shut_down(&self, id: SandboxId) -> Result<(), Error> {
        let _wanted = self.0.ends.want(id);
        self.turn(id, move |inner| layers::shut_down(inner, id)).await
    }

    async fn flush(&self, id: SandboxId) -> Result<(), Error> {
        self.flush_pool_where(move |inner| layers::flush(inner, id)).await
    }

    async fn copy_layer(
        &self,
        from: SandboxId,
        to: &Path,
        stop: CancellationToken,
    ) -> Result<Copied, Error> {
        let to = to.to_owned();
        self.turn(from, move |inner| {
            let is_enough = || stop.is_cancelled() || inner.ends.are_wanted(from);
            layers::copy_layer(inner, from, &to, &is_enough)
        })
        .await
    }

    async fn flush_copy(&self, copy: &Path) -> Result<(), Error> {
        let copy = copy.to_owned();
        self.flush_pool_where(move |inner| layers::flush_copy(inner, &copy)).await
    }

    async fn release_copy(&self, copy: &Path) -> Result<(), Error> {
        let (inner, copy) = (Arc::clone(&self.0), copy.to_owned());
        blocking(move || inner.zfs.as_ref().map_or(Ok(()), |zfs| zfs.release_copy(&copy))).await
    }

    fn boot(&self) -> Option<String> {
        layers::boot()
    }

    fn enforces(&self, limit: Limit) -> bool {
        limits::enforced(limit)
            && match limit {
                Limit::Disk => self.0.zfs.is_some() || self.0.settings.jail.tmpfs,
                _ => true,
            }
    }

    async fn adopt(&self, id: SandboxId) -> Result<Option<Cell>, Error> {
        let found = self.turn(id, move |inner| {
            let directory = inner.directory(id);
            let Some(jid) = ending::living_jail(id)? else { return Ok(None) };
            let found = first::find(&directory, jid)?;
            if found.is_some() {
                freezing::mend(id, &directory)?;
            }
            Ok(found.map(|envd| (jid, envd)))
        });
        let Some((jid, envd)) = found.await? else { return Ok(None) };
        let cell = self.watch(id, envd.pid, None)?;
        // The number may have passed to a stranger before we watched it.
        let directory = self.0.directory(id);
        let still = blocking(move || Ok(first::find(&directory, jid)? == Some(envd))).await?;
        Ok(still.then_some(cell))
    }

    async fn set_network(
        &self,
        id: SandboxId,
        filter: &Filter,
        _limits: Limits,
    ) -> Result<(), Error> {
        let filter = filter.clone();
        self.turn(id, move |inner| {
            if inner.network.fence(id, &filter)? {
                Ok(())
            } else {
                linking::link(inner, id, &filter)
            }
        })
        .await
    }

    async fn freeze(&self, id: SandboxId) -> Result<(), Error> {
        self.turn(id, move |inner| {
            freezing::freeze(id, &inner.directory(id), &|| inner.ends.are_wanted(id))
        })
        .await
    }

    async fn thaw(&self, id: SandboxId) -> Result<(), Error> {
        self.turn(id, move |inner| freezing::thaw(id, &inner.directory(id))).await
    }

    async fn frozen(&self, id: SandboxId) -> Result<bool, Error> {
        let directory = self.0.directory(id);
        blocking(move || freezing::is_frozen(id, &directory)).await
    }

    async fn usage(&self) -> Result<BTreeMap<SandboxId, Usage>, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || usage::sweep(&inner)).await
    }

    async fn memory_used(&self, id: SandboxId) -> Result<u64, Error> {
        blocking(move || {
            // FreeBSD: an account is made for whatever name is asked for, with zeros in it.
            if ending::living_jail(id)?.is_none() {
                return Err(Error::Unsupported(format!("sandbox {id} is not there")));
            }
            let account = rctl::get_racct(&limits::subject(id)?).to("read the account of", id)?;
            Ok(account.memoryuse_bytes)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.list()).await
    }

    async fn retire(&self) -> Result<(), Error> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.network.retire()).await
    }

    fn probe(&self, planned: usize) -> Vec<Check> {
        probe::all(&self.0.settings, planned)
    }
}

impl Host {
    async fn destroy_or_log(&self, id: SandboxId) {
        if let Err(error) = self.destroy(id).await {
            error!(sandbox = %id, %error, "could not end a sandbox that nobody has");
        }
    }

    fn watch(&self, id: SandboxId, pid: i32, ours: Option<Arc<Process>>) -> Result<Cell, Error> {
        let ended = CancellationToken::new();
        let target = format!("EVFILT_PROC of pid {pid}, sandbox {id}");
        let inner = Arc::clone(&self.0);
        let told = move |status| inner.note_cause(id, status);
        if !first::watch(pid, ours, ended.clone(), told).call("kevent", target)? {
            ended.cancel();
        }
        Ok(Cell { ended })
    }
}

impl Inner {
    /// An envd has ended with that status. Blocks.
    fn note_cause(&self, id: SandboxId, status: i32) {
        let found = limits::subject(id).and_then(|jail| {
            let account = rctl::get_racct(&jail).to("read the account of", id)?;
            let rules = rctl::get_rules(&limits::all_of(id)?).to("read the limits of", id)?;
            Ok(cause::cause(status, &account, &rules))
        });
        match found {
            Ok(Some(cause)) => {
                self.causes.lock().insert(id, cause);
            }
            Ok(None) => {}
            Err(error) => error!(sandbox = %id, status, %error, "why its envd ended"),
        }
    }

    pub(super) fn image(&self) -> Result<&Image, Error> {
        self.image.get().ok_or_else(|| Error::Unsupported("the host was not made ready".into()))
    }

    /// Returns its envd when that serves. On error nothing is left, but what was kept for it.
    /// Blocks.
    fn make(&self, spec: &CellSpec) -> Result<Arc<Process>, Error> {
        let id = spec.id;
        let keeps = spec.layer == Layer::Kept;
        self.causes.lock().remove(&id);
        // FreeBSD: one that was removed lasts until the last of its connections is forgotten, a
        // minute and more; another may have its name by then (`kern_jail_set`,
        // sys/kern/kern_jail.c). A sandbox that goes on with what it has does not wait for that.
        let (found, why) = match keeps {
            true => (ending::living_jail(id)?, "is there already"),
            false => (ending::any_jail(id)?, "is there already, or what has not ended yet of it"),
        };
        if found.is_some() {
            return Err(Error::Unsupported(format!("sandbox {id} {why}")));
        }
        let directory = self.directory(id);
        let mut making = Making { spec: Some(spec), keeps, ..Making::new(self, id, &directory) };
        let plan = self.decide(spec, &directory).and_then(|decided| plan::plan(spec, decided));
        let plan = match plan {
            Ok(plan) => plan,
            // What is decided may have claimed an address.
            Err(error) => return Err(undone(id, error, holding::release(&mut making))),
        };
        let made = holding::make(&plan, &mut making);
        if let Err((error, undoing)) = made {
            return Err(undone(
                id,
                error,
                undoing.and_then(|()| fresh::remove_sockets(&directory)),
            ));
        }
        if keeps {
            layers::take_up(self, id)?;
        }
        making.envd.ok_or_else(|| Error::Unsupported("a plan without an envd".into()))
    }

    fn decide<'a>(
        &'a self,
        spec: &CellSpec,
        directory: &'a std::path::Path,
    ) -> Result<Decided<'a>, Error> {
        Ok(Decided {
            directory,
            root: layers::root(self, spec)?,
            stack: self.network.stack(spec.id, spec.network)?,
            ruleset: devfs::ruleset(),
            cpus: self.cpus.choose(spec.limits.cpus),
            dns: &self.settings.dns,
            options: self.settings.jail,
        })
    }

    /// Those that hold anything: `Holding::Rules` has no trace of whose they are, but a sandbox
    /// that has them has a directory.
    fn list(&self) -> Result<Vec<SandboxId>, Error> {
        let mut ids = Vec::new();
        for (id, jail) in self.jails()? {
            // One that is dying is held by what goes by itself, such as a closed connection.
            let runs = || process::in_jail(jail.jid).to("list the processes of jail", jail.jid);
            if !jail.dying || !runs()?.is_empty() {
                ids.push(id);
            }
        }
        let mounts = ending::with_mounts(&self.sandboxes())?.into_iter();
        ids.extend(mounts.filter_map(|name| name.to_str()?.parse::<SandboxId>().ok()));
        ids.extend(self.network.list()?);
        if let Some(zfs) = &self.zfs {
            ids.extend(zfs.list()?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The jails of this data directory.
    pub(super) fn jails(&self) -> Result<Vec<(SandboxId, jail::Jail)>, Error> {
        let sandboxes = self.sandboxes();
        let all = jail::list().to("list", "jails")?.into_iter();
        let ours = all.filter(|jail| jail.path.starts_with(&sandboxes));
        Ok(ours
            .filter_map(|jail| {
                let id: SandboxId = jail.name.strip_prefix("coppice-")?.parse().ok()?;
                Some((id, jail))
            })
            .collect())
    }

    fn sandboxes(&self) -> PathBuf {
        self.settings.data_dir.join("sandboxes")
    }

    pub(super) fn directory(&self, id: SandboxId) -> PathBuf {
        self.sandboxes().join(id.to_string())
    }
}

fn undone(id: SandboxId, error: Error, undoing: Result<(), Error>) -> Error {
    if let Err(error) = undoing {
        error!(sandbox = %id, %error, "could not undo the making of a sandbox");
    }
    error
}
