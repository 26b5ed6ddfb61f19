//! What figures are kept in: atomics that are raised without a lock and without memory.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Only rises, and stays where it is rather than to begin anew.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn raise(&self) {
        self.add(1);
    }

    pub(super) fn add(&self, more: u64) {
        let added = |value: u64| Some(value.saturating_add(more));
        // Never fails, as there is always a new value.
        let _ = self.0.fetch_update(Relaxed, Relaxed, added);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A counter for each value of a label.
#[derive(Debug)]
pub(crate) struct Counters<const N: usize>([Counter; N]);

impl<const N: usize> Default for Counters<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl<const N: usize> Counters<N> {
    pub(super) fn raise(&self, which: usize) {
        self.add(which, 1);
    }

    pub(super) fn add(&self, which: usize, more: u64) {
        self.0[which].add(more);
    }

    pub(super) fn values(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(Counter::value)
    }
}

/// Upper bounds of a histogram's buckets in milliseconds, the last one aside, which has none.
pub(super) const BOUNDS: [u64; 14] =
    [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000];

/// How long things took: how many took how long, and all together.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: Counters<{ BOUNDS.len() + 1 }>,
    nanoseconds: Counter,
}

impl Histogram {
    pub(super) fn observe(&self, took: Duration) {
        let bucket = BOUNDS.partition_point(|&bound| Duration::from_millis(bound) < took);
        self.buckets.raise(bucket);
        self.nanoseconds.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many took at most as long as each bound; the last are all there are.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = u64> {
        self.buckets.values().scan(0, |sum: &mut u64, count| {
            *sum = sum.saturating_add(count);
            Some(*sum)
        })
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.values().fold(0, u64::saturating_add)
    }

    pub(super) fn nanoseconds(&self) -> u64 {
        self.nanoseconds.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_its_bucket_and_all_above() {
        let histogram = Histogram::default();
        for millis in [0, 5, 6, 300_000, 300_001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative[..3], [2, 3, 3]);
        assert_eq!(cumulative[BOUNDS.len() - 1..], [4, 5]);
        assert_eq!((histogram.count(), histogram.nanoseconds()), (5, 600_012_000_000));
    }

    #[test]
    fn no_counter_begins_anew() {
        let histogram = Histogram::default();
        for _ in 0..3 {
            histogram.observe(Duration::from_secs(u64::MAX / 2));
        }
        assert_eq!((histogram.count(), histogram.nanoseconds()), (3, u64::MAX));
    }
}
