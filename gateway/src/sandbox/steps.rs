//! How long a step of a sandbox's life may take.

use std::time::Duration;

use tokio::time;

use super::{Error, Sandboxes};

/// For one step; what does it gives up on its own in less.
pub(super) const STEP: Duration = Duration::from_secs(30);
/// For a sandbox to be made, and a client to hear of it before it gives up.
pub(super) const CREATE: Duration = Duration::from_secs(50);
/// For nothing of an ended sandbox to run any more, however often that is tried.
pub(super) const STOPPING: Duration = Duration::from_secs(60);

/// Does a step. One that is not over in time has done nobody knows what: of its sandbox nothing
/// can be said any more, and it is to be [ended](super::Reason::Stuck).
pub(super) async fn step<T, E: Into<Error>>(
    what: &'static str,
    patience: Duration,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    match time::timeout(patience, step).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => Err(Error::Stuck(what, patience)),
    }
}

impl Sandboxes {
    /// For how long the oldest move that is under way has been.
    pub fn oldest_transition(&self) -> Option<Duration> {
        let lives = self.0.registry.under_way().into_iter().chain(self.0.ended.stopping());
        let since = lives.map(|life| life.now()).filter(|now| now.phase.is_under_way());
        let oldest = since.map(|now| now.since).min()?;
        Some((chrono::Utc::now() - oldest).to_std().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::sandbox::{
        Pausing, Phase, Reason,
        testing::{self, bed},
    };

    const FOR_EVER: Duration = Duration::from_secs(1_000_000);

    /// Of a clock that runs ahead.
    async fn in_minutes(what: impl Fn() -> bool) {
        for _ in 0..600 {
            if what() {
                return;
            }
            time::sleep(Duration::from_secs(1)).await;
        }
        panic!("it never comes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sandbox_that_does_not_come_to_a_halt_is_ended_and_says_why() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        *bed.backend.freeze_takes.lock() = FOR_EVER;
        let paused = bed.sandboxes.pause(sandbox.id(), Pausing::default()).await;
        assert!(matches!(paused, Err(Error::Stuck(..))), "{paused:?}");
        bed.until_nothing_is_left().await;
        let status = bed.sandboxes.see(sandbox.id()).unwrap().status;
        assert_eq!((status.phase, status.reason), (Phase::Failed, Some(Reason::Stuck)));
        assert_eq!(bed.sandboxes.oldest_transition(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn so_is_one_that_does_not_come_to_be() {
        let bed = bed(testing::rules());
        *bed.backend.create_takes.lock() = FOR_EVER;
        let made = bed.sandboxes.create(testing::wanted(), None).await;
        assert!(matches!(made, Err(Error::Stuck(..))), "{:?}", made.map(|it| it.id()));
        bed.until_nothing_is_left().await;
        *bed.backend.create_takes.lock() = Duration::ZERO;
        bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_which_something_runs_long_after_its_end_has_failed_and_is_ended_still() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.backend.failing_stops.store(usize::MAX, SeqCst);
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        assert_eq!(sandbox.phase(), Phase::Stopping);
        assert!(bed.sandboxes.oldest_transition().is_some());
        in_minutes(|| sandbox.phase() != Phase::Stopping).await;
        let status = bed.sandboxes.see(sandbox.id()).unwrap().status;
        assert_eq!((status.phase, status.reason), (Phase::Failed, Some(Reason::Stuck)));
        bed.backend.failing_stops.store(0, SeqCst);
        in_minutes(|| bed.backend.cells.lock().is_empty()).await;
    }
}
