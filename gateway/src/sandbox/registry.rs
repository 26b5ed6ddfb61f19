//! All sandboxes of this gateway, by id.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Facts, Journal, Owner, Phase, Reason, SandboxId, Tenant,
    claim::Claim,
    idle::Idle,
    layers::{Between, Kept},
    life::{Life, Moment, Status},
    order::{Order, Shelf},
    outlet::Outlet,
    record::Record,
    shelves::Position,
};
use crate::network::NetworkPolicy;

/// A sandbox that has been visible at least once.
pub struct Sandbox {
    facts: Facts,
    /// Its template's name, for whatever is told of it.
    pub(super) image: Arc<str>,
    /// As it is now; what it was made with is among the facts.
    metadata: RwLock<Arc<BTreeMap<String, String>>>,
    /// What it may reach; changed in its turn.
    policy: RwLock<NetworkPolicy>,
    dir: PathBuf,
    gone: CancellationToken,
    /// Of the time it has run since it was made or last resumed.
    run: RwLock<CancellationToken>,
    pub(super) life: Arc<Life>,
    /// Held by whoever pauses or resumes it, from beginning to end. Kills do not wait for it.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// Of one that is to be paused when nobody uses it.
    pub(super) idle: Option<Idle>,
    /// Code it was given to run and has not reported yet.
    given: AtomicU64,
    pub(super) outlet: Outlet,
    pub(super) between: Between,
    pub(super) claim: Claim,
    /// Held while the record is written, so that the latest state is the last one written.
    saving: Mutex<()>,
}

impl Sandbox {
    /// One that runs.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn new(facts: Facts, dir: PathBuf, deadline: DateTime<Utc>) -> Self {
        let life = Life::new(deadline, facts.started_at);
        Self::of(facts, dir, Arc::new(life))
    }

    /// One that is about to be visible.
    pub(super) fn planned(facts: Facts, dir: PathBuf, life: &Arc<Life>) -> Self {
        Self::of(facts, dir, life.clone())
    }

    pub(super) fn found(facts: Facts, dir: PathBuf, moment: Moment, kept: Option<Kept>) -> Self {
        let durable = kept.as_ref().is_some_and(|kept| kept.durable_at.is_some());
        let claim = Claim::found(&dir, durable);
        let sandbox = Self { claim, ..Self::of(facts, dir, Arc::new(Life::at(moment))) };
        sandbox.between.keep(kept);
        if moment.phase == Phase::Paused {
            sandbox.cut().cancel();
        }
        sandbox
    }

    fn of(facts: Facts, dir: PathBuf, life: Arc<Life>) -> Self {
        let gone = CancellationToken::new();
        Self {
            metadata: RwLock::new(Arc::new(facts.metadata.clone())),
            policy: RwLock::default(),
            idle: Idle::of(&facts.metadata, Utc::now()),
            image: facts.template.id.as_str().into(),
            facts,
            dir,
            run: RwLock::new(gone.child_token()),
            gone,
            life,
            turn: tokio::sync::Mutex::new(()),
            given: AtomicU64::new(0),
            outlet: Outlet::default(),
            between: Between::default(),
            claim: Claim::default(),
            saving: Mutex::new(()),
        }
    }

    pub fn id(&self) -> SandboxId {
        self.facts.id
    }

    /// What it was made from and with.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What its clients have said of it, as they did last.
    pub fn metadata(&self) -> Arc<BTreeMap<String, String>> {
        self.metadata.read().clone()
    }

    /// Puts what `change` makes of it in its place, unless that fails.
    pub(super) fn change_metadata<E>(
        &self,
        change: impl FnOnce(&BTreeMap<String, String>) -> Result<BTreeMap<String, String>, E>,
    ) -> Result<(), E> {
        let mut metadata = self.metadata.write();
        let changed = change(&metadata)?;
        *metadata = Arc::new(changed);
        Ok(())
    }

    /// One that may reach no more than that.
    pub(super) fn under(mut self, policy: NetworkPolicy) -> Self {
        self.policy = RwLock::new(policy);
        self
    }

    /// What it may reach.
    pub fn policy(&self) -> NetworkPolicy {
        self.policy.read().clone()
    }

    /// Returns the one of before.
    pub(super) fn change_policy(&self, policy: NetworkPolicy) -> NetworkPolicy {
        std::mem::replace(&mut self.policy.write(), policy)
    }

    /// Holds `sandbox.json`, the sockets `envd.sock`, `tunnel.sock` and `report.sock`, and the
    /// writable layer.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn envd_token(&self) -> &str {
        &self.facts.envd_token
    }

    pub fn phase(&self) -> Phase {
        self.life.phase()
    }

    /// What has happened to it.
    pub fn journal(&self) -> &Journal {
        self.life.journal()
    }

    /// What it is at, why, and since when.
    pub fn status(&self) -> Status {
        self.life.now().status()
    }

    /// What it is at, and when it ends or is paused by itself, or since when it stands still;
    /// `None` when it has ended.
    pub fn stands(&self) -> Option<(Phase, DateTime<Utc>)> {
        let now = self.life.now();
        let at = now.paused.map_or(now.deadline, |pause| pause.at);
        (!now.phase.is_over()).then_some((now.phase, at))
    }

    /// The second half of [`Self::stands`].
    pub fn ends_at(&self) -> Option<DateTime<Utc>> {
        self.stands().map(|(_, at)| at)
    }

    /// Cancelled the instant the sandbox stops running, before its processes are stopped: whoever
    /// holds a stream to it resets it. A sandbox that is resumed has a new one.
    pub fn cut(&self) -> CancellationToken {
        self.run.read().clone()
    }

    /// Cancelled the instant it ends.
    pub fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// From here on streams to it are possible again.
    pub(super) fn mend(&self) {
        self.touch();
        *self.run.write() = self.gone.child_token();
    }

    /// How often it was booted since this gateway knows it: what its envd reports counts from then.
    pub(crate) fn boots(&self) -> u64 {
        self.between.boots()
    }

    /// Takes note that it is given code to run.
    pub(crate) fn give_code(&self) {
        self.given.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether there is code that it may have run: what it reports beyond that is made up.
    pub(crate) fn has_run_code(&self) -> bool {
        let left = |given: u64| given.checked_sub(1);
        self.given.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    /// Writes the record as it stands, unless the sandbox has ended. Blocks.
    pub(super) fn save(&self) -> Result<(), Error> {
        let _saving = self.saving.lock();
        let now = self.life.now();
        if now.phase.is_over() {
            return Ok(());
        }
        let (kept, host) = (self.between.kept(), self.between.host());
        let metadata = (*self.metadata()).clone();
        let facts = Facts { metadata, ..self.facts.clone() };
        let record = Record::new(facts, &now, kept, host);
        record.under(self.policy()).write(&self.dir)
    }

    /// Brings the record to the disk. Blocks for as long as that takes, and nobody else: others
    /// may write it meanwhile.
    pub(super) fn sync(&self) -> Result<(), Error> {
        Record::sync(&self.dir)
    }

    #[cfg(test)]
    pub(super) fn hold_record(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.saving.lock()
    }

    /// Whether a write of the record is under way. Once it has ended no other begins.
    pub(super) fn is_being_saved(&self) -> bool {
        self.saving.is_locked()
    }

    /// Waits for a write of the record that is under way; no other begins, as the sandbox has
    /// ended. Blocks.
    pub(super) fn await_last_save(&self) {
        debug_assert!(self.life.is_over(), "it could be saved again");
        drop(self.saving.lock());
    }
}

/// Where a sandbox stands; see the diagram of this module's parent.
enum Place {
    /// The token is cancelled when it is no longer being made.
    Creating {
        tenant: Tenant,
        life: Arc<Life>,
        gone: CancellationToken,
    },
    Present(Arc<Sandbox>),
    Ending(Tenant),
}

impl Place {
    fn tenant(&self) -> &Tenant {
        match self {
            Self::Creating { tenant, .. } | Self::Ending(tenant) => tenant,
            Self::Present(sandbox) => &sandbox.facts().tenant,
        }
    }
}

#[derive(Default)]
struct Places {
    by_id: HashMap<SandboxId, Place>,
    /// How many each tenant has, if any.
    held: HashMap<Tenant, usize>,
}

impl Places {
    fn held(&self, tenant: &Tenant) -> usize {
        self.held.get(tenant).copied().unwrap_or_default()
    }

    /// Puts a place where there is none, or one of the same tenant's.
    fn put(&mut self, id: SandboxId, place: Place) -> Option<Place> {
        let tenant = place.tenant().clone();
        let before = self.by_id.insert(id, place);
        if before.is_none() {
            *self.held.entry(tenant).or_default() += 1;
        }
        before
    }

    fn take(&mut self, id: SandboxId) -> Option<Place> {
        let taken = self.by_id.remove(&id)?;
        if let Some(held) = self.held.get_mut(taken.tenant()) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(taken.tenant());
            }
        }
        Some(taken)
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    Full,
    /// The tenant has as many as it may.
    Quota,
}

#[derive(Default)]
pub struct Registry {
    places: RwLock<Places>,
    /// Those that are present, changed with their phases.
    order: Arc<Order>,
    /// Told whenever one that was ending is gone.
    freed: Notify,
    /// Told whenever one is no longer being made.
    settled: Notify,
    /// How many places were ever given.
    given: AtomicU64,
}

impl Registry {
    /// The running sandbox of that id.
    pub fn running(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        self.present(id).filter(|sandbox| sandbox.phase() == Phase::Running)
    }

    /// The sandbox of that id, running or paused.
    pub fn present(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        match self.places.read().by_id.get(&id) {
            Some(Place::Present(sandbox)) if !sandbox.life.is_over() => Some(sandbox.clone()),
            _ => None,
        }
    }

    /// The sandbox of that id, one that has just been ended too.
    pub(super) fn any(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        match self.places.read().by_id.get(&id) {
            Some(Place::Present(sandbox)) => Some(sandbox.clone()),
            _ => None,
        }
    }

    /// All running sandboxes, in no order.
    pub fn all_running(&self) -> Vec<Arc<Sandbox>> {
        self.all(|phase| phase == Phase::Running)
    }

    /// All that have not ended, in no order.
    pub fn all_present(&self) -> Vec<Arc<Sandbox>> {
        self.all(|phase| !phase.is_over())
    }

    /// Shows those of a shelf that come after `after`, in the order in which they began or in the
    /// opposite one, until `each` has enough.
    pub fn visit(
        &self,
        shelf: &Shelf,
        newest_first: bool,
        after: Option<Position>,
        mut each: impl FnMut(&Arc<Sandbox>) -> ControlFlow<()>,
    ) {
        self.order.visit(shelf, newest_first, after, |sandbox| match sandbox.life.is_over() {
            true => ControlFlow::Continue(()),
            false => each(sandbox),
        });
    }

    /// How many there are on a shelf.
    pub fn count(&self, shelf: &Shelf) -> usize {
        self.order.count(shelf)
    }

    fn all(&self, wanted: impl Fn(Phase) -> bool) -> Vec<Arc<Sandbox>> {
        let places = self.places.read();
        let found = places.by_id.values().filter_map(|place| match place {
            Place::Present(sandbox) if wanted(sandbox.phase()) => Some(sandbox.clone()),
            _ => None,
        });
        found.collect()
    }

    /// Takes a place for a sandbox to be made, if fewer than `most` are taken, and of the owner's
    /// fewer than they may have. One that is ending has its place until it is gone: till then it has
    /// its memory and its share of the kernel.
    pub(super) fn reserve(
        self: &Arc<Self>,
        id: SandboxId,
        owner: &Owner,
        most: usize,
    ) -> Result<Reservation, NoPlace> {
        let life = Arc::new(Life::pending());
        let gone = CancellationToken::new();
        let mut places = self.places.write();
        if owner.quota.max_sandboxes.is_some_and(|most| places.held(&owner.tenant) >= most) {
            return Err(NoPlace::Quota);
        }
        if places.by_id.len() >= most {
            return Err(NoPlace::Full);
        }
        let tenant = owner.tenant.clone();
        let (of, life_of, gone_of) = (tenant.clone(), life.clone(), gone.clone());
        places.put(id, Place::Creating { tenant: of, life: life_of, gone: gone_of });
        drop(places);
        self.given.fetch_add(1, Ordering::Relaxed);
        Ok(Reservation { registry: self.clone(), id, tenant, life, gone })
    }

    /// As [`Self::reserve`], but while there are some that are ending, it waits for one of them to
    /// be gone, at most for `patience`: who has just ended one can have another.
    pub(super) async fn reserve_soon(
        self: &Arc<Self>,
        id: SandboxId,
        owner: &Owner,
        most: usize,
        patience: Duration,
    ) -> Result<Reservation, NoPlace> {
        let mut refused = NoPlace::Full;
        let soon = async {
            loop {
                let freed = self.freed.notified();
                refused = match self.reserve(id, owner, most) {
                    Ok(reservation) => return Ok(reservation),
                    Err(refused) => refused,
                };
                let helps = |place: &Place| match place {
                    Place::Ending(tenant) => refused == NoPlace::Full || *tenant == owner.tenant,
                    _ => false,
                };
                if !self.places.read().by_id.values().any(helps) {
                    return Err(refused);
                }
                freed.await;
            }
        };
        let soon = tokio::time::timeout(patience, soon).await;
        soon.unwrap_or(Err(refused))
    }

    /// Whose the sandbox of that id is, one that is being made or ending too.
    pub(super) fn tenant(&self, id: SandboxId) -> Option<Tenant> {
        self.places.read().by_id.get(&id).map(|place| place.tenant().clone())
    }

    /// Those that are on their way to another phase, what has ended aside.
    pub(super) fn under_way(&self) -> Vec<Arc<Life>> {
        let places = self.places.read();
        let lives = places.by_id.values().filter_map(|place| match place {
            Place::Creating { life, .. } => Some(life),
            Place::Present(sandbox) => Some(&sandbox.life),
            Place::Ending(_) => None,
        });
        lives.filter(|life| life.phase().is_under_way()).cloned().collect()
    }

    pub(super) fn being_made(&self) -> usize {
        let places = self.places.read();
        places.by_id.values().filter(|place| matches!(place, Place::Creating { .. })).count()
    }

    /// Returns when no sandbox has been made for so long.
    pub(super) async fn quiet_for(&self, pause: Duration) {
        loop {
            let settled = self.settled.notified();
            if self.being_made() > 0 {
                settled.await;
                continue;
            }
            let given = self.given.load(Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            if self.given.load(Ordering::Relaxed) == given {
                return;
            }
        }
    }

    /// Places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.places.read().by_id.len()
    }

    /// Makes a sandbox of before a restart visible.
    pub(crate) fn readmit(&self, sandbox: Arc<Sandbox>) {
        let mut places = self.places.write();
        self.order.add(&sandbox);
        places.put(sandbox.id(), Place::Present(sandbox));
    }

    /// The life of one that is being made, and whose it is.
    pub(super) fn pending(&self, id: SandboxId) -> Option<(Arc<Life>, Tenant)> {
        match self.places.read().by_id.get(&id) {
            Some(Place::Creating { life, tenant, .. }) => Some((life.clone(), tenant.clone())),
            _ => None,
        }
    }

    /// Ends a sandbox that is being made; the answer is cancelled when it is gone.
    pub(super) fn abandon(&self, id: SandboxId, reason: Reason) -> Option<CancellationToken> {
        match self.places.read().by_id.get(&id) {
            Some(Place::Creating { life, gone, .. }) => {
                life.end(reason);
                Some(gone.clone())
            }
            _ => None,
        }
    }

    /// No longer visible, still there.
    pub(super) fn hide(&self, id: SandboxId, tenant: &Tenant) {
        self.places.write().put(id, Place::Ending(tenant.clone()));
    }

    pub(super) fn forget(&self, id: SandboxId) {
        self.places.write().take(id);
        self.freed.notify_waiters();
    }
}

/// The place of a sandbox that is being made; given back when dropped.
pub(super) struct Reservation {
    registry: Arc<Registry>,
    id: SandboxId,
    tenant: Tenant,
    life: Arc<Life>,
    gone: CancellationToken,
}

impl Reservation {
    pub(super) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    pub(super) fn id(&self) -> SandboxId {
        self.id
    }

    pub(super) fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// The same place, of a sandbox that has another id.
    pub(super) fn under(mut self, id: SandboxId) -> Self {
        let mut places = self.registry.places.write();
        if let Some(place) = places.by_id.remove(&self.id) {
            places.by_id.insert(id, place);
        }
        drop(places);
        self.id = id;
        self
    }

    /// Makes the sandbox of that [life](Self::life) visible, unless it was ended meanwhile;
    /// `tell`s of it before anybody can do anything with it.
    pub(super) fn fill(
        self,
        sandbox: &Arc<Sandbox>,
        tell: impl FnOnce(),
    ) -> Result<(), Reservation> {
        let mut places = self.registry.places.write();
        // Decided under the lock that `abandon` reads under: no kill falls between.
        if self.life.make(Moment::begin).is_err() {
            drop(places);
            return Err(self);
        }
        tell();
        self.registry.order.add(sandbox);
        places.put(self.id, Place::Present(sandbox.clone()));
        drop(places);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut places = self.registry.places.write();
        if matches!(places.by_id.get(&self.id), Some(Place::Creating { .. })) {
            places.take(self.id);
        }
        drop(places);
        self.registry.settled.notify_waiters();
        self.gone.cancel();
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
