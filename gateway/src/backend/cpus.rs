//! Which CPUs a sandbox may run on.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Those there are for sandboxes, given out in turn.
pub(super) struct Cpus {
    all: Vec<u16>,
    next: AtomicUsize,
}

impl Cpus {
    pub(super) fn new(all: Vec<u16>) -> Self {
        Self { all, next: AtomicUsize::new(0) }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// As many as are wanted, or all, in the order of their numbers.
    pub(super) fn choose(&self, wanted: u32) -> Vec<u16> {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX).max(1);
        if wanted >= self.all.len() {
            return self.all.clone();
        }
        let start = self.next.fetch_add(wanted, Ordering::Relaxed);
        let mut chosen: Vec<u16> =
            (0..wanted).map(|n| self.all[start.wrapping_add(n) % self.all.len()]).collect();
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_are_spread_over_all_and_get_no_more_than_there_are() {
        let cpus = Cpus::new(vec![0, 2, 5]);
        assert_eq!(
            [cpus.choose(2), cpus.choose(2), cpus.choose(0)],
            [vec![0, 2], vec![0, 5], vec![2]]
        );
        assert_eq!(cpus.choose(3), [0, 2, 5]);
        assert_eq!(cpus.choose(u32::MAX), [0, 2, 5]);
        assert!(Cpus::new(Vec::new()).choose(1).is_empty());
    }
}
