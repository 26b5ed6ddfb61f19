//! What clients have of one sandbox through the gateway: how many streams at once, and how fast what
//! it answers comes out. Of one that has no such limits only its requests are counted.
//!
//! The rate is one for all that it answers. What is too fast waits where it comes from: nobody reads
//! on, and whoever writes in the sandbox is held up.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use envd::walls::{self, Wall};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Sandbox;
use crate::limits::Limit;

/// What may come at once after a silence: this time's worth.
const BURST: Duration = Duration::from_millis(500);
/// Whoever waits looks up so often: its sandbox may have ended.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct Outlet {
    requests: AtomicU64,
    streams: AtomicU64,
    /// When all that has come out by now would have, at the rate it is to have.
    even: Mutex<Option<Instant>>,
}

/// One of those that may be open.
pub struct Stream(Option<Arc<Sandbox>>);

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(sandbox) = &self.0 {
            sandbox.outlet.streams.fetch_sub(1, SeqCst);
        }
    }
}

/// One answer of a sandbox whose answers are not to come faster than that.
pub struct Outflow {
    sandbox: Arc<Sandbox>,
    /// Bytes a second.
    rate: u64,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Sandbox {
    /// Something is sent to it.
    pub(crate) fn is_asked(&self) {
        self.outlet.requests.fetch_add(1, Relaxed);
    }

    /// How often, since this gateway began.
    pub(crate) fn requests(&self) -> u64 {
        self.outlet.requests.load(Relaxed)
    }

    /// To be held as long as the stream is open; `None` where there may be no more.
    pub fn open_stream(self: &Arc<Self>) -> Option<Stream> {
        let Some(most) = self.limit(Limit::Streams) else { return Some(Stream(None)) };
        let one_more = |open| (open < most).then_some(open + 1);
        self.outlet.streams.fetch_update(SeqCst, SeqCst, one_more).ok()?;
        Some(Stream(Some(self.clone())))
    }

    /// `None` where it may answer as fast as it can.
    pub fn outflow(self: &Arc<Self>) -> Option<Outflow> {
        let rate = self.limit(Limit::Output)?;
        Some(Outflow { sandbox: self.clone(), rate, waiting: None })
    }

    fn limit(&self, limit: Limit) -> Option<u64> {
        self.facts().limits.get(limit).filter(|_| !walls::is_down(Wall::Limits))
    }
}

impl Outflow {
    /// Ready when there may be more.
    pub fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = Instant::now();
            let even = self.sandbox.outlet.even.lock().unwrap_or(now);
            if even <= now + BURST {
                self.waiting = None;
                return Poll::Ready(());
            }
            let until = (even - BURST).min(now + LOOK);
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(waiting.as_mut().poll(cx));
            self.waiting = None;
        }
    }

    /// So much (bytes) has come out.
    pub fn took(&self, bytes: usize) {
        let now = Instant::now();
        let worth = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let mut even = self.sandbox.outlet.even.lock();
        *even = Some(even.map_or(now, |even| even.max(now)) + worth);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::{
        limits::{Bounds, Limits},
        sandbox::{Facts, testing},
    };

    fn limited(said: &str) -> Arc<Sandbox> {
        let limits = Bounds::parse(said).unwrap().over(Limits::default());
        let facts = Facts { limits, ..testing::facts() };
        let deadline = facts.started_at;
        Arc::new(Sandbox::new(facts, "/nowhere".into(), deadline))
    }

    #[test]
    fn there_are_as_many_streams_as_there_may_be() {
        let sandbox = limited("streams=4");
        let mut open: Vec<_> = (0..4).map(|_| sandbox.open_stream().unwrap()).collect();
        assert!(sandbox.open_stream().is_none());
        open.pop();
        open.push(sandbox.open_stream().unwrap());
        assert!(sandbox.open_stream().is_none());
        drop(open);
        assert_eq!(sandbox.outlet.streams.load(SeqCst), 0);
        assert!(limited("").open_stream().is_some() && limited("").outflow().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn answers_come_at_the_rate_they_may_all_together() {
        let sandbox = limited("output=100");
        let began = Instant::now();
        let answer = async || {
            let mut flow = sandbox.outflow().unwrap();
            for _ in 0..50 {
                poll_fn(|cx| flow.poll_turn(cx)).await;
                flow.took(10 << 10);
            }
        };
        tokio::join!(answer(), answer());
        let took = began.elapsed().as_secs_f64();
        assert!((8.0..10.1).contains(&took), "1000 KiB took {took} s");
        // After a silence no more comes at once than at first.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (began, mut flow) = (Instant::now(), sandbox.outflow().unwrap());
        for _ in 0..21 {
            poll_fn(|cx| flow.poll_turn(cx)).await;
            flow.took(10 << 10);
        }
        let took = began.elapsed().as_secs_f64();
        assert!((1.3..2.1).contains(&took), "210 KiB took {took} s");
    }
}
