//! What happened, kept: a line for each event in files of a bounded size and number, which answer
//! after a sandbox's end and a gateway's.
//!
//! ```text
//!   bus ──▶ its ring ──▶ writer ──▶ events.jsonl ──▶ events.N.jsonl ──▶ packing ──▶ events.N.jsonl.gz
//!                          │  what is in which stretch of which file      │
//!                          └──────────────▶ shelf ◀───────────────────────┘
//!                                             ▲
//!                                             └── queries, each of a few stretches
//! ```
//!
//! One thread writes, in batches, and nobody waits for it but who asks for what was just told. One
//! compresses what is put aside and deletes the oldest. Of each stretch of 256 KiB it is known which
//! sandboxes, tenants and types may be in it, and from when to when, so that a look reads those
//! alone.

mod block;
mod line;
mod names;
mod packing;
mod query;
mod roll;
mod segment;
mod shelf;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc as threads,
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use names::Names;
use packing::Packing;
use roll::Roll;
use shelf::Shelf;

use super::{Batch, Events, Room, Subscription, Types, agents::Rates};
use crate::{sandbox::Tenant, shares::Shares};

pub use line::Line;
pub use query::{Filter, Page, Place, Query, Start};
pub use watch::{Sight, Watch};

/// Written at once.
const BATCH: usize = 1024;
/// How long the first of a batch waits for the others.
const GATHER: Duration = Duration::from_millis(100);
/// What may wait for the writer: some seconds of whatever a host can do.
const ROOM: Room = Room { events: 65_536, bytes: 64 << 20 };
/// For what was told to be written, before somebody looks for it.
const SETTLE: Duration = Duration::from_secs(2);
/// Between attempts to write to a disk that is full.
const AGAIN: Duration = Duration::from_secs(1);
/// Looks that go on at once; the others take turns.
const LOOKS: usize = 2;
/// Of those, of one tenant's.
const LOOKS_OF_ONE: usize = 1;
/// Of those who watch at once, of all tenants and of one.
const WATCHERS: usize = 100;
const WATCHERS_OF_ONE: usize = 20;

/// Where events are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub dir: PathBuf,
    /// Of one file (bytes).
    pub size: u64,
    /// With the one that is written to.
    pub files: usize,
    /// What is kept.
    pub types: Types,
}

impl Settings {
    pub const SIZE: u64 = 100_000_000;
    pub const FILES: usize = 10;

    /// As it is where nothing is said.
    pub fn of(data_dir: &Path) -> Self {
        let dir = data_dir.join("events");
        Self { dir, size: Self::SIZE, files: Self::FILES, types: Types::all() }
    }
}

/// What happened; clones share it. With the last one the writer ends.
#[derive(Clone)]
pub struct History(Arc<Inner>);

struct Inner {
    shelf: Arc<Shelf>,
    events: Events,
    /// Whoever wants to be told when all that was told until then is written.
    settling: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// What was in the files is known.
    found: [CancellationToken; 2],
    looks: Arc<Semaphore>,
    looks_of: Shares<Tenant>,
    watchers: Arc<Semaphore>,
    watchers_of: Shares<Tenant>,
    rates: Rates,
    /// Nothing can be written at present.
    failing: Arc<AtomicBool>,
    /// Those who watch are to hear the end.
    stop: CancellationToken,
    closing: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl History {
    /// Writes down what is told from here on, until nobody holds this. Who watches is let go when
    /// `stop` is cancelled.
    pub fn open(settings: &Settings, events: &Events, stop: CancellationToken) -> io::Result<Self> {
        let shelf = Arc::new(Shelf::default());
        let (roll, found) = Roll::open(&settings.dir, settings.size, &shelf)?;
        let (settling, asked) = mpsc::unbounded_channel();
        let (aside, put_aside) = threads::channel();
        let inner = Inner {
            shelf: shelf.clone(),
            events: events.clone(),
            settling,
            found: Default::default(),
            looks: Arc::new(Semaphore::new(LOOKS)),
            looks_of: Shares::new(LOOKS_OF_ONE),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
            watchers_of: Shares::new(WATCHERS_OF_ONE),
            rates: Rates::default(),
            failing: Arc::default(),
            stop,
            closing: CancellationToken::new(),
        };
        let packing = Packing {
            names: Names(settings.dir.clone()),
            shelf,
            most: settings.files.max(1),
            numbers: Vec::new(),
            closing: inner.closing.clone(),
            _lock: roll.lock(),
        };
        let [known, packed] = inner.found.clone();
        thread::Builder::new()
            .name("events-pack".into())
            .spawn(move || packing.run(found, &put_aside, &packed))?;
        let (from, closing) =
            (events.subscribe("store", settings.types.clone(), ROOM), inner.closing.clone());
        let failing = inner.failing.clone();
        let writer = Writer { roll, from, aside, failing, closing };
        // A runtime of its own: it outlives the other, to write what that has told last.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        thread::Builder::new()
            .name("events".into())
            .spawn(move || runtime.block_on(writer.run(asked, known)))?;
        Ok(Self(Arc::new(inner)))
    }

    /// Returns when all that was told before is in the file, or after so long.
    pub async fn settle(&self, patience: Duration) {
        let (told, written) = oneshot::channel();
        // Where the writer has ended there is nobody who tells anything either.
        let _ = self.0.settling.send(told);
        let _ = timeout(patience, written).await;
    }

    /// Looks for events, with all that happened before. What cannot be read is not there.
    pub async fn find(&self, query: Query) -> Page {
        let tenant = query.filter.tenant.clone();
        self.look(tenant, move |shelf, given_up| query::find(shelf, &query, given_up)).await
    }

    /// Whether there is any.
    pub async fn any(&self, filter: Filter) -> bool {
        let tenant = filter.tenant.clone();
        self.look(tenant, move |shelf, given_up| query::any(shelf, filter, given_up)).await
    }

    async fn look<T: Default + Send + 'static>(
        &self,
        tenant: Option<Tenant>,
        work: impl FnOnce(&Shelf, &AtomicBool) -> T + Send + 'static,
    ) -> T {
        for found in &self.0.found {
            found.cancelled().await;
        }
        self.settle(SETTLE).await;
        // First among their own, so that one who asks for much has nobody else wait.
        let own = match tenant {
            Some(tenant) => self.0.looks_of.take(tenant).await,
            None => None,
        };
        let turn = self.0.looks.clone().acquire_owned().await;
        let shelf = self.0.shelf.clone();
        let given_up = Arc::new(AtomicBool::new(false));
        let _given_up = GiveUp(given_up.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = (own, turn);
            work(&shelf, &given_up)
        });
        looked.await.unwrap_or_default()
    }

    /// Whether what happens is written down, as far as it has been tried.
    pub fn writes(&self) -> bool {
        !self.0.failing.load(Relaxed)
    }

    /// How often agents may tell of each sandbox.
    pub(crate) fn rates(&self) -> &Rates {
        &self.0.rates
    }

    /// From `start` on, and then what happens; `None`: as many watch as may, or of that tenant's.
    pub fn watch(&self, filter: Filter, start: Option<Start>) -> Option<Watch> {
        let own = match &filter.tenant {
            Some(tenant) => Some(self.0.watchers_of.try_take(tenant.clone())?),
            None => None,
        };
        let place = (own, self.0.watchers.clone().try_acquire_owned().ok()?);
        Some(Watch::new(self.clone(), filter, start, place))
    }
}

/// Whoever waited for a look has gone.
struct GiveUp(Arc<AtomicBool>);

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

struct Writer {
    roll: Roll,
    from: Subscription,
    aside: threads::Sender<u64>,
    /// Nothing can be written, which has been said.
    failing: Arc<AtomicBool>,
    closing: CancellationToken,
}

impl Writer {
    async fn run(
        mut self,
        mut asked: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
        known: CancellationToken,
    ) {
        if let Err(error) = self.roll.look_through() {
            tracing::error!("events: what there is cannot be read: {error}");
        }
        known.cancel();
        // That a line was torn is said at once, also where nothing happens.
        self.write(Batch::default()).await;
        let mut closed = false;
        loop {
            tokio::select! {
                biased;
                told = asked.recv() => {
                    self.write_rest().await;
                    let Some(told) = told else { return };
                    // Whoever it is for may have gone.
                    let _ = told.send(());
                }
                batch = self.from.batch(BATCH, GATHER), if !closed => {
                    closed = batch.closed;
                    self.write(batch).await;
                }
            }
        }
    }

    /// What has been told by now.
    async fn write_rest(&mut self) {
        let mut left = self.from.waiting();
        while left > 0 {
            let batch = self.from.batch(left.min(BATCH), Duration::ZERO).await;
            if batch.events.is_empty() {
                return;
            }
            left -= batch.events.len();
            self.write(batch).await;
        }
    }

    /// What cannot be written is tried again, while what happens meanwhile waits in the ring.
    async fn write(&mut self, batch: Batch) {
        if batch.lost > 0 {
            self.roll.lost(batch.lost);
        }
        batch.events.iter().for_each(|event| self.roll.add(event));
        loop {
            let aside = &self.aside;
            let written = self.roll.write(|number| {
                // Where nothing compresses any more the next start does.
                let _ = aside.send(number);
            });
            match written {
                Ok(()) if self.failing.swap(false, Relaxed) => {
                    tracing::info!("events: the file goes on");
                }
                Ok(()) => {}
                Err(error) if self.closing.is_cancelled() => {
                    let waiting = self.roll.waiting();
                    tracing::error!("events: {waiting} are lost with this gateway: {error}");
                    self.roll.drop_waiting();
                }
                Err(error) => {
                    if !self.failing.swap(true, Relaxed) {
                        tracing::error!("events: they cannot be written: {error}");
                    }
                    let _ = self.closing.run_until_cancelled(sleep(AGAIN)).await;
                    continue;
                }
            }
            return;
        }
    }
}
