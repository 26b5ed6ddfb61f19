//! Webhooks in E2B's shape: what a tenant wants to be told of its sandboxes, and where.
//!
//! ```text
//!   bus ──▶ one ring ──▶ intake ──▶ spool of each ──▶ courier ──▶ POST
//! ```
//!
//! Each has a file of its own below the data directory, with its secret, which nobody is ever told
//! again, and a spool, as every exporter has: a receiver that is away loses nothing that there is
//! room for, not with the gateway either, and keeps no other one waiting.

mod courier;
mod deliveries;
mod hook;
mod intake;
mod payload;
mod post;
mod reach;
mod sign;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::Utc;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};
use uuid::Uuid;

pub(crate) use deliveries::{Asked, Attempt, Group, Hour, Stats};
pub(crate) use hook::{Change, Hook, Said};
pub use reach::{Range, Reach};

use courier::Courier;
use post::Poster;

use super::Types;
use crate::{
    metrics::Metrics,
    sandbox::{Sandboxes, Tenant},
};

/// Of one tenant.
const MOST_EACH: usize = 16;
/// Of all.
const MOST: usize = 256;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Invalid(&'static str),
    #[error("there are {0} webhooks already: delete one first")]
    TooMany(usize),
    #[error("cannot keep the webhook in {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// All webhooks of a gateway; cheap to clone.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    reach: Reach,
    hooks: Mutex<BTreeMap<Uuid, Arc<Hook>>>,
    /// Of those that are enabled, once the gateway [delivers](Webhooks::deliver).
    couriers: Mutex<BTreeMap<Uuid, Arc<Courier>>>,
    /// What delivering takes, from then on.
    means: Mutex<Option<(Arc<Poster>, Arc<Metrics>)>>,
    /// There may be other couriers.
    changed: Notify,
    /// Whoever wants all that has happened to be in the spools.
    settling: Mutex<Option<mpsc::UnboundedSender<oneshot::Sender<()>>>>,
    /// One change at a time, so that files and what is in memory agree.
    changing: tokio::sync::Mutex<()>,
}

impl Inner {
    fn couriers(&self) -> Vec<Arc<Courier>> {
        self.couriers.lock().values().cloned().collect()
    }

    /// What any of them wants.
    fn wanted(&self) -> Option<Types> {
        let couriers = self.couriers.lock();
        if couriers.is_empty() {
            return None;
        }
        let globs = couriers.values().map(|courier| courier.types().to_string());
        let globs: Vec<String> = globs.collect();
        let mut names: Vec<&str> = globs.iter().flat_map(|globs| globs.split(',')).collect();
        names.sort_unstable();
        names.dedup();
        // They were types of events before.
        Types::of(names).ok()
    }
}

impl Webhooks {
    /// Reads those there are in `<data-dir>/webhooks`.
    pub fn open(data_dir: &Path, reach: Reach) -> io::Result<Self> {
        let dir = data_dir.join("webhooks");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let mut hooks = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let end = path.extension().unwrap_or_default();
            if end == courier::GONE {
                fs::remove_dir_all(&path)?;
            }
            if end != "json" {
                continue;
            }
            match Hook::read(&path) {
                Ok(hook) => drop(hooks.insert(hook.id, Arc::new(hook))),
                // Said, and left for whoever can mend it.
                Err(error) => tracing::error!("{}: no webhook: {error}", path.display()),
            }
        }
        Ok(Self(Arc::new(Inner {
            dir,
            reach,
            hooks: Mutex::new(hooks),
            couriers: Mutex::default(),
            means: Mutex::default(),
            changed: Notify::new(),
            settling: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        })))
    }

    /// From here on what happens is delivered.
    pub fn deliver(&self, sandboxes: &Sandboxes) {
        let poster = match Poster::new(self.0.reach.clone()) {
            Ok(poster) => Arc::new(poster),
            Err(error) => return tracing::error!("webhooks are not delivered: {error}"),
        };
        *self.0.means.lock() = Some((poster, sandboxes.metrics().clone()));
        let hooks: Vec<_> = self.0.hooks.lock().values().cloned().collect();
        for hook in hooks {
            self.follow(&hook);
        }
        let events = sandboxes.events().clone();
        let (settle, asked) = mpsc::unbounded_channel();
        *self.0.settling.lock() = Some(settle);
        tokio::spawn(intake::take_in(self.0.clone(), events, sandboxes.clone(), asked));
    }

    /// Returns when all that has happened is in the spools, or after so long.
    pub async fn settle(&self, patience: Duration) {
        let (done, settled) = oneshot::channel();
        let settling = self.0.settling.lock().clone();
        if settling.is_some_and(|settling| settling.send(done).is_ok()) {
            let _ = timeout(patience, settled).await;
        }
    }

    /// Those of a tenant, the oldest first.
    pub(crate) fn list(&self, tenant: &Tenant) -> Vec<Arc<Hook>> {
        let hooks = self.0.hooks.lock();
        let mut own: Vec<_> = hooks.values().filter(|it| it.tenant == *tenant).cloned().collect();
        own.sort_by_key(|hook| (hook.created_at, hook.id));
        own
    }

    /// `None`, too, of one that is another tenant's.
    pub(crate) fn get(&self, tenant: &Tenant, id: Uuid) -> Option<Arc<Hook>> {
        self.0.hooks.lock().get(&id).filter(|hook| hook.tenant == *tenant).cloned()
    }

    pub(crate) async fn create(&self, tenant: &Tenant, said: Said) -> Result<Arc<Hook>, Error> {
        said.check(&self.0.reach)?;
        let _one = self.0.changing.lock().await;
        let (own, all) = (self.list(tenant).len(), self.0.hooks.lock().len());
        if own >= MOST_EACH || all >= MOST {
            return Err(Error::TooMany(if own >= MOST_EACH { own } else { all }));
        }
        let hook = Arc::new(Hook::new(Uuid::new_v4(), tenant.clone(), Utc::now(), said));
        self.write(&hook).await?;
        self.0.hooks.lock().insert(hook.id, hook.clone());
        self.follow(&hook);
        Ok(hook)
    }

    /// `None` where there is none to be changed.
    pub(crate) async fn change(
        &self,
        tenant: &Tenant,
        id: Uuid,
        change: Change,
    ) -> Result<Option<Arc<Hook>>, Error> {
        let _one = self.0.changing.lock().await;
        let Some(hook) = self.get(tenant, id) else { return Ok(None) };
        let (before, mut said) = (hook.said(), hook.said());
        change.make(&mut said);
        said.check(&self.0.reach)?;
        let other = before.enabled != said.enabled || before.events != said.events;
        hook.say(said);
        if let Err(error) = self.write(&hook).await {
            hook.say(before);
            return Err(error);
        }
        if other {
            self.follow(&hook);
        }
        // Where something waits to be tried again it may be tried with that now.
        hook.changed.notify_waiters();
        Ok(Some(hook))
    }

    /// Whether there was one.
    pub(crate) async fn delete(&self, tenant: &Tenant, id: Uuid) -> Result<bool, Error> {
        let _one = self.0.changing.lock().await;
        if self.get(tenant, id).is_none() {
            return Ok(false);
        }
        let path = self.file(id);
        if let Err(source) = tokio::fs::remove_file(&path).await
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(Error::Io { path, source });
        }
        self.0.hooks.lock().remove(&id);
        self.end(id);
        Ok(true)
    }

    /// Has it delivered to as it wants it now.
    fn follow(&self, hook: &Arc<Hook>) {
        let means = self.0.means.lock().clone();
        let Some((poster, metrics)) = means else { return };
        let said = hook.said();
        if !said.enabled {
            return self.end(hook.id);
        }
        let types = payload::types(&said.events);
        let before = self.0.couriers.lock().get(&hook.id).cloned();
        match before {
            // With the spool it has.
            Some(before) => before.want(types),
            None => match Courier::open(hook.clone(), types, &self.spool(hook.id)) {
                Ok(courier) => {
                    let courier = Arc::new(courier);
                    self.0.couriers.lock().insert(hook.id, courier.clone());
                    tokio::spawn(courier.deliver(poster, metrics));
                }
                Err(error) => tracing::error!("webhook {}: no spool: {error}", hook.id),
            },
        }
        self.0.changed.notify_one();
    }

    fn end(&self, id: Uuid) {
        let courier = self.0.couriers.lock().remove(&id);
        if let Some(courier) = courier {
            courier.end();
            self.0.changed.notify_one();
        }
    }

    fn file(&self, id: Uuid) -> PathBuf {
        self.0.dir.join(format!("{id}.json"))
    }

    fn spool(&self, id: Uuid) -> PathBuf {
        self.0.dir.join(format!("{id}.spool"))
    }

    async fn write(&self, hook: &Arc<Hook>) -> Result<(), Error> {
        let (path, hook) = (self.file(hook.id), hook.clone());
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || hook.write(&to)).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|source| Error::Io { path, source })
    }
}
