//! This host: the trait, and what is shared by all sandboxes.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rctl_sys::{jail, process, rctl, sysctl};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    cpus, devfs, ending, entry,
    error::{Call, Kernel},
    first, freezing, furniture, holding, limits,
    making::Making,
    net::Network,
    plan::{self, Decided, Root},
    probe,
    spawn::{self, Image, Process},
    zfs::Zfs,
};
use crate::{
    backend::{
        Backend, Cell, CellSpec, Check, Error, Settings, Usage, call::blocking, cpus::Cpus,
        turns::Turns,
    },
    sandbox::SandboxId,
};

/// Sandboxes made at once on a host with few CPUs: more than those, as some wait for the disk.
const LEAST_AT_ONCE: usize = 8;

/// This host.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

pub(super) struct Inner {
    settings: Settings,
    /// From `prepare` on: whoever only looks the host over leaves nothing in it.
    image: OnceLock<Image>,
    pub(super) network: Network,
    /// `None` where the data directory is not on ZFS.
    pub(super) zfs: Option<Zfs>,
    turns: Turns,
    /// Those being made at once; more would only wait for each other, and all be late.
    making: Semaphore,
    /// The envds that this gateway has started and not yet seen the end of, to reap them.
    pub(super) children: Mutex<HashMap<SandboxId, Arc<Process>>>,
    cpus: Cpus,
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
            making: Semaphore::new((2 * cpus.count()).max(LEAST_AT_ONCE)),
            children: Mutex::default(),
            cpus,
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
}

/// jemalloc gives back what is unused by itself.
pub fn return_memory() {}

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
        self.turn(id, move |inner| {
            let child = inner.children.lock().get(&id).cloned();
            ending::end_processes(id, child.as_deref())
        })
        .await
    }

    async fn destroy(&self, id: SandboxId) -> Result<(), Error> {
        self.turn(id, move |inner| {
            let directory = inner.directory(id);
            holding::release(&mut Making::new(inner, id, &directory))?;
            entry::remove_sockets(&directory)
        })
        .await
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

    async fn freeze(&self, id: SandboxId) -> Result<(), Error> {
        self.turn(id, move |inner| freezing::freeze(id, &inner.directory(id))).await
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
        blocking(move || inner.usage()).await
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
        if !first::watch(pid, ours, ended.clone()).call("kevent", target)? {
            ended.cancel();
        }
        Ok(Cell { ended })
    }
}

impl Inner {
    pub(super) fn image(&self) -> Result<&Image, Error> {
        self.image.get().ok_or_else(|| Error::Unsupported("the host was not made ready".into()))
    }

    /// Returns its envd when that serves. On error nothing is left. Blocks.
    fn make(&self, spec: &CellSpec) -> Result<Arc<Process>, Error> {
        let id = spec.id;
        if ending::any_jail(id)?.is_some() {
            let why = match ending::living_jail(id)? {
                Some(_) => "is there already",
                None => "was there, and is held by what has not ended yet (a dying jail)",
            };
            return Err(Error::Unsupported(format!("sandbox {id} {why}")));
        }
        let directory = self.directory(id);
        let mut making = Making { spec: Some(spec), ..Making::new(self, id, &directory) };
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
                undoing.and_then(|()| entry::remove_sockets(&directory)),
            ));
        }
        making.envd.ok_or_else(|| Error::Unsupported("a plan without an envd".into()))
    }

    fn decide<'a>(
        &'a self,
        spec: &CellSpec,
        directory: &'a std::path::Path,
    ) -> Result<Decided<'a>, Error> {
        let [layer] = spec.template.layers.as_slice() else {
            return Err(Error::Unsupported(format!(
                "template {} has {} layers: on FreeBSD it has to be one whole root",
                spec.template.id,
                spec.template.layers.len()
            )));
        };
        let layer = layer.clone();
        let root = match self.zfs.as_ref().filter(|zfs| zfs.has(&layer)) {
            Some(zfs) => Root::Clone { dataset: zfs.dataset(&layer, spec.id)?, layer },
            None => Root::Thin { entries: furniture::entries(&layer)?, layer },
        };
        Ok(Decided {
            directory,
            root,
            stack: self.network.stack(spec.id, spec.network)?,
            ruleset: devfs::ruleset(),
            cpus: self.cpus.choose(spec.limits.cpus),
            dns: &self.settings.dns,
        })
    }

    /// Without a process of its own; one system call and a look at a file for each sandbox.
    fn usage(&self) -> Result<BTreeMap<SandboxId, Usage>, Error> {
        let mut usage = BTreeMap::new();
        for (id, jail) in self.jails()? {
            if jail.dying {
                continue;
            }
            let read = rctl::get_racct(&limits::subject(id)?).to("read the account of", id);
            let account = match read {
                // Without a process it has ended since it was listed: its account is another's.
                Ok(account) if account.maxproc == 0 => continue,
                Ok(account) => account,
                Err(error) => {
                    error!(sandbox = %id, %error, "no figures of a sandbox");
                    continue;
                }
            };
            // FreeBSD: the kernel's figure takes tens of seconds to fall.
            let frozen = freezing::is_marked(&self.directory(id));
            let percent = if frozen { 0 } else { account.pcpu_percent };
            usage.insert(
                id,
                Usage {
                    cpu: Duration::from_secs(account.cputime_seconds),
                    // Percent of one core: far below where a float is no longer exact.
                    cpu_percent: Some(f64::from(u32::try_from(percent).unwrap_or(u32::MAX))),
                    memory_bytes: account.memoryuse_bytes,
                    processes: account.maxproc,
                },
            );
        }
        Ok(usage)
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
    fn jails(&self) -> Result<Vec<(SandboxId, jail::Jail)>, Error> {
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

    fn directory(&self, id: SandboxId) -> PathBuf {
        self.sandboxes().join(id.to_string())
    }
}

fn undone(id: SandboxId, error: Error, undoing: Result<(), Error>) -> Error {
    if let Err(error) = undoing {
        error!(sandbox = %id, %error, "could not undo the making of a sandbox");
    }
    error
}
