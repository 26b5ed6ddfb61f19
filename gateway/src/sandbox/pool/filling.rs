//! Keeps the pool as the operator wants it, in the background and out of everybody's way.
//!
//! One entry is made at a time, while no client waits for a sandbox, and then as long a rest is
//! taken as that took: half a CPU at the most. Memory is asked for twice: what the entries may have
//! together, and what the host has left.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{Entry, PoolId, Shape, Want};
use crate::{
    backend,
    sandbox::{
        Error, SandboxId, Sandboxes, Tenant,
        making::{TAKEN_AT_FIRST, token},
    },
    template::FindError,
};

/// Looked at at least so often: memory comes and goes without a word.
const LOOK: Duration = Duration::from_secs(2);
/// What must be available to the host (bytes) beyond what the operator keeps free: below the first
/// an entry is ended, and below the second none is made.
const SHORT: u64 = 128 << 20;
const AMPLE: u64 = 512 << 20;
/// No client has waited for a sandbox for so long: one who makes several has made them.
const QUIET: Duration = Duration::from_millis(10);
/// Where clients come without a pause, an entry is made nevertheless after so long.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// After an entry that could not be made, or has died.
const RETRY: Duration = Duration::from_secs(2);
/// After one that was ended, for the host's figure to tell.
const SETTLE: Duration = Duration::from_millis(250);

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tended {
    Nothing,
    Made,
    Failed,
    Ended,
}

/// The last time one was made.
#[derive(Default)]
pub(super) struct Turn {
    /// Which pool it was of, by its name.
    last: Option<(String, PoolId)>,
    took: Duration,
    /// Why entries of a template were not warmed last, by its name.
    cold: BTreeMap<String, String>,
}

impl Turn {
    /// Takes note of whether one was warmed; `true` if the operator has not been told yet.
    pub(super) fn is_news(&mut self, template: &str, cold: Option<String>) -> bool {
        match cold {
            None => {
                self.cold.remove(template);
                false
            }
            Some(why) => {
                let told = self.cold.get(template) == Some(&why);
                self.cold.insert(template.to_owned(), why);
                !told
            }
        }
    }
}

impl Sandboxes {
    /// Fills the pool and keeps it as it should be; never returns.
    pub async fn keep_pool(&self) {
        for spec in self.0.pool.specs() {
            let name = &spec.template;
            if let Err(Error::Template { source: FindError::Unknown, .. }) =
                self.template(&Tenant::default(), name)
            {
                tracing::info!("pool: nothing is kept ready of {name}, as there is none");
            }
        }
        let mut turn = Turn::default();
        loop {
            match self.tend(&mut turn).await {
                Tended::Nothing => drop(timeout(LOOK, self.0.pool.stirred.notified()).await),
                Tended::Made => sleep(turn.took).await,
                Tended::Ended => sleep(SETTLE).await,
                Tended::Failed => sleep(RETRY).await,
            }
        }
    }

    /// Does one thing.
    pub(super) async fn tend(&self, turn: &mut Turn) -> Tended {
        if self.0.pool.closed.is_cancelled() {
            return Tended::Nothing;
        }
        let wanted = self.wanted();
        let (rules, pool) = (&self.0.rules, &self.0.pool);
        let room = rules.max_sandboxes.saturating_sub(self.0.registry.taken());
        let surplus = pool.take_surplus(&wanted, room);
        let mut dead = false;
        for entry in &surplus {
            dead |= !entry.lives();
            let why = if entry.lives() { "not needed" } else { "dead" };
            tracing::info!(sandbox = %entry.id, "pool: {why}: ending");
        }
        self.end_entries(surplus);
        if dead {
            return Tended::Failed;
        }
        if !has_left(rules.memory_headroom.saturating_add(SHORT)) {
            return match pool.take_oldest() {
                Some(entry) => {
                    tracing::info!(sandbox = %entry.id, "pool: memory is short: ending");
                    self.end_entries([entry]);
                    Tended::Ended
                }
                None => Tended::Nothing,
            };
        }
        let have = |want: &Want| pool.waiting(want.pool, &want.shape);
        let have: Vec<usize> = wanted.iter().map(have).collect();
        if have.iter().sum::<usize>() >= room {
            return Tended::Nothing;
        }
        let lacking = wanted.into_iter().zip(have).filter(|(want, have)| *have < want.size);
        let lacking: Lacking =
            lacking.map(|(want, _)| ((want.name.clone(), want.pool), want)).collect();
        let Some(want) = next(lacking, turn.last.as_ref()) else { return Tended::Nothing };
        let (id, name) = (want.pool, want.shape.template.id.clone());
        let (all, largest) = pool.memory(&name);
        let needed = largest.unwrap_or(TAKEN_AT_FIRST);
        if all.saturating_add(needed) > rules.pool.memory
            || !has_left(rules.memory_headroom.saturating_add(AMPLE).saturating_add(needed))
        {
            return Tended::Nothing;
        }
        let _ = timeout(LONGEST_WAIT, self.0.registry.quiet_for(QUIET)).await;
        if pool.closed.is_cancelled() || !pool.has(id) {
            return Tended::Nothing;
        }
        turn.last = Some((want.name.clone(), id));
        let start = Instant::now();
        let filled = self.fill_one(want).await;
        turn.took = start.elapsed();
        match filled {
            Ok(cold) => {
                let cold = cold.map(|error| error.to_string());
                let why = cold.clone().unwrap_or_default();
                if turn.is_news(&name, cold) {
                    tracing::warn!("pool: one of {name} has no warm kernel: {why}");
                }
                Tended::Made
            }
            Err(Error::Stopping) => Tended::Nothing,
            Err(error) => {
                tracing::warn!("pool: cannot make one of {name}, again in {RETRY:?}: {error}");
                Tended::Failed
            }
        }
    }

    /// What the pools should be at present. One whose template is not there has nothing.
    fn wanted(&self) -> Vec<Want> {
        let specs = self.0.pool.specs();
        // Those of the settings are as large whatever runs.
        let counted = specs.iter().any(|spec| !spec.of_settings);
        let allocated = if counted { self.allocated(&specs) } else { vec![0; specs.len()] };
        let there = specs.iter().zip(allocated).filter_map(|(spec, allocated)| {
            let shape = self.shape_of(spec).ok()?;
            let size = spec.capacity.wanted(self.0.pool.waiting(spec.id, &shape), allocated);
            Some(Want { pool: spec.id, name: spec.name.clone(), shape, size })
        });
        there.collect()
    }

    /// In a task of its own: what was begun is brought to its end, whoever waits.
    async fn fill_one(&self, want: Want) -> Result<Option<io::Error>, Error> {
        let sandboxes = self.clone();
        let task = self.0.tasks.spawn(async move {
            let template = want.shape.template.id.clone();
            sandboxes.0.pool.set_making(Some((want.pool, template)));
            let made = sandboxes.make_entry(want.pool, want.shape).await;
            sandboxes.0.pool.set_making(None);
            made
        });
        task.await.map_err(|e| Error::BrokenOff(e.to_string()))?
    }

    /// Also says why it has no warm kernel, where its template has kernels.
    async fn make_entry(&self, pool: PoolId, shape: Shape) -> Result<Option<io::Error>, Error> {
        let Some(hold) = self.0.snapshots.hold(&shape.template.layers) else {
            let (name, source) = (shape.template.id.clone(), FindError::Unknown);
            return Err(Error::Template { name, source });
        };
        let id = SandboxId::random();
        let dir = self.0.home.join(id.to_string());
        let init = shape.init(BTreeMap::new(), token()?);
        let made = async {
            let cell = self.make_cell(&dir, shape.spec(id, init)).await?;
            // One that cannot be warmed is as good as one that was made for its client.
            let cold = if shape.template.kernels {
                let warm = self.0.pool.closed.run_until_cancelled(self.0.inside.warm(&dir));
                warm.await.and_then(Result::err)
            } else {
                None
            };
            Ok((cell, self.0.backend.memory_used(id).await?, cold))
        };
        let (cell, memory, cold) = match made.await {
            Ok(made) => made,
            Err(error) => {
                self.remove_soon(id, dir);
                return Err(error);
            }
        };
        let watch = tokio::spawn({
            let (sandboxes, ended) = (self.clone(), cell.ended.clone());
            async move {
                ended.cancelled().await;
                sandboxes.0.pool.stir();
            }
        });
        let _watch = AbortOnDropHandle::new(watch);
        let entry = Entry { id, dir, shape, cell, pool, memory, _hold: hold, _watch };
        tracing::debug!(sandbox = %id, template = entry.shape.template.id, "pool: ready");
        match self.0.pool.put(entry) {
            None => Ok(cold),
            Some(entry) => {
                self.end_entries([entry]);
                match self.0.pool.closed.is_cancelled() {
                    true => Err(Error::Stopping),
                    false => Ok(None),
                }
            }
        }
    }
}

/// Whether so much memory (bytes) is available; where the system does not say, it is.
fn has_left(bytes: u64) -> bool {
    backend::available_memory().is_none_or(|available| available >= bytes)
}

/// By the names of their pools.
type Lacking = BTreeMap<(String, PoolId), Want>;

/// The one whose turn it is, so that no pool keeps the others from theirs.
fn next(mut lacking: Lacking, last: Option<&(String, PoolId)>) -> Option<Want> {
    let after = last.and_then(|last| lacking.keys().find(|key| *key > last).cloned());
    let key = after.or_else(|| lacking.keys().next().cloned())?;
    lacking.remove(&key)
}
