//! The kernel's events of one watch, cut down to what clients are told and bounded.

use std::{path::PathBuf, sync::Arc};

use notify::{
    Event, EventHandler, EventKind,
    event::{Flag, ModifyKind, RenameMode},
};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Kernel events held while their client is slow.
const CAPACITY: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Created,
    Written,
    Attributes,
    Removed,
    /// The cookie pairs it with the arrival under a new name, if that is watched too.
    Left(Option<usize>),
    Arrived(Option<usize>),
    /// A watched directory itself was moved; its parent tells the same, unless it is the root.
    Moved,
}

pub(super) type Raw = (PathBuf, Change);

/// Runs on the thread of `notify`, which it must not keep waiting.
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
}

impl EventHandler for Sender {
    fn handle_event(&mut self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.fail(format!("watching: {error}")),
        };
        if event.attrs.flag() == Some(Flag::Rescan) {
            return self.fail("events were lost: the kernel's queue overflowed");
        }
        let cookie = event.attrs.tracker();
        let change = match event.kind {
            EventKind::Create(_) => Change::Created,
            EventKind::Remove(_) => Change::Removed,
            EventKind::Modify(ModifyKind::Metadata(_)) => Change::Attributes,
            EventKind::Modify(ModifyKind::Name(RenameMode::From)) if cookie.is_none() => {
                Change::Moved
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::From | RenameMode::Any)) => {
                Change::Left(cookie)
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Change::Arrived(cookie),
            // Says again what its two halves said.
            EventKind::Modify(ModifyKind::Name(_)) => return,
            EventKind::Modify(_) => Change::Written,
            EventKind::Access(_) | EventKind::Any | EventKind::Other => return,
        };
        let Some(path) = event.paths.into_iter().next() else { return };
        let full = self.queue.as_ref().is_some_and(|queue| queue.try_send((path, change)).is_err());
        if full {
            self.fail(format!("events were lost: more than {CAPACITY} were waiting to be read"));
        }
    }
}
