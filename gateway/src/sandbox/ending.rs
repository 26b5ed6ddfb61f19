//! How sandboxes end.
//!
//! Whoever moves its life to *Stopping* ends the sandbox, and nobody else does. What follows
//! runs in a task of its own and is tried until it has worked.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use tokio::{
    sync::oneshot,
    task,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Reason, Sandbox, SandboxId, Sandboxes,
    ended::Remembered,
    life::{Fate, Life, Moment},
    record::Record,
    registry::Reservation,
    steps::{CREATE, STEP, STOPPING, step},
    trash,
};
use crate::backend::Cause;

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(60);

impl Sandboxes {
    /// Ends a sandbox, one that is still being made too. It is invisible at once; returns when
    /// nothing of it runs any more, or when that failed once and is being tried again. What it
    /// leaves in the kernel and on disk is removed after that, and has its place until then.
    pub async fn kill(&self, id: SandboxId) -> Result<(), Error> {
        let ended = async {
            if let Some(gone) = self.0.registry.abandon(id, Reason::User) {
                gone.cancelled().await;
            } else {
                let sandbox = self.present(id)?;
                let tried = self.end(&sandbox, Reason::User).ok_or(Error::NotFound(id))?;
                // The sender is only dropped when the gateway itself goes.
                let _ = tried.await;
            }
            Ok::<_, Error>(())
        };
        // What takes longer goes on being tried.
        time::timeout(CREATE, ended).await.unwrap_or(Ok(()))?;
        self.0.metrics.kill_succeeded();
        Ok(())
    }

    /// `None` when someone else ended it before. The receiver hears of the first try.
    pub(super) fn end(
        &self,
        sandbox: &Arc<Sandbox>,
        reason: Reason,
    ) -> Option<oneshot::Receiver<()>> {
        sandbox.life.end(reason).then(|| self.end_claimed(sandbox, reason))
    }

    pub(super) fn end_claimed(
        &self,
        sandbox: &Arc<Sandbox>,
        reason: Reason,
    ) -> oneshot::Receiver<()> {
        let id = sandbox.id();
        // Before it is hidden: whoever asks for it finds it in one place or the other.
        self.0.ended.remember(id, Remembered::of(sandbox));
        self.0.registry.hide(id, &sandbox.facts().tenant);
        sandbox.gone().cancel();
        self.watch(sandbox);
        tracing::info!(sandbox = %id, %reason, "ending");
        self.0.metrics.sandbox_ended(reason);
        self.tell_ended(sandbox.facts(), &sandbox.life);
        let (tried, first_try) = oneshot::channel();
        let (sandboxes, sandbox) = (self.clone(), sandbox.clone());
        self.0.tasks.spawn(async move {
            if sandbox.is_being_saved() {
                let saved = sandbox.clone();
                let saved = task::spawn_blocking(move || saved.await_last_save());
                // Fails when the runtime goes, and this task with it. A disk that writes nothing
                // keeps no process alive.
                let _ = time::timeout(STEP, saved).await;
            }
            // Nor is it to come back after a power failure, once its client has heard of its end.
            if let Err(error) = sandboxes.withdraw(&sandbox).await {
                tracing::error!(sandbox = %id, "{error}");
            }
            sandboxes.remove_telling(id, sandbox.dir(), Some(&sandbox.life), tried).await;
            sandbox.between.settle(None, None);
        });
        first_try
    }

    /// Removes what there is of a sandbox that could not be made, keeping nobody waiting. It has
    /// its place until it is gone; who wanted it ended hears of the first try.
    pub(super) fn discard(&self, place: Reservation, dir: PathBuf, reason: Reason) {
        let id = place.id();
        let life = place.life().clone();
        // Unless it was ended before.
        life.end(reason);
        self.0.ended.remember(id, Remembered::unborn(&life, place.tenant().clone()));
        self.0.registry.hide(id, place.tenant());
        let (tried, first_try) = oneshot::channel();
        let sandboxes = self.clone();
        self.0.tasks.spawn(async move {
            let told = async {
                let _ = first_try.await;
                drop(place);
            };
            tokio::join!(sandboxes.remove_telling(id, &dir, Some(&life), tried), told);
        });
    }

    /// Removes what a sandbox has in the kernel and on disk, however often it takes, and gives its
    /// place back.
    pub(super) async fn remove(&self, id: SandboxId, dir: impl AsRef<Path>) {
        self.remove_telling(id, dir.as_ref(), None, oneshot::channel().0).await;
    }

    pub(super) async fn remove_telling(
        &self,
        id: SandboxId,
        dir: &Path,
        life: Option<&Life>,
        tried: oneshot::Sender<()>,
    ) {
        let began = Instant::now();
        let mut tried = Some(tried);
        let mut wait = FIRST_RETRY;
        loop {
            match self.try_remove(id, dir, life, &mut tried).await {
                Ok(()) => break,
                Err(e) => tracing::warn!(sandbox = %id, "cannot remove, again in {wait:?}: {e}"),
            }
            tried.take();
            let late = began.elapsed() >= STOPPING;
            let failed = |life: &Life| life.make(|moment, now| moment.fail(Reason::Stuck, now));
            if late && life.is_some_and(|life| failed(life).is_ok()) {
                tracing::error!(sandbox = %id, "something of it runs {STOPPING:?} after its end");
            }
            time::sleep(wait).await;
            wait = (wait * 2).min(LAST_RETRY);
        }
        tracing::debug!(sandbox = %id, "gone");
        self.0.registry.forget(id);
    }

    /// Whoever waits hears of it when nothing of the sandbox runs.
    async fn try_remove(
        &self,
        id: SandboxId,
        dir: &Path,
        life: Option<&Life>,
        tried: &mut Option<oneshot::Sender<()>>,
    ) -> Result<(), Error> {
        // The record first: the client is told that the sandbox has ended, so should the rest
        // fail and this gateway end, the next one must not go on with it.
        let why = life.map(Life::now).and_then(|now| Some((now.reason?, now.since)));
        let removed = step("the removal of a record", STEP, Record::remove(dir, why)).await;
        if let Err(error) = removed {
            // Its processes have to end nevertheless.
            tracing::warn!(sandbox = %id, "{error}");
        }
        step("the end of a sandbox", STEP, self.0.backend.stop(id)).await?;
        if let Some(life) = life {
            // Refused where it is late.
            let _ = life.make(Moment::gone);
        }
        tried.take();
        step("the removal of a sandbox", STEP, self.0.backend.destroy(id)).await?;
        self.0.trash.take(id, dir).await
    }

    /// Ends a sandbox as soon as its first process has ended.
    pub(super) fn end_with_its_cell(&self, sandbox: Arc<Sandbox>, ended: CancellationToken) {
        let sandboxes = self.clone();
        let on_purpose = sandbox.between.watch(ended.clone());
        tokio::spawn(async move {
            tokio::select! {
                // Its processes end when it is ended on purpose, too.
                biased;
                () = sandbox.gone().cancelled() => {}
                () = on_purpose.cancelled() => {}
                () = ended.cancelled() => sandboxes.processes_ended(&sandbox, &on_purpose).await,
            }
        });
    }

    /// Why the first process of a sandbox ended, as far as anybody knows.
    pub(super) async fn why_it_died(&self, id: SandboxId) -> Reason {
        match step("a look at a sandbox's end", STEP, self.0.backend.cause(id)).await {
            Ok(Some(Cause::OutOfMemory)) => Reason::OutOfMemory,
            Ok(Some(Cause::ProcessLimit)) => Reason::ProcessLimit,
            Ok(None) => Reason::EnvdDied,
            Err(error) => {
                tracing::warn!(sandbox = %id, "{error}");
                Reason::EnvdDied
            }
        }
    }

    /// Ends or pauses sandboxes at their deadlines, and deletes what is left of them; never returns.
    pub async fn keep_tidy(&self) {
        tokio::join!(
            self.sweep(),
            self.keep_flushed(),
            self.keep_snapshots(),
            self.keep_batches(),
            self.0.trash.keep_empty(trash::RETRY)
        );
    }

    async fn sweep(&self) {
        loop {
            self.0.deadlines.next().await;
            let now = Utc::now();
            for id in self.0.deadlines.take_due(now) {
                if let Some(sandbox) = self.0.registry.running(id) {
                    self.meet(sandbox, now);
                }
            }
        }
    }

    /// A sandbox that the queue says is due.
    fn meet(&self, sandbox: Arc<Sandbox>, now: DateTime<Utc>) {
        let over = sandbox.is_due(now);
        if over && sandbox.facts().auto_pause {
            self.pause_at_deadline(sandbox);
        } else if over && sandbox.life.expire(now, Fate::End) {
            drop(self.end_claimed(&sandbox, Reason::Deadline));
        } else if !over && sandbox.is_idle(now) {
            self.pause_when_idle(sandbox);
        } else {
            // Renewed, or used, between the queue's look and ours.
            self.watch(&sandbox);
        }
    }

    /// Makes no more sandboxes, ends those that are nobody's, and all others if so asked, and waits for what is under way;
    /// `false` when that took longer than `within`.
    pub async fn stop(&self, end_all: bool, within: Duration) -> bool {
        self.0.stopping.store(true, Ordering::Release);
        self.close_pool();
        let all_done = async {
            if end_all {
                // Twice: what was being made at first is running after the wait.
                for _ in 0..2 {
                    for sandbox in self.0.registry.all_present() {
                        drop(self.end(&sandbox, Reason::Admin));
                    }
                    self.0.tasks.close();
                    self.0.tasks.wait().await;
                }
            } else {
                self.0.tasks.close();
                self.0.tasks.wait().await;
            }
        };
        time::timeout(within, all_done).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use futures_util::future;

    use super::*;
    use crate::sandbox::{
        Rules, Wanted,
        testing::{self, bed},
    };

    #[tokio::test]
    async fn a_destroy_that_fails_is_tried_until_it_works_while_the_client_has_its_answer() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.backend.failing_destroys.store(2, SeqCst);
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        assert!(bed.sandboxes.running(sandbox.id()).is_err());
        bed.until_nothing_is_left().await;
    }

    #[tokio::test]
    async fn an_expired_sandbox_and_one_whose_envd_died_are_reaped() {
        let bed = bed(testing::rules());
        let short = Wanted { timeout: Duration::from_millis(100), ..testing::wanted() };
        let short = bed.sandboxes.create(short, None).await.unwrap();
        let dead = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let kept = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.backend.end_cell(dead.id());
        tokio::time::timeout(Duration::from_secs(1), async {
            tokio::join!(short.gone().cancelled(), dead.gone().cancelled())
        })
        .await
        .expect("both end within a second");
        bed.sandboxes.kill(kept.id()).await.unwrap();
        bed.until_nothing_is_left().await;
    }

    #[tokio::test]
    async fn a_gateway_that_stops_takes_its_sandboxes_along_only_when_asked() {
        let bed = bed(testing::rules());
        let kept = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        assert!(bed.sandboxes.stop(false, Duration::from_secs(1)).await);
        assert!(bed.sandboxes.running(kept.id()).is_ok());
        let late = bed.sandboxes.create(testing::wanted(), None).await;
        assert!(matches!(late, Err(Error::Stopping)));
        assert!(bed.sandboxes.stop(true, Duration::from_secs(1)).await);
        bed.until_nothing_is_left().await;
    }

    #[tokio::test]
    async fn an_ended_sandbox_does_not_come_back_though_nothing_of_it_could_be_removed() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.backend.failing_destroys.store(1000, SeqCst);
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        assert!(!sandbox.dir().join("sandbox.json").exists());
        // A write of the record that comes too late.
        sandbox.save().unwrap();
        assert!(!sandbox.dir().join("sandbox.json").exists());

        let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
        bed.backend.failing_destroys.store(0, SeqCst);
        after.adopt_all().await.unwrap();
        assert!(after.running(sandbox.id()).is_err());
        bed.until_nothing_is_left().await;
    }

    #[tokio::test]
    async fn an_ended_sandbox_has_its_place_until_it_is_gone() {
        let bed = bed(Rules { max_sandboxes: 1, ..testing::rules() });
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.backend.failing_destroys.store(1000, SeqCst);
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        let full = bed.sandboxes.create(testing::wanted(), None).await;
        assert!(matches!(full, Err(Error::Full(_))));
        bed.backend.failing_destroys.store(0, SeqCst);
        bed.until_nothing_is_left().await;
        let next = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.sandboxes.kill(next.id()).await.unwrap();
        // Its place may not be free yet when the kill is answered, but is within a moment.
        bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_sandboxes_end_within_a_second_of_their_deadlines() {
        const MANY: u64 = 1000;
        let bed = bed(Rules { max_sandboxes: MANY as usize, ..testing::rules() });
        let create = || bed.sandboxes.create(testing::wanted(), None);
        let mut sandboxes = Vec::new();
        // Not all at once, as each that is being made is reckoned with its memory.
        for _ in 0..10 {
            let some = future::try_join_all((0..MANY / 10).map(|_| create())).await.unwrap();
            sandboxes.extend(some);
        }
        let ends = sandboxes.iter().cloned().map(|sandbox| {
            tokio::spawn(async move {
                sandbox.cut().cancelled().await;
                (Utc::now() - sandbox.life.now().deadline).num_milliseconds()
            })
        });
        let late = future::try_join_all(ends.collect::<Vec<_>>());
        let renewals = sandboxes.iter().zip(0..).map(|(sandbox, n)| {
            // Spread over two seconds, in another order than they were made in.
            let timeout = Duration::from_millis(500 + n * 37 % MANY * 2);
            bed.sandboxes.set_timeout(sandbox.id(), timeout)
        });
        future::try_join_all(renewals).await.unwrap();
        let late = time::timeout(Duration::from_secs(30), late).await.unwrap().unwrap();
        let (least, most) = (late.iter().min().unwrap(), late.iter().max().unwrap());
        assert!(*least >= -1 && *most < 1000, "{least} ms to {most} ms late");
        bed.until_nothing_is_left().await;
    }
}
