//! Pausing sandboxes, and having them go on.
//!
//! Whoever does either has the sandbox's turn until it is through, in a task of its own; each step
//! has a bound. The record says what the client was told last, so a gateway that starts makes the
//! kernel agree with it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::time::timeout;

use super::{
    Error, Phase, Reason, Sandbox, SandboxId, Sandboxes,
    layers::{BUSY, Kept, PauseMode, Pausing},
    life::{Fate, Moment, Refused},
    marks::Marks,
    renewal::after,
    steps::{STEP, step},
};

/// For whoever connects, while others pause.
const TRIES: usize = 3;
/// For the envd of one that goes on to say so; one that takes longer is only slow.
const GREETING: Duration = Duration::from_secs(1);
/// For a turn to pause, behind others.
pub(super) const TURN: Duration = Duration::from_secs(20);

/// How one that goes on stood still.
#[derive(Clone, Copy)]
pub(super) struct Woken {
    pub(super) before: Moment,
    /// When it was asked to go on, and had its turn.
    pub(super) began: Instant,
}

impl Sandboxes {
    /// Stops a sandbox where it is; its time stands still. Returns when nothing of it runs, and a
    /// gateway that starts anew would find it paused.
    ///
    /// # Errors
    /// [`Error::NotNow`] when it does not run. Where stopping it fails it runs on.
    pub async fn pause(&self, id: SandboxId, how: Pausing) -> Result<(), Error> {
        let sandbox = self.not_ending(id)?;
        // Who comes second need not wait to be told so.
        match sandbox.phase() {
            Phase::Running | Phase::Resuming => {}
            phase => return Err(refused(id)(Refused(phase))),
        }
        if sandbox.between.is_being_copied() {
            return Err(Error::BeingCopied(id));
        }
        let sandboxes = self.clone();
        self.in_task(async move {
            let turn = timeout(TURN, sandbox.turn.lock()).await;
            let _turn = turn.map_err(|_| sandboxes.no_turn(&sandbox))?;
            let kept = match sandbox.phase() {
                Phase::Running => sandboxes.agreed(&sandbox, how).await?,
                phase => return Err(refused(id)(Refused(phase))),
            };
            let paused = sandbox.life.make(|moment, now| moment.pause(Reason::User, now));
            paused.map_err(refused(id))?;
            sandboxes.ended_if_stuck(&sandbox, sandboxes.stop_still(&sandbox, kept).await)
        })
        .await
    }

    pub(super) fn no_turn(&self, sandbox: &Sandbox) -> Error {
        match sandbox.between.is_being_copied() {
            true => Error::BeingCopied(sandbox.id()),
            false => Error::NotNow(sandbox.id(), sandbox.phase()),
        }
    }

    /// Pauses a sandbox whose time is over; one that cannot be, however often that is tried, is
    /// ended.
    pub(super) fn pause_at_deadline(&self, sandbox: Arc<Sandbox>) {
        let sandboxes = self.clone();
        sandbox.between.break_off_copy();
        self.0.tasks.spawn(async move {
            let _turn = sandbox.turn.lock().await;
            let kept = sandboxes.kept_at_deadline(&sandbox).await;
            let now = Utc::now();
            if !sandbox.is_due(now) || !sandbox.life.expire(now, Fate::Pause) {
                // Renewed, paused or ended meanwhile, or just tried by somebody else.
                return sandboxes.watch(&sandbox);
            }
            let last = sandbox.between.is_last_try(sandbox.life.now().deadline, now);
            let stopped = sandboxes.stop_still(&sandbox, kept).await;
            match sandboxes.ended_if_stuck(&sandbox, stopped) {
                Ok(()) | Err(Error::NotFound(_) | Error::Stuck(..)) => {}
                Err(error) => {
                    tracing::error!(sandbox = %sandbox.id(), last, "cannot pause: {error}");
                    if last {
                        drop(sandboxes.end(&sandbox, Reason::PauseFailed));
                    }
                }
            }
        });
    }

    /// Of what a step has not come back from nobody can say how it stands, so it is ended.
    pub(super) fn ended_if_stuck<T>(
        &self,
        sandbox: &Arc<Sandbox>,
        done: Result<T, Error>,
    ) -> Result<T, Error> {
        if let Err(error @ Error::Stuck(..)) = &done {
            tracing::error!(sandbox = %sandbox.id(), "{error}");
            drop(self.end(sandbox, Reason::Stuck));
        }
        done
    }

    /// Of one that is *Pausing*, in its turn.
    pub(super) async fn stop_still(&self, sandbox: &Arc<Sandbox>, kept: Kept) -> Result<(), Error> {
        let id = sandbox.id();
        self.watch(sandbox);
        sandbox.cut().cancel();
        let began = Instant::now();
        let files = kept.mode == PauseMode::Filesystem;
        sandbox.between.marks(|marks| match files {
            true => marks.keep_files(kept),
            false => marks.keep(Some(kept)),
        });
        let freeze = async { if files { Ok(()) } else { self.0.backend.freeze(id).await } };
        if let Err(error) = step("the freezing of a sandbox", STEP, freeze).await {
            if !matches!(error, Error::Stuck(..)) {
                // It runs on.
                self.run_on(sandbox, None)?;
            }
            return Err(error);
        }
        sandbox.life.make(Moment::stand).map_err(refused(id))?;
        let stood = match self.record(sandbox).await {
            // With its record written: whoever finds it then ends them.
            Ok(()) if files => self.let_go(sandbox).await,
            recorded => recorded,
        };
        let error = match stood {
            Ok(()) => {
                sandbox.between.marks(Marks::has_ended);
                self.tell_paused(sandbox, began.elapsed());
                let reason = sandbox.status().reason.map_or("", Reason::code);
                tracing::info!(sandbox = %id, reason, files_only = files, "paused");
                self.flush_soon(sandbox);
                return Ok(());
            }
            Err(error @ Error::Stuck(..)) => return Err(error),
            Err(error) => error,
        };
        // The next gateway would not know that it is paused, so it is not to be.
        let now = sandbox.life.now();
        let resumed = |moment: &mut Moment, _| {
            moment.resume(Reason::PauseFailed, now.runs_since, now.deadline)
        };
        sandbox.life.make(resumed).map_err(refused(id))?;
        // Somebody may be flushing it, since before.
        sandbox.between.marks(Marks::stir);
        match self.go_on(sandbox, false, None).await {
            Ok(()) => {
                self.record_soon(sandbox);
                Err(error)
            }
            Err(stuck @ Error::Stuck(..)) => Err(stuck),
            Err(stuck) if files => {
                tracing::error!(sandbox = %id, "neither paused nor let go on: {stuck}");
                drop(self.end(sandbox, Reason::Stuck));
                Err(error)
            }
            Err(stays) => {
                tracing::error!(sandbox = %id, "paused without a record: {stays}");
                self.stay(sandbox).await?;
                Err(error)
            }
        }
    }

    /// The sandbox of that id, which runs until `timeout` from now at least; whether it was paused
    /// before.
    pub async fn connect(
        &self,
        id: SandboxId,
        timeout: Duration,
        memory: bool,
    ) -> Result<(Arc<Sandbox>, bool), Error> {
        for _ in 0..TRIES {
            // Before it is found running: it is not idle from then on.
            self.not_ending(id)?.touch();
            match self.extend(id, timeout).await {
                Err(Error::NotNow(..)) => {}
                extended => return Ok((extended?, false)),
            }
            if self.resume(id, timeout, Reason::User, memory).await? {
                return Ok((self.present(id)?, true));
            }
        }
        Err(Error::BrokenOff(format!("sandbox {id} is paused again and again")))
    }

    /// Lets a paused sandbox go on for `timeout`; waits for a pause that is under way. `false` when
    /// it runs already. Without `memory`, or where nothing but its files was kept, it is booted.
    pub async fn resume(
        &self,
        id: SandboxId,
        timeout: Duration,
        reason: Reason,
        memory: bool,
    ) -> Result<bool, Error> {
        let sandbox = self.not_ending(id)?;
        let sandboxes = self.clone();
        self.in_task(async move {
            let _turn = sandbox.turn.lock().await;
            if sandbox.phase() == Phase::Running {
                return Ok(false);
            }
            let resumed = sandboxes.wake(&sandbox, timeout, reason, memory).await;
            sandboxes.ended_if_stuck(&sandbox, resumed)?;
            Ok(true)
        })
        .await
    }

    /// Of one that is *Paused*, in its turn.
    async fn wake(
        &self,
        sandbox: &Arc<Sandbox>,
        timeout: Duration,
        reason: Reason,
        memory: bool,
    ) -> Result<(), Error> {
        let (id, began) = (sandbox.id(), Instant::now());
        // Where its processes are gone nobody may have noticed yet.
        let cold = !memory
            || sandbox.pause_mode() == Some(PauseMode::Filesystem)
            || sandbox.between.ended().is_cancelled();
        let doubtful = sandbox.was_unresponsive();
        let woken = Woken { before: sandbox.life.now(), began };
        let resumed = |moment: &mut Moment, now: DateTime<Utc>| {
            // Its time goes on from where it stood still, wherever the clock went meanwhile.
            let now = moment.paused.map_or(now, |pause| now.max(pause.at));
            moment.resume(reason, now, after(now, timeout).min(self.latest(now)))
        };
        sandbox.life.make(resumed).map_err(refused(id))?;
        sandbox.between.marks(Marks::stir);
        // Before it runs: a gateway that dies now leaves one that the next lets go on.
        let mut booted = cold;
        let going = match cold {
            true => self.boot(sandbox, timeout, woken).await,
            false => match self.record(sandbox).await {
                Ok(()) => match self.go_on(sandbox, doubtful, Some(woken)).await {
                    Err(Error::Unresponsive(_)) => {
                        booted = true;
                        self.boot(sandbox, timeout, woken).await
                    }
                    going => going,
                },
                Err(error) => Err(error),
            },
        };
        match going {
            Ok(()) => {
                tracing::info!(sandbox = %id, %reason, booted, "resumed");
                Ok(())
            }
            // Ended meanwhile, and there may be nothing any more to go on.
            Err(_) if sandbox.life.is_over() => Err(Error::NotFound(id)),
            Err(stuck @ Error::Stuck(..)) => Err(stuck),
            Err(error) => {
                self.stay(sandbox).await?;
                Err(error)
            }
        }
    }

    /// Of one that could not go on, in its turn. What cannot be stopped again is not to be told as
    /// paused, so it is ended.
    async fn stay(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let id = sandbox.id();
        let kept = sandbox.between.kept();
        if kept.is_none_or(|kept| kept.mode == PauseMode::Full) {
            let freeze = self.0.backend.freeze(id);
            if let Err(error) = step("the freezing of a sandbox", STEP, freeze).await {
                tracing::error!(sandbox = %id, "neither goes on nor stands still: {error}");
                drop(self.end(sandbox, Reason::Stuck));
                return Err(error);
            }
        }
        sandbox.life.make(Moment::stand).map_err(refused(id))?;
        if let Err(error) = self.record(sandbox).await {
            tracing::error!(sandbox = %id, "the next gateway would let it go on: {error}");
        }
        self.flush_soon(sandbox);
        Ok(())
    }

    /// Of one that is *Resuming*, in its turn; where that is in doubt, only if its envd answers.
    ///
    /// # Errors
    /// [`Error::Unresponsive`] where its envd has died, which may be seen only now.
    async fn go_on(
        &self,
        sandbox: &Arc<Sandbox>,
        doubtful: bool,
        woken: Option<Woken>,
    ) -> Result<(), Error> {
        let id = sandbox.id();
        self.withdraw(sandbox).await?;
        step("the thawing of a sandbox", STEP, self.0.backend.thaw(id)).await?;
        let patience = if doubtful { BUSY } else { GREETING };
        let answers = self.answers_within(sandbox, patience).await;
        if sandbox.between.ended().is_cancelled() {
            return Err(Error::Unresponsive(id));
        }
        if doubtful && !answers {
            return Err(Error::OnlyFiles(id));
        }
        self.run_on(sandbox, woken)
    }

    /// As [`Self::go_on`], of one whose processes do already; `woken` where it was told as paused.
    pub(super) fn run_on(&self, sandbox: &Arc<Sandbox>, woken: Option<Woken>) -> Result<(), Error> {
        let id = sandbox.id();
        sandbox.mend();
        let runs = sandbox.life.make_telling(Moment::run, |moment, was_told| {
            if let Some(woken) = woken {
                self.tell_resumed(sandbox.facts(), moment, was_told, &woken);
            }
        });
        runs.map_err(refused(id))?;
        sandbox.between.keep(None);
        self.watch(sandbox);
        Ok(())
    }

    /// The sandbox of that id as whoever sends it something finds it: running, woken if it is to
    /// be, and awaited while it is on its way.
    pub async fn reach(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        let sandbox = self.0.registry.present(id)?;
        let facts = sandbox.facts();
        match sandbox.phase() {
            Phase::Running => {}
            _ if facts.auto_resume && sandbox.between.may_be_woken() => {
                let timeout = Duration::from_secs(facts.timeout);
                if let Err(error) = self.resume(id, timeout, Reason::Traffic, true).await {
                    tracing::warn!(sandbox = %id, "cannot wake: {error}");
                    return None;
                }
            }
            Phase::Resuming => drop(sandbox.turn.lock().await),
            _ => return None,
        }
        (sandbox.phase() == Phase::Running).then_some(sandbox)
    }

    /// A client that hangs up changes nothing.
    pub(super) async fn in_task<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.0.tasks.spawn(work).await.map_err(|e| Error::BrokenOff(e.to_string()))?
    }
}

pub(super) fn refused(id: SandboxId) -> impl FnOnce(Refused) -> Error {
    move |Refused(phase)| {
        if phase.is_over() { Error::NotFound(id) } else { Error::NotNow(id, phase) }
    }
}

#[cfg(test)]
#[path = "pausing_tests.rs"]
mod tests;
