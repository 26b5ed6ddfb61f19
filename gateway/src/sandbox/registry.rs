//! All sandboxes of this gateway, by id.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Facts, Phase, SandboxId,
    life::{Life, Moment},
    record::Record,
};

/// A sandbox that has been visible at least once.
pub struct Sandbox {
    facts: Facts,
    dir: PathBuf,
    gone: CancellationToken,
    /// Of the time it has run since it was made or last resumed.
    run: RwLock<CancellationToken>,
    pub(super) life: Life,
    /// Held by whoever pauses or resumes it, from beginning to end. Kills do not wait for it.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// A write of the record is on its way that will see what is changed now.
    pub(super) unsaved: AtomicBool,
    /// Code it was given to run and has not reported yet.
    given: AtomicU64,
    /// Held while the record is written, so that the latest state is the last one written.
    saving: Mutex<()>,
}

impl Sandbox {
    pub(crate) fn new(facts: Facts, dir: PathBuf, deadline: DateTime<Utc>) -> Self {
        let life = Life::new(deadline, facts.started_at);
        Self::of(facts, dir, life)
    }

    pub(super) fn found(facts: Facts, dir: PathBuf, moment: Moment) -> Self {
        let sandbox = Self::of(facts, dir, Life::at(moment));
        if moment.phase == Phase::Paused {
            sandbox.cut().cancel();
        }
        sandbox
    }

    fn of(facts: Facts, dir: PathBuf, life: Life) -> Self {
        let gone = CancellationToken::new();
        Self {
            facts,
            dir,
            run: RwLock::new(gone.child_token()),
            gone,
            life,
            turn: tokio::sync::Mutex::new(()),
            unsaved: AtomicBool::new(false),
            given: AtomicU64::new(0),
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

    /// What it is at, and when it ends or is paused by itself, or since when it stands still;
    /// `None` when it has ended.
    pub fn stands(&self) -> Option<(Phase, DateTime<Utc>)> {
        let now = self.life.now();
        (now.phase != Phase::Ended).then(|| (now.phase, now.paused_at.unwrap_or(now.deadline)))
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
        *self.run.write() = self.gone.child_token();
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
        self.unsaved.store(false, Ordering::Release);
        let now = self.life.now();
        match now.phase {
            Phase::Ended => Ok(()),
            _ => Record::new(self.facts.clone(), &now).write(&self.dir),
        }
    }

    /// Whether a write of the record is under way. Once it has ended no other begins.
    pub(super) fn is_being_saved(&self) -> bool {
        self.saving.is_locked()
    }

    /// Waits for a write of the record that is under way; no other begins, as the sandbox has
    /// ended. Blocks.
    pub(super) fn await_last_save(&self) {
        debug_assert!(self.life.ended(), "it could be saved again");
        drop(self.saving.lock());
    }
}

/// Where a sandbox stands; see the diagram of this module's parent.
enum Place {
    /// The first token is cancelled by whoever wants it ended, the second when it is.
    Creating {
        unwanted: CancellationToken,
        gone: CancellationToken,
    },
    Present(Arc<Sandbox>),
    Ending,
}

#[derive(Default)]
pub struct Registry {
    places: RwLock<HashMap<SandboxId, Place>>,
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
        match self.places.read().get(&id) {
            Some(Place::Present(sandbox)) if !sandbox.life.ended() => Some(sandbox.clone()),
            _ => None,
        }
    }

    /// All running sandboxes, in no order.
    pub fn all_running(&self) -> Vec<Arc<Sandbox>> {
        self.all(|phase| phase == Phase::Running)
    }

    /// All that have not ended, in no order.
    pub fn all_present(&self) -> Vec<Arc<Sandbox>> {
        self.all(|phase| phase != Phase::Ended)
    }

    fn all(&self, wanted: impl Fn(Phase) -> bool) -> Vec<Arc<Sandbox>> {
        let places = self.places.read();
        let found = places.values().filter_map(|place| match place {
            Place::Present(sandbox) if wanted(sandbox.phase()) => Some(sandbox.clone()),
            _ => None,
        });
        found.collect()
    }

    /// Takes a place for a sandbox to be made, if fewer than `most` are taken. One that is ending
    /// has its place until it is gone: till then it has its memory and its share of the kernel.
    pub(super) fn reserve(self: &Arc<Self>, id: SandboxId, most: usize) -> Option<Reservation> {
        let unwanted = CancellationToken::new();
        let gone = CancellationToken::new();
        let mut places = self.places.write();
        if places.len() >= most {
            return None;
        }
        places.insert(id, Place::Creating { unwanted: unwanted.clone(), gone: gone.clone() });
        drop(places);
        self.given.fetch_add(1, Ordering::Relaxed);
        Some(Reservation { registry: self.clone(), id, unwanted, gone })
    }

    /// As [`Self::reserve`], but while there are some that are ending, it waits for one of them to
    /// be gone, at most for `patience`: who has just ended one can have another.
    pub(super) async fn reserve_soon(
        self: &Arc<Self>,
        id: SandboxId,
        most: usize,
        patience: Duration,
    ) -> Option<Reservation> {
        let soon = async {
            loop {
                let freed = self.freed.notified();
                if let Some(reservation) = self.reserve(id, most) {
                    return Some(reservation);
                }
                if !self.places.read().values().any(|place| matches!(place, Place::Ending)) {
                    return None;
                }
                freed.await;
            }
        };
        tokio::time::timeout(patience, soon).await.ok().flatten()
    }

    pub(super) fn being_made(&self) -> usize {
        let places = self.places.read();
        places.values().filter(|place| matches!(place, Place::Creating { .. })).count()
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
        self.places.read().len()
    }

    /// Makes a sandbox of before a restart visible.
    pub(crate) fn readmit(&self, sandbox: Arc<Sandbox>) {
        self.places.write().insert(sandbox.id(), Place::Present(sandbox));
    }

    /// Declares a sandbox that is being made unwanted; the answer is cancelled when it is gone.
    pub(super) fn abandon(&self, id: SandboxId) -> Option<CancellationToken> {
        match self.places.read().get(&id) {
            Some(Place::Creating { unwanted, gone }) => {
                unwanted.cancel();
                Some(gone.clone())
            }
            _ => None,
        }
    }

    /// No longer visible, still there.
    pub(super) fn hide(&self, id: SandboxId) {
        self.places.write().insert(id, Place::Ending);
    }

    pub(super) fn forget(&self, id: SandboxId) {
        self.places.write().remove(&id);
        self.freed.notify_waiters();
    }
}

/// The place of a sandbox that is being made; given back when dropped.
pub(super) struct Reservation {
    registry: Arc<Registry>,
    id: SandboxId,
    unwanted: CancellationToken,
    gone: CancellationToken,
}

impl Reservation {
    pub(super) fn id(&self) -> SandboxId {
        self.id
    }

    /// Makes the sandbox visible, unless it became unwanted meanwhile.
    pub(super) fn fill(self, sandbox: &Arc<Sandbox>) -> Result<(), Reservation> {
        let mut places = self.registry.places.write();
        // Decided under the lock that `abandon` reads under: no kill falls between.
        if self.unwanted.is_cancelled() {
            drop(places);
            return Err(self);
        }
        places.insert(self.id, Place::Present(sandbox.clone()));
        drop(places);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut places = self.registry.places.write();
        if matches!(places.get(&self.id), Some(Place::Creating { .. })) {
            places.remove(&self.id);
        }
        drop(places);
        self.registry.settled.notify_waiters();
        self.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing;

    fn sandbox(id: SandboxId) -> Arc<Sandbox> {
        let facts = Facts { id, ..testing::facts() };
        let deadline = Utc::now() + chrono::Duration::seconds(60);
        Arc::new(Sandbox::new(facts, PathBuf::from("/nowhere"), deadline))
    }

    #[test]
    fn a_place_is_taken_while_a_sandbox_is_made_and_given_back_when_that_fails() {
        let registry = Arc::new(Registry::default());
        let (first, second) = (SandboxId::random(), SandboxId::random());
        let reservation = registry.reserve(first, 1).unwrap();
        assert!(registry.running(first).is_none());
        assert!(registry.reserve(second, 1).is_none());
        drop(reservation);
        let reservation = registry.reserve(second, 1).unwrap();
        assert!(reservation.fill(&sandbox(second)).is_ok());
        assert!(registry.running(second).is_some());
        assert!(registry.reserve(first, 1).is_none());
        registry.hide(second);
        assert!(registry.running(second).is_none() && registry.all_running().is_empty());
        assert!(registry.reserve(first, 1).is_none(), "it is not gone yet");
        registry.forget(second);
        assert!(registry.reserve(first, 1).is_some());
    }

    #[test]
    fn those_being_made_are_counted_until_they_run_or_are_given_up() {
        let registry = Arc::new(Registry::default());
        let ids = [SandboxId::random(), SandboxId::random()];
        let [first, second] = ids.map(|id| registry.reserve(id, 9).unwrap());
        assert_eq!(registry.being_made(), 2);
        assert!(first.fill(&sandbox(ids[0])).is_ok());
        assert_eq!(registry.being_made(), 1);
        drop(second);
        assert_eq!(registry.being_made(), 0);
        assert_eq!(registry.taken(), 1);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_quiet_moment_has_it_when_the_last_one_is_made() {
        let registry = Arc::new(Registry::default());
        let ids = [SandboxId::random(), SandboxId::random()];
        let [first, second] = ids.map(|id| registry.reserve(id, 9).unwrap());
        let quiet = tokio::spawn({
            let registry = registry.clone();
            async move { registry.quiet_for(Duration::from_millis(1)).await }
        });
        tokio::task::yield_now().await;
        assert!(first.fill(&sandbox(ids[0])).is_ok());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!quiet.is_finished());
        drop(second);
        tokio::time::timeout(Duration::from_secs(5), quiet).await.unwrap().unwrap();
    }

    #[test]
    fn a_sandbox_abandoned_while_it_is_made_never_becomes_visible() {
        let registry = Arc::new(Registry::default());
        let id = SandboxId::random();
        let reservation = registry.reserve(id, 1).unwrap();
        let gone = registry.abandon(id).unwrap();
        let Err(reservation) = reservation.fill(&sandbox(id)) else { panic!("became visible") };
        assert!(registry.running(id).is_none() && !gone.is_cancelled());
        drop(reservation);
        assert!(gone.is_cancelled());
    }
}
