//! Sandboxes that are paused when nobody has sent them anything for a while, and when that was of
//! those that give way to others of their agent.
//!
//! A client asks for it in the metadata, which E2B's SDKs can carry: `coppice.idleTimeout`. What
//! counts is what goes through the data plane: a request until its answer has ended, and every
//! stream as long as it is open. A request costs two atomic additions and a look at the clock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Error, Reason, Sandbox, Sandboxes, life::Refused};

/// The key in the metadata; its value is in seconds.
pub(crate) const IDLE_TIMEOUT: &str = "coppice.idleTimeout";

/// The key in the metadata of whose it is: agents may have so many at once.
pub(crate) const AGENT: &str = "agent_id";

/// How idle one is of which that matters.
#[derive(Debug)]
pub(super) struct Idle {
    /// Of one that is to be paused for it.
    patience: Option<TimeDelta>,
    /// Requests and streams.
    open: AtomicU64,
    /// Milliseconds since the epoch.
    last: AtomicI64,
}

/// The idle timeout that this metadata asks for; the error is what it should have been.
pub(crate) fn timeout(
    metadata: &BTreeMap<String, String>,
) -> Result<Option<TimeDelta>, &'static str> {
    let Some(text) = metadata.get(IDLE_TIMEOUT) else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse::<i32>().ok().filter(|seconds| digits && *seconds > 0);
    let seconds = seconds.ok_or("a whole number of seconds from 1 to 2147483647")?;
    Ok(Some(TimeDelta::seconds(seconds.into())))
}

impl Idle {
    /// Of one that has just been spoken to; metadata of before this key meant anything may say
    /// what it likes.
    pub(super) fn of(metadata: &BTreeMap<String, String>, now: DateTime<Utc>) -> Option<Self> {
        let patience = timeout(metadata).ok().flatten();
        if patience.is_none() && !metadata.contains_key(AGENT) {
            return None;
        }
        let last = AtomicI64::new(now.timestamp_millis());
        Some(Self { patience, open: AtomicU64::new(0), last })
    }

    pub(super) fn touch(&self, now: DateTime<Utc>) {
        self.last.store(now.timestamp_millis(), SeqCst);
    }

    /// When it will have been idle for long enough, if nothing more comes; later than that while
    /// something is open.
    pub(super) fn due(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        Some(self.used(now) + self.patience?)
    }

    /// When it was last sent something: now, while something is open.
    fn used(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let last = self.last.load(SeqCst);
        let busy = self.open.load(SeqCst) > 0;
        let last = if busy { now } else { DateTime::from_timestamp_millis(last).unwrap_or(now) };
        // What a clock that was set back has left in the future counts from now.
        last.min(now)
    }
}

/// A request or stream that is under way: as long as this lives, its sandbox is not idle.
pub struct Busy(Option<Arc<Sandbox>>);

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(idle) = self.0.as_ref().and_then(|sandbox| sandbox.idle.as_ref()) {
            idle.touch(Utc::now());
            idle.open.fetch_sub(1, SeqCst);
        }
    }
}

impl Sandbox {
    /// To be held by whoever sends it something.
    pub fn busy(self: &Arc<Self>) -> Busy {
        Busy(self.idle.as_ref().map(|idle| {
            idle.open.fetch_add(1, SeqCst);
            self.clone()
        }))
    }

    /// Whether it is to be paused now.
    pub(super) fn is_idle(&self, now: DateTime<Utc>) -> bool {
        self.idle.as_ref().and_then(|idle| idle.due(now)).is_some_and(|due| due <= now)
    }

    /// When it was last sent something, as far as that is taken note of.
    pub(crate) fn used(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let started = self.facts().started_at;
        self.idle.as_ref().map_or(started, |idle| idle.used(now))
    }

    /// When its deadline is to be met.
    pub(super) fn deadline_due(&self) -> Option<DateTime<Utc>> {
        let deadline = self.life.due()?;
        Some(self.between.put_off(deadline).map_or(deadline, |again| deadline.max(again)))
    }

    /// Whether its deadline is to be met now.
    pub(super) fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.life.now().is_due(now) && self.deadline_due().is_some_and(|due| due <= now)
    }

    /// Somebody wants it to run.
    pub(super) fn touch(&self) {
        if let Some(idle) = &self.idle {
            idle.touch(Utc::now());
        }
    }

    /// When the sweeper is to look at it.
    pub(super) fn due(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let deadline = self.life.due()?;
        if deadline <= now {
            return self.deadline_due();
        }
        let idle = self.idle.as_ref().and_then(|idle| idle.due(now));
        Some(idle.map_or(deadline, |idle| deadline.min(idle)))
    }
}

impl Sandboxes {
    /// Pauses a sandbox that nobody uses; one that cannot be runs on.
    pub(super) fn pause_when_idle(&self, sandbox: Arc<Sandbox>) {
        let sandboxes = self.clone();
        // Its deadline does not wait for that.
        self.0.deadlines.watch(sandbox.id(), || sandbox.deadline_due());
        self.0.tasks.spawn(async move {
            let _turn = sandbox.turn.lock().await;
            let kept = sandboxes.kept_at_deadline(&sandbox).await;
            // Looked at in one with the move: whoever comes after that finds it pausing.
            let paused = sandbox.life.make(|moment, now| {
                if moment.is_due(now) || !sandbox.is_idle(now) {
                    return Err(Refused(moment.phase));
                }
                moment.pause(Reason::Idle, now)
            });
            if paused.is_err() {
                return sandboxes.watch(&sandbox);
            }
            let stopped = sandboxes.stop_still(&sandbox, kept).await;
            match sandboxes.ended_if_stuck(&sandbox, stopped) {
                Ok(()) | Err(Error::NotFound(_) | Error::Stuck(..)) => {}
                Err(error) => tracing::error!(sandbox = %sandbox.id(), "cannot pause: {error}"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{
        Phase, Wanted,
        testing::{self, bed},
    };

    fn metadata(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(IDLE_TIMEOUT.to_owned(), value.to_owned())])
    }

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(millis).unwrap()
    }

    #[test]
    fn only_a_whole_number_of_seconds_is_a_timeout() {
        assert_eq!(timeout(&BTreeMap::new()), Ok(None));
        assert_eq!(timeout(&metadata("90")), Ok(Some(TimeDelta::seconds(90))));
        for bad in ["", "0", "-1", "+5", "1.5", "1e3", " 5", "5s", "2147483648", "never"] {
            assert!(timeout(&metadata(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn it_is_due_when_nothing_was_open_for_so_long() {
        let idle = Idle::of(&metadata("10"), at(0)).unwrap();
        assert_eq!(idle.due(at(3000)), Some(at(10_000)));
        idle.open.fetch_add(1, SeqCst);
        assert_eq!(idle.due(at(12_000)), Some(at(22_000)));
        idle.open.fetch_sub(1, SeqCst);
        idle.touch(at(13_000));
        assert_eq!(idle.due(at(22_000)), Some(at(23_000)));
        // The clock is set back.
        assert_eq!(idle.due(at(1000)), Some(at(11_000)));
    }

    #[test]
    fn of_an_agent_s_it_is_known_when_it_was_used_and_it_is_never_due_for_that() {
        let metadata = BTreeMap::from([(AGENT.to_owned(), "one".to_owned())]);
        let idle = Idle::of(&metadata, at(0)).unwrap();
        idle.touch(at(500));
        assert_eq!((idle.used(at(2000)), idle.due(at(2000))), (at(500), None));
        idle.open.fetch_add(1, SeqCst);
        assert_eq!(idle.used(at(2000)), at(2000));
        assert!(Idle::of(&BTreeMap::new(), at(0)).is_none());
    }

    #[tokio::test]
    async fn it_is_paused_once_nothing_is_open_and_again_after_it_went_on() {
        let bed = bed(testing::rules());
        let wanted = Wanted { metadata: metadata("1"), ..testing::wanted() };
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        let busy = sandbox.busy();
        tokio::time::sleep(std::time::Duration::from_millis(1300)).await;
        assert_eq!(sandbox.phase(), Phase::Running);
        let closed = Utc::now();
        drop(busy);
        testing::until(|| sandbox.phase() == Phase::Paused).await;
        let status = sandbox.status();
        assert_eq!(status.reason, Some(Reason::Idle));
        let patient = status.since - closed;
        assert!(patient >= TimeDelta::milliseconds(999), "{patient}");
        let id = sandbox.id();
        bed.sandboxes.connect(id, std::time::Duration::from_secs(60), true).await.unwrap();
        testing::until(|| sandbox.phase() == Phase::Paused).await;
        assert_eq!(sandbox.status().reason, Some(Reason::Idle));
    }

    #[tokio::test]
    async fn one_that_cannot_be_paused_runs_on_and_is_left_alone_for_as_long_again() {
        let bed = bed(testing::rules());
        let wanted = Wanted { metadata: metadata("1"), ..testing::wanted() };
        bed.backend.failing_freezes.store(1, SeqCst);
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        testing::until(|| bed.backend.failing_freezes.load(SeqCst) == 0).await;
        testing::until(|| sandbox.phase() == Phase::Running).await;
        testing::until(|| sandbox.phase() == Phase::Paused).await;
        let tried = sandbox.status().since - sandbox.facts().started_at;
        assert!(tried >= TimeDelta::milliseconds(1990), "{tried}");
    }

    #[tokio::test]
    async fn its_deadline_is_met_though_somebody_waits_to_pause_it() {
        let bed = bed(testing::rules());
        let timeout = std::time::Duration::from_millis(1500);
        let wanted = Wanted { metadata: metadata("1"), timeout, ..testing::wanted() };
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        let turn = sandbox.turn.lock().await;
        testing::until(|| sandbox.phase().is_over()).await;
        assert_eq!(sandbox.status().reason, Some(Reason::Deadline));
        drop(turn);
        bed.until_nothing_is_left().await;
    }

    #[tokio::test]
    async fn who_connects_uses_it() {
        let bed = bed(testing::rules());
        let wanted = Wanted { metadata: metadata("1"), ..testing::wanted() };
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let connected = Utc::now();
        let minute = std::time::Duration::from_secs(60);
        let (_, resumed) = bed.sandboxes.connect(sandbox.id(), minute, true).await.unwrap();
        assert!(!resumed);
        testing::until(|| sandbox.phase() == Phase::Paused).await;
        let patient = sandbox.status().since - connected;
        assert!(patient >= TimeDelta::milliseconds(999), "{patient}");
    }
}
