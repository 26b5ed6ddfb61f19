//! The kernel's events of one watch, cut down to what clients are told and bounded.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::os::{Change, Told};

/// Kernel events held while their client is slow.
const CAPACITY: usize = 4096;

pub(super) type Raw = (PathBuf, Change);

/// Runs on the thread of [`Directories`](crate::os::Directories), which it must not keep waiting.
pub(super) struct Sender {
    /// `None` once events were lost.
    queue: Option<mpsc::Sender<Raw>>,
    failure: Failure,
}

/// Why the queue ended.
pub(super) type Failure = Arc<Mutex<Option<String>>>;

pub(super) fn channel() -> (Sender, mpsc::Receiver<Raw>, Failure) {
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let failure = Failure::default();
    (Sender { queue: Some(sender), failure: failure.clone() }, receiver, failure)
}

impl Sender {
    fn fail(&mut self, why: impl Into<String>) {
        self.failure.lock().get_or_insert_with(|| why.into());
        self.queue = None;
    }

    pub(super) fn tell(&mut self, told: Told) {
        let raw = match told {
            Ok(raw) => raw,
            Err(why) => return self.fail(why),
        };
        let full = self.queue.as_ref().is_some_and(|queue| queue.try_send(raw).is_err());
        if full {
            self.fail(format!("events were lost: more than {CAPACITY} were waiting to be read"));
        }
    }
}
