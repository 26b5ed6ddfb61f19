//! One process's output to all who listen.
//!
//! Nobody listening: discarded. A listener that is slow holds the process back, up to a bound in
//! memory; one that takes nothing at all for too long is dropped and told so. Each has its own
//! clock, so that those who stand still together are waited for together, and once a process is
//! released from waiting, what it left is queued for all without any.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Chunks that wait for one listener.
const QUEUE: usize = 8;

/// How long a process waits for a listener that takes nothing from its full queue.
const PATIENCE: Duration = Duration::from_secs(60);

/// Listeners of one process.
const MAX_LISTENERS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
    Pty(Bytes),
}

/// `None` once the process has ended.
pub(super) struct Fanout(Mutex<Option<Vec<Listener>>>);

#[derive(Clone)]
struct Listener {
    /// Bounded by `room`, but for what comes after the release.
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    pace: Arc<Pace>,
}

/// A chunk, and its place in the queue.
type Queued = (Output, Option<OwnedSemaphorePermit>);

struct Pace {
    /// When the listener last took a chunk, or had none to take.
    moved: Mutex<Instant>,
    dropped: AtomicBool,
}

/// A listener's end. The queue closes when the process has ended or the listener was too slow.
pub(super) struct Feed {
    queue: mpsc::UnboundedReceiver<Queued>,
    pace: Arc<Pace>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process has {MAX_LISTENERS} listeners already")]
pub(super) struct TooMany;

impl Fanout {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    /// Everything from now on. After the end that is nothing, at once.
    pub(super) fn listen(&self) -> Result<Feed, TooMany> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let pace =
            Arc::new(Pace { moved: Mutex::new(Instant::now()), dropped: AtomicBool::new(false) });
        if let Some(listeners) = self.0.lock().as_mut() {
            listeners.retain(|listener| !listener.queue.is_closed());
            if listeners.len() == MAX_LISTENERS {
                return Err(TooMany);
            }
            let room = Arc::new(Semaphore::new(QUEUE));
            listeners.push(Listener { queue: sender, room, pace: pace.clone() });
        }
        Ok(Feed { queue: receiver, pace })
    }

    /// Hands `output` to every listener, waiting for those that are behind until `release`. What
    /// is delivered after that is for the caller to bound.
    pub(super) async fn deliver(&self, output: Output, release: &CancellationToken) {
        let listeners = self.0.lock().clone().unwrap_or_default();
        let mut behind = Vec::new();
        for listener in listeners {
            match listener.place() {
                Some(place) => self.send(&listener, output.clone(), Some(place)),
                None => behind.push(listener),
            }
        }
        join_all(behind.into_iter().map(|listener| {
            let output = output.clone();
            async move {
                tokio::select! {
                    biased;
                    place = listener.room.clone().acquire_owned() => {
                        self.send(&listener, output, place.ok());
                    }
                    () = release.cancelled() => self.send(&listener, output, None),
                    () = listener.pace.impatience() => {
                        listener.pace.dropped.store(true, Ordering::Release);
                        self.remove(&listener);
                    }
                }
            }
        }))
        .await;
    }

    /// Closes every listener's queue behind what waits there.
    pub(super) fn end(&self) {
        self.0.lock().take();
    }

    fn send(&self, listener: &Listener, output: Output, place: Option<OwnedSemaphorePermit>) {
        if listener.queue.send((output, place)).is_err() {
            self.remove(listener);
        }
    }

    fn remove(&self, gone: &Listener) {
        if let Some(listeners) = self.0.lock().as_mut() {
            listeners.retain(|listener| !listener.queue.same_channel(&gone.queue));
        }
    }
}

impl Listener {
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        if self.room.available_permits() == QUEUE {
            self.pace.moves();
        }
        self.room.clone().try_acquire_owned().ok()
    }
}

impl Pace {
    fn moves(&self) {
        *self.moved.lock() = Instant::now();
    }

    /// Returns when the listener has stood still for too long.
    async fn impatience(&self) {
        loop {
            let until = *self.moved.lock() + PATIENCE;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

impl Feed {
    pub(super) async fn next(&mut self) -> Option<Output> {
        let (output, _place) = self.queue.recv().await?;
        // Before the place is free, so that whoever gets it sees that it moved.
        self.pace.moves();
        Some(output)
    }

    /// Whether the queue closed because this listener was too slow.
    pub(super) fn was_dropped(&self) -> bool {
        self.pace.dropped.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(number: usize) -> Output {
        Output::Stdout(Bytes::from(number.to_string()))
    }

    async fn deliver(fanout: &Fanout, numbers: std::ops::Range<usize>) {
        for number in numbers {
            fanout.deliver(output(number), &CancellationToken::new()).await;
        }
    }

    /// All that is heard until the end, with a rest after each.
    async fn hear(mut feed: Feed, rest: Duration) -> (Vec<Output>, bool) {
        let mut heard = Vec::new();
        while let Some(output) = feed.next().await {
            heard.push(output);
            tokio::time::sleep(rest).await;
        }
        (heard, feed.was_dropped())
    }

    fn outputs(numbers: std::ops::Range<usize>) -> Vec<Output> {
        numbers.map(output).collect()
    }

    #[tokio::test]
    async fn all_listeners_hear_the_same() {
        let fanout = Fanout::new();
        deliver(&fanout, 0..1).await;
        let feeds = [fanout.listen().unwrap(), fanout.listen().unwrap()];
        deliver(&fanout, 1..2).await;
        fanout.end();
        for feed in feeds {
            assert_eq!(hear(feed, Duration::ZERO).await, (outputs(1..2), false));
        }
        assert_eq!(fanout.listen().unwrap().next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn listeners_that_stand_still_are_waited_for_together_and_dropped() {
        let fanout = Fanout::new();
        let stuck = [fanout.listen().unwrap(), fanout.listen().unwrap()];
        let quick = tokio::spawn(hear(fanout.listen().unwrap(), Duration::ZERO));
        let start = Instant::now();
        deliver(&fanout, 0..3).await;
        // Behind the others by some chunks, and so full only after they have been dropped.
        let later = fanout.listen().unwrap();
        deliver(&fanout, 3..100).await;
        let waited = start.elapsed();
        assert!(waited < PATIENCE + Duration::from_secs(1), "waited {waited:?}");
        fanout.end();
        assert_eq!(quick.await.unwrap(), (outputs(0..100), false));
        for feed in stuck {
            assert_eq!(hear(feed, Duration::ZERO).await, (outputs(0..QUEUE), true));
        }
        assert_eq!(hear(later, Duration::ZERO).await, (outputs(3..3 + QUEUE), true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_listener_that_reads_holds_back_and_hears_all() {
        let fanout = Fanout::new();
        let slow = tokio::spawn(hear(fanout.listen().unwrap(), PATIENCE / 2));
        let quick = tokio::spawn(hear(fanout.listen().unwrap(), Duration::ZERO));
        deliver(&fanout, 0..50).await;
        fanout.end();
        assert_eq!(slow.await.unwrap(), (outputs(0..50), false));
        assert_eq!(quick.await.unwrap(), (outputs(0..50), false));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_silence_a_listener_has_all_its_time() {
        let fanout = Fanout::new();
        let feed = fanout.listen().unwrap();
        tokio::time::sleep(10 * PATIENCE).await;
        let start = Instant::now();
        deliver(&fanout, 0..QUEUE + 1).await;
        assert!(start.elapsed() >= PATIENCE);
        assert!(feed.was_dropped());
    }

    #[tokio::test(start_paused = true)]
    async fn once_released_nobody_is_waited_for_and_all_is_heard() {
        let fanout = Fanout::new();
        let feeds = [fanout.listen().unwrap(), fanout.listen().unwrap()];
        let release = CancellationToken::new();
        let start = Instant::now();
        let deliver = async {
            for number in 0..3 * QUEUE {
                fanout.deliver(output(number), &release).await;
            }
        };
        tokio::join!(deliver, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            release.cancel();
        });
        assert_eq!(start.elapsed().as_secs(), 1);
        fanout.end();
        for feed in feeds {
            let slowly = hear(feed, 2 * PATIENCE).await;
            assert_eq!(slowly, (outputs(0..3 * QUEUE), false));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_goes_while_it_is_waited_for_is_waited_for_no_longer() {
        let fanout = Fanout::new();
        let feed = fanout.listen().unwrap();
        deliver(&fanout, 0..QUEUE).await;
        let start = Instant::now();
        tokio::join!(deliver(&fanout, 0..1), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(feed);
        });
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test]
    async fn a_listener_that_went_away_is_no_longer_delivered_to() {
        let fanout = Fanout::new();
        drop(fanout.listen().unwrap());
        deliver(&fanout, 0..2).await;
        assert!(fanout.0.lock().as_ref().unwrap().is_empty());
    }

    #[tokio::test]
    async fn listeners_are_bounded_and_the_gone_make_room() {
        let fanout = Fanout::new();
        let feeds: Vec<_> = (0..MAX_LISTENERS).map(|_| fanout.listen().unwrap()).collect();
        assert_eq!(fanout.listen().err(), Some(TooMany));
        drop(feeds);
        assert!(fanout.listen().is_ok());
    }
}
