//! How much one sandbox may have of something at once, and all of them together.

use std::{collections::HashMap, net::Ipv4Addr, sync::Arc};

use parking_lot::Mutex;

pub(super) struct Places {
    of_one: usize,
    of_all: usize,
    taken: Arc<Mutex<HashMap<Ipv4Addr, usize>>>,
}

/// Given back when it is dropped.
pub(super) struct Place {
    source: Ipv4Addr,
    taken: Arc<Mutex<HashMap<Ipv4Addr, usize>>>,
}

impl Places {
    pub(super) fn new(of_one: usize, of_all: usize) -> Self {
        Self { of_one, of_all, taken: Arc::default() }
    }

    pub(super) fn take(&self, source: Ipv4Addr) -> Option<Place> {
        let mut taken = self.taken.lock();
        let all: usize = taken.values().sum();
        let own = taken.get(&source).copied().unwrap_or_default();
        if own >= self.of_one || all >= self.of_all {
            return None;
        }
        taken.insert(source, own + 1);
        Some(Place { source, taken: self.taken.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        match taken.get_mut(&self.source) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.remove(&self.source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_his_share_and_what_is_given_back_is_there_again() {
        let places = Places::new(2, 3);
        let [one, other] = [1, 2].map(|last| Ipv4Addr::new(198, 18, 0, last));
        let first = places.take(one).unwrap();
        let _second = places.take(one).unwrap();
        assert!(places.take(one).is_none());
        let third = places.take(other).unwrap();
        assert!(places.take(other).is_none(), "all are taken");
        drop(first);
        drop(third);
        assert!(places.take(one).is_some());
        assert_eq!(places.taken.lock().len(), 1);
    }
}
