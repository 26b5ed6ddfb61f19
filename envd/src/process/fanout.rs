//! One process's output to all who listen.
//!
//! Nobody listening: discarded. A listener that is slow holds the process back, up to a bound in
//! memory and one in time; then it is dropped and told so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::timeout,
};

/// Chunks that wait for one listener.
const QUEUE: usize = 8;

/// How long a process waits for a listener whose queue is full.
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
    queue: mpsc::Sender<Output>,
    dropped: Arc<AtomicBool>,
}

/// A listener's end. The queue closes when the process has ended or the listener was too slow.
pub(super) struct Feed {
    queue: mpsc::Receiver<Output>,
    dropped: Arc<AtomicBool>,
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
        let (sender, receiver) = mpsc::channel(QUEUE);
        let dropped = Arc::new(AtomicBool::new(false));
        if let Some(listeners) = self.0.lock().as_mut() {
            listeners.retain(|listener| !listener.queue.is_closed());
            if listeners.len() == MAX_LISTENERS {
                return Err(TooMany);
            }
            listeners.push(Listener { queue: sender, dropped: dropped.clone() });
        }
        Ok(Feed { queue: receiver, dropped })
    }

    /// Hands `output` to every listener, waiting for those that are behind.
    pub(super) async fn deliver(&self, output: Output) {
        let listeners = self.0.lock().clone().unwrap_or_default();
        for listener in listeners {
            let output = match listener.queue.try_send(output.clone()) {
                Ok(()) => continue,
                Err(TrySendError::Full(output)) => output,
                Err(TrySendError::Closed(_)) => {
                    self.remove(&listener);
                    continue;
                }
            };
            match timeout(PATIENCE, listener.queue.send(output)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => self.remove(&listener),
                Err(_) => {
                    listener.dropped.store(true, Ordering::Release);
                    self.remove(&listener);
                }
            }
        }
    }

    /// Closes every listener's queue behind what waits there.
    pub(super) fn end(&self) {
        self.0.lock().take();
    }

    fn remove(&self, gone: &Listener) {
        if let Some(listeners) = self.0.lock().as_mut() {
            listeners.retain(|listener| !listener.queue.same_channel(&gone.queue));
        }
    }
}

impl Feed {
    pub(super) async fn next(&mut self) -> Option<Output> {
        self.queue.recv().await
    }

    /// Whether the queue closed because this listener was too slow.
    pub(super) fn was_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(number: usize) -> Output {
        Output::Stdout(Bytes::from(number.to_string()))
    }

    #[tokio::test]
    async fn all_listeners_hear_the_same() {
        let fanout = Fanout::new();
        fanout.deliver(output(0)).await;
        let mut feeds = [fanout.listen().unwrap(), fanout.listen().unwrap()];
        fanout.deliver(output(1)).await;
        fanout.end();
        for feed in &mut feeds {
            assert_eq!(feed.next().await, Some(output(1)));
            assert_eq!(feed.next().await, None);
            assert!(!feed.was_dropped());
        }
        assert_eq!(fanout.listen().unwrap().next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_listener_holds_back_and_is_then_dropped() {
        let fanout = Fanout::new();
        let mut slow = fanout.listen().unwrap();
        let mut quick = fanout.listen().unwrap();
        let reader = tokio::spawn(async move {
            let mut heard = 0;
            while quick.next().await.is_some() {
                heard += 1;
            }
            heard
        });
        let start = tokio::time::Instant::now();
        for number in 0..100 {
            fanout.deliver(output(number)).await;
        }
        assert_eq!(start.elapsed(), PATIENCE, "held back once, for as long as we are patient");
        fanout.end();
        assert_eq!(reader.await.unwrap(), 100);
        let mut heard = 0;
        while slow.next().await.is_some() {
            heard += 1;
        }
        assert_eq!(heard, QUEUE);
        assert!(slow.was_dropped());
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
