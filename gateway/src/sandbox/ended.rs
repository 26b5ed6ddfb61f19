//! What is remembered of sandboxes that have ended: in memory only, and only of the last ones. What
//! there is no room for is the oldest of the tenant that has most of it: nobody has another's
//! forgotten.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use super::{Facts, Sandbox, SandboxId, Tenant, life::Life};
use crate::limits::Limits;

/// So many at most,
const MOST: usize = 1000;
/// with so much of metadata (bytes) together.
const MOST_METADATA: usize = 4 << 20;

/// One that has ended or is about to.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub(super) tenant: Tenant,
    pub(super) life: Arc<Life>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) created_at: DateTime<Utc>,
    /// `None` of one that has none yet.
    pub(super) limits: Option<Limits>,
}

impl Remembered {
    pub(super) fn new(life: &Arc<Life>, facts: &Facts) -> Self {
        let (tenant, metadata) = (facts.tenant.clone(), facts.metadata.clone());
        Self {
            tenant,
            life: life.clone(),
            metadata,
            created_at: facts.started_at,
            limits: Some(facts.limits),
        }
    }

    /// One that is about to end, or was a moment ago.
    pub(super) fn of(sandbox: &Sandbox) -> Self {
        let metadata = (*sandbox.metadata()).clone();
        Self { metadata, ..Self::new(&sandbox.life, sandbox.facts()) }
    }

    /// One that was never anything but wanted.
    pub(super) fn unborn(life: &Arc<Life>, tenant: Tenant) -> Self {
        let created_at = life.now().since;
        Self { tenant, life: life.clone(), metadata: BTreeMap::new(), created_at, limits: None }
    }

    fn size(&self) -> usize {
        self.metadata.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// The last ones.
#[derive(Default)]
pub(super) struct Ended(Mutex<Last>);

#[derive(Default)]
struct Last {
    by_id: HashMap<SandboxId, Remembered>,
    shares: HashMap<Tenant, Share>,
    /// Bytes of metadata.
    size: usize,
}

/// A tenant's.
#[derive(Default)]
struct Share {
    /// The oldest first.
    order: VecDeque<SandboxId>,
    /// Bytes of metadata.
    size: usize,
}

impl Last {
    /// One whose tenant is none other than when it was remembered before, if it was.
    fn put(&mut self, id: SandboxId, one: Remembered) {
        let share = self.shares.entry(one.tenant.clone()).or_default();
        share.size += one.size();
        self.size += one.size();
        if let Some(before) = self.by_id.insert(id, one) {
            share.size -= before.size();
            self.size -= before.size();
        } else {
            share.order.push_back(id);
        }
    }

    /// The oldest of whoever has most by that measure.
    fn forget<M: Ord>(&mut self, measure: impl Fn(&Share) -> M) {
        let largest = self.shares.iter_mut().max_by_key(|(_, share)| measure(share));
        let Some((tenant, share)) = largest else { return };
        let oldest = share.order.pop_front().and_then(|oldest| self.by_id.remove(&oldest));
        let size = oldest.map_or(0, |one| one.size());
        share.size -= size;
        self.size -= size;
        if share.order.is_empty() {
            let tenant = tenant.clone();
            self.shares.remove(&tenant);
        }
    }
}

impl Ended {
    pub(super) fn remember(&self, id: SandboxId, one: Remembered) {
        let mut last = self.0.lock();
        last.put(id, one);
        while last.by_id.len() > MOST {
            last.forget(|share| share.order.len());
        }
        while last.size > MOST_METADATA {
            last.forget(|share| share.size);
        }
    }

    pub(super) fn get(&self, id: SandboxId) -> Option<Remembered> {
        self.0.lock().by_id.get(&id).cloned()
    }

    pub(super) fn tenant(&self, id: SandboxId) -> Option<Tenant> {
        self.0.lock().by_id.get(&id).map(|one| one.tenant.clone())
    }

    /// Those that are not gone yet.
    pub(super) fn stopping(&self) -> Vec<Arc<Life>> {
        let last = self.0.lock();
        let lives = last.by_id.values().map(|one| &one.life);
        lives.filter(|life| life.phase().is_under_way()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing;

    fn one(metadata: usize) -> Remembered {
        let metadata = BTreeMap::from([(String::new(), "x".repeat(metadata))]);
        let life = Arc::new(Life::pending());
        Remembered::new(&life, &Facts { metadata, ..testing::facts() })
    }

    #[test]
    fn the_last_ones_are_remembered_in_bounded_memory() {
        let ended = Ended::default();
        let ids: Vec<SandboxId> = (0..MOST + 5).map(|_| SandboxId::random()).collect();
        for id in &ids {
            ended.remember(*id, one(100));
        }
        assert!(ended.get(ids[4]).is_none() && ended.get(ids[5]).is_some());
        let large = [SandboxId::random(), SandboxId::random()];
        for id in large {
            ended.remember(id, one(3 << 20));
        }
        assert!(ended.get(large[0]).is_none() && ended.get(large[1]).is_some());
        let known = ended.0.lock().by_id.len();
        assert_eq!(known, ended.0.lock().shares[&Tenant::default()].order.len());
        // The same again takes the place of the one before.
        ended.remember(large[1], one(2 << 20));
        assert!(ended.0.lock().size <= MOST_METADATA);
    }

    #[test]
    fn a_tenant_has_its_own_forgotten_and_no_others() {
        let ended = Ended::default();
        let of = |tenant: &str, size| Remembered { tenant: tenant.parse().unwrap(), ..one(size) };
        let quiet = [SandboxId::random(), SandboxId::random()];
        for id in quiet {
            ended.remember(id, of("quiet", 100));
        }
        let first = SandboxId::random();
        ended.remember(first, of("loud", 10));
        for _ in 0..2 * MOST {
            ended.remember(SandboxId::random(), of("loud", 10));
        }
        assert!(quiet.iter().all(|id| ended.get(*id).is_some()) && ended.get(first).is_none());
        assert_eq!(ended.0.lock().by_id.len(), MOST);
        for _ in 0..3 {
            ended.remember(SandboxId::random(), of("large", 3 << 20));
        }
        assert!(quiet.iter().all(|id| ended.get(*id).is_some()));
        let last = ended.0.lock();
        assert!(last.size <= MOST_METADATA);
        assert_eq!(last.size, last.shares.values().map(|share| share.size).sum::<usize>());
        assert_eq!(last.by_id.len(), last.shares.values().map(|it| it.order.len()).sum::<usize>());
    }
}
