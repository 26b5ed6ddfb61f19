//! Pausing sandboxes, and having them go on.
//!
//! Whoever does either has the sandbox's turn until it is through, in a task of its own; each step
//! has a bound. The record says what the client was told last, so a gateway that starts makes the
//! kernel agree with it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;

use super::{
    Error, Phase, Sandbox, SandboxId, Sandboxes,
    ending::Reason,
    life::{Move, Refused},
    renewal::after,
};

/// For whoever connects, while others pause.
const TRIES: usize = 3;

impl Sandboxes {
    /// Stops a sandbox where it is; its time stands still. Returns when nothing of it runs, and a
    /// gateway that starts anew would find it paused.
    ///
    /// # Errors
    /// [`Error::NotNow`] when it does not run. Where stopping it fails it runs on.
    pub async fn pause(&self, id: SandboxId) -> Result<(), Error> {
        let sandbox = self.present(id)?;
        // Who comes second need not wait to be told so.
        match sandbox.phase() {
            Phase::Running | Phase::Resuming => {}
            phase => return Err(refused(id)(Refused(phase))),
        }
        let sandboxes = self.clone();
        self.in_task(async move {
            let _turn = sandbox.turn.lock().await;
            sandbox.life.make(Move::Pause).map_err(refused(id))?;
            sandboxes.stop_still(&sandbox).await?;
            tracing::info!(sandbox = %id, "paused");
            Ok(())
        })
        .await
    }

    /// Pauses a sandbox whose time is over; one that cannot be is ended.
    pub(super) fn pause_at_deadline(&self, sandbox: Arc<Sandbox>) {
        let sandboxes = self.clone();
        self.0.tasks.spawn(async move {
            let _turn = sandbox.turn.lock().await;
            if !sandbox.life.expire(Utc::now(), Move::Pause) {
                // Renewed, paused or ended meanwhile.
                return sandboxes.0.deadlines.watch(sandbox.id(), &sandbox.life);
            }
            match sandboxes.stop_still(&sandbox).await {
                Ok(()) => tracing::info!(sandbox = %sandbox.id(), "paused at its deadline"),
                Err(Error::NotFound(_)) => {}
                Err(error) => {
                    tracing::error!(sandbox = %sandbox.id(), "cannot pause: {error}");
                    drop(sandboxes.end(&sandbox, Reason::NotPaused));
                }
            }
        });
    }

    /// Of one that is *pausing*, in its turn.
    async fn stop_still(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let id = sandbox.id();
        self.0.deadlines.watch(id, &sandbox.life);
        sandbox.cut().cancel();
        let began = Instant::now();
        if let Err(error) = self.0.backend.freeze(id).await {
            // It runs on.
            self.run_on(sandbox)?;
            return Err(error.into());
        }
        sandbox.life.make(Move::Stand).map_err(refused(id))?;
        let Err(error) = self.record(sandbox).await else {
            self.0.metrics.pause_succeeded(began.elapsed());
            return Ok(());
        };
        // The next gateway would not know that it is paused, so it is not to be.
        let now = sandbox.life.now();
        sandbox.life.resume(now.runs_since, now.deadline).map_err(refused(id))?;
        if let Err(stuck) = self.go_on(sandbox).await {
            tracing::error!(sandbox = %id, "paused without a record: {stuck}");
            sandbox.life.make(Move::Stand).map_err(refused(id))?;
        }
        Err(error)
    }

    /// The sandbox of that id, which runs until `timeout` from now at least; whether it was paused
    /// before.
    pub async fn connect(
        &self,
        id: SandboxId,
        timeout: Duration,
    ) -> Result<(Arc<Sandbox>, bool), Error> {
        for _ in 0..TRIES {
            match self.extend(id, timeout) {
                Err(Error::NotNow(..)) => {}
                extended => return Ok((extended?, false)),
            }
            if self.resume(id, timeout).await? {
                return Ok((self.present(id)?, true));
            }
        }
        Err(Error::BrokenOff(format!("sandbox {id} is paused again and again")))
    }

    /// Lets a paused sandbox go on for `timeout`; waits for a pause that is under way. `false` when
    /// it runs already.
    pub async fn resume(&self, id: SandboxId, timeout: Duration) -> Result<bool, Error> {
        let sandbox = self.present(id)?;
        let sandboxes = self.clone();
        self.in_task(async move {
            let _turn = sandbox.turn.lock().await;
            if sandbox.phase() == Phase::Running {
                return Ok(false);
            }
            let (now, began) = (Utc::now(), Instant::now());
            let deadline = after(now, timeout.min(sandboxes.0.rules.max_life));
            sandbox.life.resume(now, deadline).map_err(refused(id))?;
            // Before it runs: a gateway that dies now leaves one that the next lets go on.
            let going = match sandboxes.record(&sandbox).await {
                Ok(()) => sandboxes.go_on(&sandbox).await,
                Err(error) => Err(error),
            };
            if let Err(error) = going {
                sandbox.life.make(Move::Stand).map_err(refused(id))?;
                for undone in [
                    sandboxes.0.backend.freeze(id).await.map_err(Error::from),
                    sandboxes.record(&sandbox).await,
                ] {
                    if let Err(undone) = undone {
                        tracing::error!(sandbox = %id, "cannot be paused again: {undone}");
                    }
                }
                return Err(error);
            }
            sandboxes.0.metrics.resume_succeeded(began.elapsed());
            tracing::info!(sandbox = %id, "resumed");
            Ok(true)
        })
        .await
    }

    /// Of one that is *pausing* or *resuming*, in its turn.
    async fn go_on(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let id = sandbox.id();
        self.0.backend.thaw(id).await?;
        self.run_on(sandbox)
    }

    /// As [`Self::go_on`], of one whose processes do already.
    fn run_on(&self, sandbox: &Arc<Sandbox>) -> Result<(), Error> {
        let id = sandbox.id();
        sandbox.mend();
        sandbox.life.make(Move::Run).map_err(refused(id))?;
        self.0.deadlines.watch(id, &sandbox.life);
        Ok(())
    }

    /// The sandbox of that id as whoever sends it something finds it: running, woken if it is to
    /// be, and awaited while it is on its way.
    pub async fn reach(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        let sandbox = self.0.registry.present(id)?;
        let facts = sandbox.facts();
        match sandbox.phase() {
            Phase::Running => {}
            _ if facts.auto_resume => {
                if let Err(error) = self.resume(id, Duration::from_secs(facts.timeout)).await {
                    tracing::warn!(sandbox = %id, "cannot wake: {error}");
                    return None;
                }
            }
            Phase::Resuming => drop(sandbox.turn.lock().await),
            Phase::Pausing | Phase::Paused | Phase::Ended => return None,
        }
        (sandbox.phase() == Phase::Running).then_some(sandbox)
    }

    /// A client that hangs up changes nothing.
    async fn in_task<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.0.tasks.spawn(work).await.map_err(|e| Error::BrokenOff(e.to_string()))?
    }
}

pub(super) fn refused(id: SandboxId) -> impl FnOnce(Refused) -> Error {
    move |Refused(phase)| match phase {
        Phase::Ended => Error::NotFound(id),
        phase => Error::NotNow(id, phase),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::sandbox::{
        Wanted,
        testing::{self, Bed, bed},
    };

    const LONG: Duration = Duration::from_secs(60);

    async fn paused(bed: &Bed, wanted: Wanted) -> Arc<Sandbox> {
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        bed.sandboxes.pause(sandbox.id()).await.unwrap();
        sandbox
    }

    async fn until(what: impl Fn() -> bool) {
        let waited = async {
            while !what() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waited).await.expect("it never comes");
    }

    #[tokio::test]
    async fn a_paused_sandbox_stands_still_and_goes_on_when_connected_to() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let (id, cut) = (sandbox.id(), sandbox.cut());
        bed.sandboxes.pause(id).await.unwrap();
        assert!(cut.is_cancelled() && !sandbox.gone().is_cancelled());
        assert!(bed.backend.is_frozen(id));
        assert!(bed.sandboxes.running(id).is_err() && bed.sandboxes.reach(id).await.is_none());
        let again = bed.sandboxes.pause(id).await;
        assert!(matches!(again, Err(Error::NotNow(_, Phase::Paused))), "{again:?}");
        let renewed = bed.sandboxes.set_timeout(id, LONG);
        assert!(matches!(renewed, Err(Error::NotNow(_, Phase::Paused))), "{renewed:?}");

        let (same, resumed) = bed.sandboxes.connect(id, LONG).await.unwrap();
        assert!(resumed && Arc::ptr_eq(&same, &sandbox) && !bed.backend.is_frozen(id));
        assert!(!sandbox.cut().is_cancelled());
        let left = sandbox.ends_at().unwrap() - Utc::now();
        assert!((58..=60).contains(&left.num_seconds()), "{left}");
        let (_, resumed) = bed.sandboxes.connect(id, LONG).await.unwrap();
        assert!(!resumed);
        assert!(!bed.sandboxes.resume(id, LONG).await.unwrap());
    }

    #[tokio::test]
    async fn of_many_who_pause_or_resume_at_once_one_does_and_it_ends_as_the_last_one_said() {
        let bed = bed(testing::rules());
        let id = bed.sandboxes.create(testing::wanted(), None).await.unwrap().id();
        let pauses = (0..10).map(|_| bed.sandboxes.pause(id));
        let paused = futures_util::future::join_all(pauses).await;
        assert_eq!(paused.iter().filter(|paused| paused.is_ok()).count(), 1, "{paused:?}");
        let resumes = (0..10).map(|_| bed.sandboxes.resume(id, LONG));
        let resumed = futures_util::future::try_join_all(resumes).await.unwrap();
        assert_eq!(resumed.iter().filter(|resumed| **resumed).count(), 1, "{resumed:?}");
        assert!(!bed.backend.is_frozen(id));
    }

    #[tokio::test]
    async fn at_its_deadline_one_is_paused_rather_than_ended_where_that_was_asked_for() {
        let bed = bed(testing::rules());
        let short = Duration::from_millis(100);
        let wanted = Wanted { auto_pause: true, timeout: short, ..testing::wanted() };
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        until(|| sandbox.phase() == Phase::Paused).await;
        assert!(bed.backend.is_frozen(sandbox.id()));
        // No deadline ends it.
        tokio::time::sleep(2 * short).await;
        assert_eq!(sandbox.phase(), Phase::Paused);
        bed.sandboxes.connect(sandbox.id(), short).await.unwrap();
        until(|| sandbox.phase() == Phase::Paused).await;
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        bed.until_nothing_is_left().await;
    }

    #[tokio::test]
    async fn who_sends_it_something_wakes_one_that_is_to_be_woken() {
        let bed = bed(testing::rules());
        let wanted = Wanted { auto_pause: true, auto_resume: true, ..testing::wanted() };
        let sandbox = paused(&bed, wanted).await;
        let reached =
            futures_util::future::join_all((0..5).map(|_| bed.sandboxes.reach(sandbox.id())));
        assert!(reached.await.iter().all(Option::is_some));
        assert!(!bed.backend.is_frozen(sandbox.id()));
        let left = sandbox.ends_at().unwrap() - Utc::now();
        assert!((58..=60).contains(&left.num_seconds()), "{left}");
    }

    #[tokio::test]
    async fn one_that_cannot_be_stopped_runs_on_and_at_its_deadline_ends() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let before = sandbox.ends_at();
        bed.backend.failing_freezes.store(1, SeqCst);
        // Nobody asks for that.
        bed.backend.failing_thaws.store(1, SeqCst);
        assert!(bed.sandboxes.pause(sandbox.id()).await.is_err());
        assert_eq!(bed.backend.failing_thaws.swap(0, SeqCst), 1);
        assert_eq!((sandbox.phase(), sandbox.ends_at()), (Phase::Running, before));
        assert!(!sandbox.cut().is_cancelled());

        let short = Duration::from_millis(50);
        let wanted = Wanted { auto_pause: true, timeout: short, ..testing::wanted() };
        bed.backend.failing_freezes.store(1, SeqCst);
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        until(|| sandbox.phase() == Phase::Ended).await;
    }

    #[tokio::test]
    async fn what_cannot_be_written_down_is_not_told_either() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        // In the place of the file that a record is written to first.
        let beside = sandbox.dir().join(".sandbox.json");
        std::fs::create_dir(&beside).unwrap();
        assert!(bed.sandboxes.pause(sandbox.id()).await.is_err());
        assert_eq!(sandbox.phase(), Phase::Running);
        assert!(!bed.backend.is_frozen(sandbox.id()) && !sandbox.cut().is_cancelled());

        std::fs::remove_dir(&beside).unwrap();
        bed.sandboxes.pause(sandbox.id()).await.unwrap();
        std::fs::create_dir(&beside).unwrap();
        assert!(bed.sandboxes.connect(sandbox.id(), LONG).await.is_err());
        assert_eq!(sandbox.phase(), Phase::Paused);
        assert!(bed.backend.is_frozen(sandbox.id()));
    }

    #[tokio::test]
    async fn one_that_cannot_go_on_stays_paused() {
        let bed = bed(testing::rules());
        let sandbox = paused(&bed, testing::wanted()).await;
        let since = sandbox.ends_at();
        bed.backend.failing_thaws.store(1, SeqCst);
        assert!(bed.sandboxes.connect(sandbox.id(), LONG).await.is_err());
        assert_eq!((sandbox.phase(), sandbox.ends_at()), (Phase::Paused, since));
        assert!(bed.backend.is_frozen(sandbox.id()));
        bed.sandboxes.connect(sandbox.id(), LONG).await.unwrap();
    }

    #[tokio::test]
    async fn a_kill_wins_over_a_pause_under_way_and_over_a_paused_sandbox() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        *bed.backend.freeze_takes.lock() = Duration::from_millis(200);
        let id = sandbox.id();
        let (paused, killed) = tokio::join!(bed.sandboxes.pause(id), async {
            until(|| sandbox.phase() == Phase::Pausing).await;
            bed.sandboxes.kill(id).await
        });
        killed.unwrap();
        assert!(matches!(paused, Err(Error::NotFound(_))), "{paused:?}");
        bed.until_nothing_is_left().await;

        let sandbox = self::paused(&bed, testing::wanted()).await;
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        assert!(sandbox.gone().is_cancelled());
        bed.until_nothing_is_left().await;
    }

    #[tokio::test]
    async fn who_creates_again_with_the_same_key_finds_it_running() {
        let bed = bed(testing::rules());
        let first = bed.sandboxes.create(testing::wanted(), Some("k")).await.unwrap();
        bed.sandboxes.pause(first.id()).await.unwrap();
        let again = bed.sandboxes.create(testing::wanted(), Some("k")).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!(again.phase(), Phase::Running);
        assert!(!bed.backend.is_frozen(first.id()));
    }

    #[tokio::test]
    async fn one_that_a_new_gateway_cannot_let_go_on_is_paused_to_its_clients() {
        let bed = bed(testing::rules());
        let running = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.backend.freeze_quietly(running.id());
        bed.backend.failing_thaws.store(1, SeqCst);
        let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
        after.adopt_all().await.unwrap();
        assert_eq!(after.present(running.id()).unwrap().phase(), Phase::Paused);
        let (_, resumed) = after.connect(running.id(), LONG).await.unwrap();
        assert!(resumed && !bed.backend.is_frozen(running.id()));
    }

    #[tokio::test]
    async fn a_gateway_that_starts_finds_the_paused_paused_and_lets_the_others_run() {
        let bed = bed(testing::rules());
        let short = Wanted { timeout: Duration::from_millis(200), ..testing::wanted() };
        let paused = paused(&bed, short).await;
        let running = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        // The one before died in the middle of each.
        bed.backend.thaw_quietly(paused.id());
        bed.backend.freeze_quietly(running.id());
        tokio::time::sleep(Duration::from_millis(250)).await;

        let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
        after.adopt_all().await.unwrap();
        let adopted = after.present(paused.id()).unwrap();
        assert_eq!((adopted.phase(), adopted.ends_at()), (Phase::Paused, paused.ends_at()));
        assert!(adopted.cut().is_cancelled() && !adopted.gone().is_cancelled());
        assert!(bed.backend.is_frozen(paused.id()) && !bed.backend.is_frozen(running.id()));
        assert!(after.running(running.id()).is_ok());
        after.connect(paused.id(), LONG).await.unwrap();
    }
}
