//! What is counted for jails by others than racct(4), or not as a sum there.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
    time::{Duration, Instant},
};

use super::net_slot::{Owner, Slot};
use crate::{
    backend::{BlockIo, Traffic},
    sandbox::SandboxId,
};

/// A rate holds for so long at most: whoever does not look for longer has missed more.
const HOLDS: Duration = Duration::from_secs(5);

/// Bytes that jails had of their disks, added up from rates.
#[derive(Default)]
pub(super) struct Disks(HashMap<SandboxId, (Instant, BlockIo)>);

impl Disks {
    /// Both rates in bytes a second, as they are `at` that instant.
    pub(super) fn add(&mut self, id: SandboxId, at: Instant, read: u64, written: u64) -> BlockIo {
        let (before, sum) = self.0.entry(id).or_insert((at, BlockIo::default()));
        let passed = at.saturating_duration_since(*before).min(HOLDS).as_millis();
        let passed = u64::try_from(passed).unwrap_or_default();
        let bytes = |rate: u64| rate.saturating_mul(passed) / 1000;
        sum.read = sum.read.saturating_add(bytes(read));
        sum.written = sum.written.saturating_add(bytes(written));
        *before = at;
        *sum
    }

    /// Forgets all others.
    pub(super) fn keep(&mut self, there: &BTreeSet<SandboxId>) {
        self.0.retain(|id, _| there.contains(id));
    }
}

/// Whose the host's ends of links are, by their names. Who has a slot is read from files, which is
/// only done when somebody has come or gone.
#[derive(Default)]
pub(super) struct Links(HashMap<String, Owner>);

impl Links {
    /// What has gone over the links of the jails of a data directory. Of `interfaces`, which have
    /// names, bytes received and sent, those of others are left out.
    pub(super) fn traffic(
        &mut self,
        interfaces: &HashMap<String, (u64, u64)>,
        there: &BTreeSet<SandboxId>,
        data_dir: &Path,
        slots: impl FnOnce() -> Vec<(Slot, Owner)>,
    ) -> HashMap<SandboxId, Traffic> {
        let ours = |owner: &Owner| owner.data_dir == data_dir;
        let gone = self.0.iter().any(|(name, owner)| {
            !interfaces.contains_key(name) || (ours(owner) && !there.contains(&owner.id))
        });
        let come =
            interfaces.keys().any(|name| Slot::is_outside(name) && !self.0.contains_key(name));
        if gone || come {
            self.0 = slots().into_iter().map(|(slot, owner)| (slot.outside(), owner)).collect();
        }
        let known = self.0.iter().filter(|(_, owner)| ours(owner));
        let found = known.filter_map(|(name, owner)| {
            // What the host receives, the jail has sent.
            let (sent, received) = *interfaces.get(name)?;
            Some((owner.id, Traffic { received, sent }))
        });
        found.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_added_up_for_as_long_as_they_hold() {
        let (mut disks, id, began) = (Disks::default(), SandboxId::random(), Instant::now());
        let at = |millis| began + Duration::from_millis(millis);
        assert_eq!(disks.add(id, at(0), 1000, 1), BlockIo::default());
        assert_eq!(disks.add(id, at(500), 1000, 4), BlockIo { read: 500, written: 2 });
        assert_eq!(disks.add(id, at(1500), 10, 0), BlockIo { read: 510, written: 2 });
        assert_eq!(disks.add(id, at(61_500), 10, 0), BlockIo { read: 560, written: 2 });
        disks.keep(&BTreeSet::new());
        assert_eq!(disks.add(id, at(62_000), 10, 0), BlockIo::default());
    }

    #[test]
    fn links_are_told_apart_by_slots_that_are_read_when_somebody_came_or_went() {
        let (mine, other) = (SandboxId::random(), SandboxId::random());
        let owner = |id, dir: &str| Owner { id, data_dir: dir.into() };
        let slot = |number| Slot::new(number).unwrap();
        let slots = vec![(slot(1), owner(mine, "/a")), (slot(2), owner(other, "/b"))];
        let interface = |number, bytes| (slot(number).outside(), (bytes, bytes + 1));
        let mut interfaces = HashMap::from([interface(1, 10), interface(2, 20)]);
        interfaces.insert("em0".to_owned(), (5, 6));
        let (mut links, mut there) = (Links::default(), BTreeSet::from([mine]));
        let dir = Path::new("/a");
        let first = links.traffic(&interfaces, &there, dir, || slots.clone());
        assert_eq!(first, HashMap::from([(mine, Traffic { received: 11, sent: 10 })]));
        let again = links.traffic(&interfaces, &there, dir, || panic!("nobody came or went"));
        assert_eq!(again, first);
        there.insert(other);
        interfaces.extend([interface(3, 30)]);
        let slots = vec![(slot(1), owner(mine, "/a")), (slot(3), owner(other, "/a"))];
        let later = links.traffic(&interfaces, &there, dir, || slots);
        assert_eq!(later[&other], Traffic { received: 31, sent: 30 });
    }
}
