//! What a sandbox's files survive: a pause that keeps nothing else, the end of its processes while
//! it is paused, a reboot of the host.
//!
//! A paused sandbox keeps its memory with its files, or its files alone. They are brought to the
//! disk after the pause, with nobody waiting; from then on they are whole whatever becomes of the
//! host, and the record says since when. Before that they are as long as the kernel runs that has
//! them in its cache. What keeps its files alone is booted when it goes on: it has new processes
//! over the same files, under the same id and token.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::{
    Error, Phase, Reason, Sandbox, Sandboxes,
    life::{Moment, Refused},
    marks::Marks,
    pausing::Woken,
    pool::Shape,
    renewal::after,
    snapshots::Hold,
    steps::{CREATE, STEP, step},
};
use crate::backend::{CellSpec, Layer};

/// For an envd on a host that is busy, or that has just been let go on.
pub(super) const BUSY: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 10_000 });
/// Until it is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// Until a pause at a deadline that failed is tried again,
const RETRY: TimeDelta = TimeDelta::milliseconds(if cfg!(test) { 100 } else { 10_000 });
/// and for how long that goes on.
const PATIENCE: TimeDelta = TimeDelta::minutes(5);

/// What a paused sandbox keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PauseMode {
    /// Its processes, with all that they have, and its files.
    Full,
    Filesystem,
}

/// What somebody who pauses a sandbox wants.
#[derive(Clone, Copy, Debug)]
pub struct Pausing {
    pub mode: PauseMode,
    /// Not to be paused unless its envd answers.
    pub require_healthy: bool,
}

impl Default for Pausing {
    fn default() -> Self {
        Self { mode: PauseMode::Full, require_healthy: false }
    }
}

/// Of a sandbox that is paused, or about to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(rename = "pause_mode")]
    pub(super) mode: PauseMode,
    /// Since when its files are whole on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) durable_at: Option<DateTime<Utc>>,
    /// Its envd did not answer when it was paused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) unresponsive: bool,
}

impl Kept {
    pub(super) fn new(mode: PauseMode) -> Self {
        Self { mode, durable_at: None, unresponsive: false }
    }
}

/// What is known of a sandbox beyond its life: between two runs of its processes, and of them.
#[derive(Default)]
pub(super) struct Between(Mutex<State>, AtomicU64);

#[derive(Default)]
struct State {
    marks: Marks,
    /// Of the last pause at a deadline that was tried.
    overdue: Option<Overdue>,
    /// Cancelled when the first process ends.
    ended: CancellationToken,
    /// Cancelled before it is ended on purpose: it is no longer one of this sandbox's.
    off: CancellationToken,
    /// Breaks off a copy of its layer that is under way.
    copy: Option<CancellationToken>,
    /// The run of the host's kernel that it is written under.
    host: Option<String>,
    /// The snapshots that its files lie over.
    _hold: Option<Hold>,
}

/// One that is to be paused since then and may not have been.
struct Overdue {
    deadline: DateTime<Utc>,
    since: DateTime<Utc>,
    again: DateTime<Utc>,
}

impl Between {
    /// What a pause keeps of it, and what of that is on the disk.
    pub(super) fn marks<T>(&self, look: impl FnOnce(&mut Marks) -> T) -> T {
        look(&mut self.0.lock().marks)
    }

    pub(super) fn keep(&self, kept: Option<Kept>) {
        self.marks(|marks| marks.keep(kept));
    }

    /// A pause at that deadline is tried now, and not again for a while; whether it is to be ended
    /// should that fail too.
    pub(super) fn is_last_try(&self, deadline: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        let mut state = self.0.lock();
        let before = state.overdue.as_ref().filter(|overdue| overdue.deadline == deadline);
        let since = before.map_or(now, |overdue| overdue.since);
        state.overdue = Some(Overdue { deadline, since, again: (now + RETRY).trunc_subsecs(3) });
        now - since >= PATIENCE
    }

    /// Until when one whose deadline has passed is left alone.
    pub(super) fn put_off(&self, deadline: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let state = self.0.lock();
        let overdue = state.overdue.as_ref().filter(|overdue| overdue.deadline == deadline);
        overdue.map(|overdue| overdue.again)
    }

    pub(super) fn kept(&self) -> Option<Kept> {
        self.marks(|marks| marks.kept().cloned())
    }

    /// Whether traffic may wake it: what would lose something by it only its owner lets go on.
    pub(super) fn may_be_woken(&self) -> bool {
        let fit = |kept: &Kept| kept.mode == PauseMode::Full && !kept.unresponsive;
        self.marks(|marks| marks.kept().is_none_or(fit))
    }

    /// It has these processes now; returns what is cancelled before they are ended on purpose.
    pub(super) fn watch(&self, ended: CancellationToken) -> CancellationToken {
        let mut state = self.0.lock();
        state.ended = ended;
        state.off.cancel();
        state.off = CancellationToken::new();
        state.off.clone()
    }

    pub(super) fn boots(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }

    /// On this host, over what it holds of the snapshots.
    pub(super) fn settle(&self, host: Option<String>, hold: Option<Hold>) {
        let mut state = self.0.lock();
        state.host = host;
        state._hold = hold;
    }

    pub(super) fn host(&self) -> Option<String> {
        self.0.lock().host.clone()
    }

    pub(super) fn copy_begins(&self, stop: CancellationToken) {
        self.0.lock().copy = Some(stop);
    }

    pub(super) fn copy_ends(&self) {
        self.0.lock().copy = None;
    }

    pub(super) fn is_being_copied(&self) -> bool {
        self.0.lock().copy.is_some()
    }

    pub(super) fn break_off_copy(&self) {
        if let Some(stop) = &self.0.lock().copy {
            stop.cancel();
        }
    }

    pub(super) fn ended(&self) -> CancellationToken {
        self.0.lock().ended.clone()
    }

    fn off(&self) {
        self.0.lock().off.cancel();
    }
}

impl Sandbox {
    /// What its pause keeps, once it is paused.
    pub fn pause_mode(&self) -> Option<PauseMode> {
        self.paused().map(|kept| kept.mode)
    }

    /// Since when a paused sandbox survives a reboot of the host.
    pub fn durable_at(&self) -> Option<DateTime<Utc>> {
        self.between.marks(|marks| marks.durable_at()).filter(|_| self.phase() == Phase::Paused)
    }

    /// It is paused, and its envd did not answer then.
    pub fn was_unresponsive(&self) -> bool {
        self.paused().is_some_and(|kept| kept.unresponsive)
    }

    fn paused(&self) -> Option<Kept> {
        let kept = self.between.kept();
        kept.filter(|_| self.phase() == Phase::Paused)
    }
}

impl Sandboxes {
    /// What is kept by a pause that somebody wants.
    ///
    /// # Errors
    /// [`Error::Unresponsive`] where its envd has to answer and does not; it then runs on.
    pub(super) async fn agreed(&self, sandbox: &Sandbox, how: Pausing) -> Result<Kept, Error> {
        if how.require_healthy || how.mode == PauseMode::Filesystem {
            return match self.0.inside.answers(sandbox.dir()).await {
                true => Ok(Kept::new(how.mode)),
                false => Err(Error::Unresponsive(sandbox.id())),
            };
        }
        let unresponsive = !self.answers_within(sandbox, BUSY).await;
        Ok(Kept { unresponsive, ..Kept::new(how.mode) })
    }

    /// Whether its envd does, given time; once that has ended there is nobody to wait for.
    pub(super) async fn answers_within(&self, sandbox: &Sandbox, patience: Duration) -> bool {
        let asked = async {
            while !self.0.inside.answers(sandbox.dir()).await {
                time::sleep(AGAIN).await;
            }
        };
        let ended = sandbox.between.ended();
        tokio::select! {
            asked = time::timeout(patience, asked) => asked.is_ok(),
            () = ended.cancelled() => false,
            () = sandbox.gone().cancelled() => false,
        }
    }

    /// The same, of a pause that comes by itself.
    pub(super) async fn kept_at_deadline(&self, sandbox: &Sandbox) -> Kept {
        if sandbox.facts().auto_pause_filesystem {
            return Kept::new(PauseMode::Filesystem);
        }
        let full = Pausing::default();
        self.agreed(sandbox, full).await.unwrap_or_else(|_| Kept::new(full.mode))
    }

    /// Ends the processes of a sandbox and keeps its files. On error it runs on.
    pub(super) async fn let_go(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let id = sandbox.id();
        sandbox.between.off();
        let shut = self.0.backend.shut_down(id);
        let Err(error) = step("the end of a sandbox's processes", STEP, shut).await else {
            return Ok(());
        };
        let ended = sandbox.between.ended();
        if ended.is_cancelled() && !matches!(error, Error::Stuck(..)) {
            // What of it is left in the kernel is in nobody's way until it is booted.
            tracing::warn!(sandbox = %id, "not all of it is gone: {error}");
            return Ok(());
        }
        self.end_with_its_cell(sandbox.clone(), ended);
        Err(error)
    }

    /// Makes new processes over a sandbox's files, of one that is *Resuming*, in its turn. On error
    /// it has none, and its files.
    pub(super) async fn boot(
        &self,
        sandbox: &Arc<Sandbox>,
        life: Duration,
        woken: Woken,
    ) -> Result<(), Error> {
        let id = sandbox.id();
        self.check_memory()?;
        self.let_go(sandbox).await?;
        // There is nothing but them now, and they will soon not be what was flushed.
        sandbox.between.keep(Some(Kept::new(PauseMode::Filesystem)));
        self.record(sandbox).await?;
        self.withdraw(sandbox).await?;
        let _turn = self.turn_to_make().await?;
        let create = self.0.backend.create(again(sandbox));
        let cell = step("the making of a sandbox", CREATE, create).await?;
        sandbox.between.1.fetch_add(1, Ordering::Relaxed);
        // All that took its time, which is not the client's.
        let _ = sandbox.life.make(|moment, now| {
            let now = moment.paused.map_or(now, |pause| now.max(pause.at));
            moment.plan(now, after(now, life).min(self.latest(now)));
            Ok(())
        });
        if let Err(error) = self.run_on(sandbox, Some(woken)) {
            // Ended meanwhile, perhaps before there was anything to end.
            drop(self.remove_soon(id, sandbox.dir().to_owned()));
            return Err(error);
        }
        self.end_with_its_cell(sandbox.clone(), cell.ended);
        if let Err(error) = self.record(sandbox).await {
            // The next gateway finds it paused, with these files.
            tracing::error!(sandbox = %id, "it runs without a record of that: {error}");
        }
        Ok(())
    }

    /// The processes of a sandbox have ended though nobody wanted them to: it ends, unless it is
    /// paused and can go on without them. `off` is cancelled where it has others by now.
    pub(super) async fn processes_ended(&self, sandbox: &Arc<Sandbox>, off: &CancellationToken) {
        let id = sandbox.id();
        let reason = self.why_it_died(id).await;
        let ended = sandbox.life.make(|moment, now| {
            // Others run only after it was cancelled.
            if moment.phase != Phase::Running || off.is_cancelled() {
                return Err(Refused(moment.phase));
            }
            moment.end(reason, now)
        });
        if ended.is_ok() {
            return drop(self.end_claimed(sandbox, reason));
        }
        let _turn = sandbox.turn.lock().await;
        if off.is_cancelled() {
            return;
        }
        if sandbox.phase() != Phase::Paused {
            return drop(self.end(sandbox, reason));
        }
        tracing::warn!(sandbox = %id, "the processes of a paused sandbox are gone: its files stay");
        sandbox.between.marks(|marks| marks.change(|kept| kept.mode = PauseMode::Filesystem));
        let lost = |moment: &mut Moment, _| {
            moment.lose_processes(reason);
            Ok(())
        };
        // Never refused.
        let _ = sandbox.life.make(lost);
        let shut = step("the end of a sandbox's processes", STEP, self.0.backend.shut_down(id));
        for done in [self.record(sandbox).await, shut.await] {
            if let Err(error) = done {
                tracing::error!(sandbox = %id, "{error}");
            }
        }
    }
}

/// A sandbox as it was made, over the files it has.
fn again(sandbox: &Sandbox) -> CellSpec {
    let (facts, policy) = (sandbox.facts(), sandbox.policy());
    let shape = Shape {
        template: Arc::new(facts.template.clone()),
        limits: facts.limits,
        network: policy.mode(facts.network),
    };
    let init = shape.init(facts.env_vars.clone(), facts.envd_token.clone());
    let filter = policy.filter(facts.network);
    CellSpec { layer: Layer::Kept, filter, ..shape.spec(facts.id, init) }
}

impl Moment {
    /// A paused sandbox goes on without what it had in memory.
    fn lose_processes(&mut self, reason: Reason) {
        self.reason = Some(reason);
        if let Some(pause) = &mut self.paused {
            pause.reason = reason;
        }
    }

    /// The same, of one that is found so.
    pub(super) fn lost_processes(mut self, reason: Reason) -> Self {
        self.lose_processes(reason);
        self
    }
}

#[cfg(test)]
#[path = "layers_tests.rs"]
mod tests;
