//! The pool: sandboxes that are ready before anybody asks for them.
//!
//! ```text
//!            filled                        taken
//!   making ─────────▶ available ───────────────────────▶ running, as any other
//!      │                  │ died, does not suit any more,
//!      │ failed           ▼ gives way to a client's
//!      └──────────────▶ ending ──▶ gone
//! ```
//!
//! An entry is a sandbox in all but name: it has its final id, its directory, its processes and a
//! token that nobody knows; what it lacks is a record and a place in the registry. So nobody can
//! see it, it takes no place of a client's, and the next gateway removes it as it does whatever
//! has no record: none is ever left, or given to two. The record that is written when an entry is
//! taken is the one point where it becomes a sandbox.
//!
//! There are several: those of the settings, and those that operators make, which `operators` has.
//! Each is of one [`Shape`] and as large as its [`Capacity`] says. `filling` keeps them so, `taking`
//! gives entries to clients.

mod capacity;
mod filling;
mod operators;
mod taking;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
};

use envd::wire::Init;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use capacity::Capacity;
pub use operators::{NewPool, PoolId, PoolSpec, SeenPool};

use super::{Phase, SandboxId, Sandboxes, Shelf, snapshots::Hold};
use crate::{
    backend::{Cell, CellSpec, Layer, NetworkMode},
    limits::Limits,
    network::Filter,
    template::Template,
};

/// How large a pool the operator wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolRules {
    /// Entries of each template, by its name.
    pub sizes: BTreeMap<String, usize>,
    /// Memory (bytes) that all entries may have together.
    pub memory: u64,
}

/// What is there of one template's pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolCount {
    /// Being made, available or allocated.
    pub total: usize,
    /// Running sandboxes that were taken from it.
    pub allocated: usize,
    pub available: usize,
}

/// What a sandbox is for good once it has been made.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) template: Arc<Template>,
    pub(super) limits: Limits,
    pub(super) network: NetworkMode,
}

impl PartialEq for Shape {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<Template>, b: &Arc<Template>| Arc::ptr_eq(a, b) || a == b;
        self.network == other.network
            && self.limits == other.limits
            && same(&self.template, &other.template)
    }
}

impl Shape {
    /// What a sandbox of this shape starts with.
    pub(super) fn init(&self, env_vars: BTreeMap<String, String>, token: String) -> Init {
        let mut all = self.template.env.clone();
        all.extend(env_vars);
        Init {
            env_vars: Some(all),
            access_token: Some(token),
            default_user: Some(self.template.user.clone()),
            default_workdir: self.template.workdir.clone(),
        }
    }

    pub(super) fn spec(&self, id: SandboxId, init: Init) -> CellSpec {
        let Self { template, limits, network } = self.clone();
        let filter = Filter::default();
        CellSpec { id, template, limits, network, filter, init, layer: Layer::Fresh }
    }
}

/// A sandbox that is nobody's yet.
pub(super) struct Entry {
    pub(super) id: SandboxId,
    pub(super) dir: PathBuf,
    pub(super) shape: Shape,
    pub(super) cell: Cell,
    /// Which it is of.
    pub(super) pool: PoolId,
    /// Bytes, when it had become ready.
    memory: u64,
    /// Of the snapshots that it lies over.
    _hold: Hold,
    /// Wakes whoever tends the pool when it dies.
    _watch: AbortOnDropHandle<()>,
}

impl Entry {
    fn lives(&self) -> bool {
        !self.cell.ended.is_cancelled()
    }
}

#[derive(Default)]
pub(super) struct Pool {
    /// Holds what operators made.
    dir: PathBuf,
    /// Held by whoever makes, changes or deletes one.
    changing: tokio::sync::Mutex<()>,
    entries: Mutex<Entries>,
    /// There may be something to do.
    stirred: Notify,
    /// Held while all give way, so that others who need the memory wait for it too.
    giving_way: tokio::sync::Mutex<()>,
    /// Cancelled, with the entries locked, when no more are taken in.
    closed: CancellationToken,
}

#[derive(Default)]
struct Entries {
    /// What pools there are.
    specs: BTreeMap<PoolId, Arc<PoolSpec>>,
    /// The oldest first.
    available: VecDeque<Entry>,
    /// The pool and the template of the one that is being made.
    making: Option<(PoolId, String)>,
}

/// What the entries of one pool should be at present, and how many.
#[derive(Clone, Debug)]
struct Want {
    pool: PoolId,
    name: String,
    shape: Shape,
    size: usize,
}

impl Pool {
    /// Cancelled when the gateway stops.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Has the pool looked after soon.
    pub(super) fn stir(&self) {
        self.stirred.notify_one();
    }

    /// The oldest that is of that shape and lives.
    fn take(&self, shape: &Shape) -> Option<Entry> {
        let mut entries = self.entries.lock();
        let at = entries.available.iter().position(|it| it.lives() && it.shape == *shape)?;
        let taken = entries.available.remove(at);
        drop(entries);
        self.stir();
        taken
    }

    /// Given back when the gateway is stopping, or its pool was deleted.
    fn put(&self, entry: Entry) -> Option<Entry> {
        let mut entries = self.entries.lock();
        if self.closed.is_cancelled() || !entries.specs.contains_key(&entry.pool) {
            return Some(entry);
        }
        entries.available.push_back(entry);
        None
    }

    /// From here on there is no such pool: takes out what waits in it.
    fn take_pool(&self, pool: PoolId) -> Vec<Entry> {
        let mut entries = self.entries.lock();
        entries.specs.remove(&pool);
        let of_it = |entry: &Entry| entry.pool == pool;
        let (taken, kept): (VecDeque<_>, _) = entries.available.drain(..).partition(of_it);
        entries.available = kept;
        taken.into()
    }

    fn has(&self, pool: PoolId) -> bool {
        self.entries.lock().specs.contains_key(&pool)
    }

    /// Takes out what is dead, is of no shape that is wanted, or too many: of its pool, or of all
    /// when there is `room` for so many.
    fn take_surplus(&self, wanted: &[Want], room: usize) -> Vec<Entry> {
        let mut left: Vec<usize> = wanted.iter().map(|want| want.size).collect();
        let mut room = room;
        let mut entries = self.entries.lock();
        let (kept, surplus) = entries.available.drain(..).partition(|entry: &Entry| {
            let suits = |want: &Want| want.pool == entry.pool && want.shape == entry.shape;
            let Some(of) = wanted.iter().position(suits) else { return false };
            let keep = entry.lives() && left[of] > 0 && room > 0;
            if keep {
                left[of] -= 1;
                room -= 1;
            }
            keep
        });
        entries.available = kept;
        surplus.into()
    }

    fn take_oldest(&self) -> Option<Entry> {
        self.entries.lock().available.pop_front()
    }

    fn take_all(&self) -> Vec<Entry> {
        self.entries.lock().available.drain(..).collect()
    }

    fn close(&self) -> Vec<Entry> {
        let mut entries = self.entries.lock();
        self.closed.cancel();
        entries.available.drain(..).collect()
    }

    fn set_making(&self, of: Option<(PoolId, String)>) {
        self.entries.lock().making = of;
    }

    /// How many there are, and how much memory (bytes) they have: all, and the largest one of that
    /// template.
    fn memory(&self, template: &str) -> (u64, Option<u64>) {
        let entries = self.entries.lock();
        let of_it = entries.available.iter().filter(|it| it.shape.template.id == template);
        let all = entries.available.iter().map(|it| it.memory).fold(0, u64::saturating_add);
        (all, of_it.map(|it| it.memory).max())
    }

    fn available(&self, shape: &Shape) -> usize {
        let entries = self.entries.lock();
        entries.available.iter().filter(|it| it.lives() && it.shape == *shape).count()
    }

    /// Of those, what is that pool's.
    fn waiting(&self, pool: PoolId, shape: &Shape) -> usize {
        let entries = self.entries.lock();
        let of_it = entries.available.iter().filter(|it| it.pool == pool && it.lives());
        of_it.filter(|it| it.shape == *shape).count()
    }
}

impl Sandboxes {
    /// What is there of each template that has a pool, or had one that a running sandbox is of.
    /// Takes `counts` of before, for the room in it.
    pub fn count_pool(&self, counts: &mut BTreeMap<String, PoolCount>) {
        counts.values_mut().for_each(|count| *count = PoolCount::default());
        for spec in self.0.pool.entries.lock().specs.values() {
            count_of(counts, &spec.template);
        }
        self.0.registry.visit(&Shelf::All, false, None, |sandbox| {
            if sandbox.facts().from_pool && sandbox.phase() == Phase::Running {
                let count = count_of(counts, &sandbox.facts().template.id);
                count.allocated += 1;
                count.total += 1;
            }
            ControlFlow::Continue(())
        });
        let entries = self.0.pool.entries.lock();
        for entry in entries.available.iter().filter(|entry| entry.lives()) {
            let count = count_of(counts, &entry.shape.template.id);
            count.available += 1;
            count.total += 1;
        }
        if let Some((_, name)) = &entries.making {
            count_of(counts, name).total += 1;
        }
        let has_one = |name: &str| entries.specs.values().any(|spec| spec.template == name);
        counts.retain(|name, count| count.total > 0 || has_one(name));
    }

    #[cfg(test)]
    pub(super) fn pool(&self) -> BTreeMap<String, PoolCount> {
        let mut counts = BTreeMap::new();
        self.count_pool(&mut counts);
        counts
    }
}

/// Without a copy of the name where it is there.
fn count_of<'a>(counts: &'a mut BTreeMap<String, PoolCount>, name: &str) -> &'a mut PoolCount {
    if !counts.contains_key(name) {
        counts.insert(name.to_owned(), PoolCount::default());
    }
    counts.get_mut(name).expect("it is there, or was put there")
}
