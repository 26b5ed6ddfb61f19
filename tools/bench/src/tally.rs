//! What was counted of one operation: latencies, errors, bytes.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// The longest time told apart from longer ones, in microseconds.
const LONGEST: u64 = 600_000_000;

#[derive(Clone)]
pub(crate) struct Tally {
    /// Microseconds, to three digits.
    latencies: Histogram<u64>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) bytes: u64,
    /// How long it was gone on with; throughput refers to this.
    pub(crate) lasted: Duration,
}

impl Default for Tally {
    fn default() -> Self {
        let latencies =
            Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds that hdrhistogram accepts");
        Self { latencies, errors: 0, first_error: None, bytes: 0, lasted: Duration::ZERO }
    }
}

impl Tally {
    /// One operation that began, or was meant to begin, at `start`, and is over now.
    pub(crate) fn count(&mut self, start: Instant, outcome: anyhow::Result<u64>) {
        self.count_as(start.elapsed(), outcome);
    }

    pub(crate) fn count_as(&mut self, took: Duration, outcome: anyhow::Result<u64>) {
        match outcome {
            Ok(bytes) => {
                let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                self.latencies.saturating_record(micros.max(1));
                self.bytes += bytes;
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    /// Of workers that went on at the same time.
    pub(crate) fn merge(&mut self, other: Self) {
        self.latencies.add(other.latencies).expect("histograms of the same bounds");
        self.errors += other.errors;
        self.bytes += other.bytes;
        self.lasted = self.lasted.max(other.lasted);
        if self.first_error.is_none() {
            self.first_error = other.first_error;
        }
    }

    /// Of a later round.
    pub(crate) fn append(&mut self, other: Self) {
        let before = self.lasted;
        self.lasted = Duration::ZERO;
        self.merge(other);
        self.lasted += before;
    }

    pub(crate) fn len(&self) -> u64 {
        self.latencies.len()
    }

    /// Milliseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub(crate) fn mean(&self) -> f64 {
        self.latencies.mean() / 1000.0
    }

    pub(crate) fn max(&self) -> f64 {
        self.latencies.max() as f64 / 1000.0
    }

    /// Successes a second.
    pub(crate) fn rate(&self) -> f64 {
        per_second(self.len() as f64, self.lasted)
    }

    /// Millions of bytes a second.
    pub(crate) fn megabytes(&self) -> f64 {
        per_second(self.bytes as f64 / 1e6, self.lasted)
    }
}

fn per_second(what: f64, lasted: Duration) -> f64 {
    if lasted.is_zero() { 0.0 } else { what / lasted.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(millis: impl IntoIterator<Item = u64>) -> Tally {
        let mut tally = Tally::default();
        for ms in millis {
            tally.count_as(Duration::from_millis(ms), Ok(10));
        }
        tally
    }

    #[test]
    fn percentiles_are_those_of_the_samples_to_three_digits() {
        let tally = of(1..=1000);
        let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.001);
        near(tally.quantile(0.5), 500.0);
        near(tally.quantile(0.95), 950.0);
        near(tally.quantile(0.99), 990.0);
        near(tally.max(), 1000.0);
        near(tally.mean(), 500.5);
    }

    #[test]
    fn errors_are_counted_apart_and_the_first_is_kept() {
        let mut tally = of([1, 2]);
        tally.count_as(Duration::from_secs(9), Err(anyhow::anyhow!("first")));
        let mut more = Tally::default();
        more.count_as(Duration::from_secs(9), Err(anyhow::anyhow!("second")));
        tally.merge(more);
        assert_eq!((tally.len(), tally.errors, tally.bytes), (2, 2, 20));
        assert_eq!(tally.first_error.as_deref(), Some("first"));
        assert!(tally.max() < 3.0);
    }

    #[test]
    fn time_is_shared_by_workers_and_added_over_rounds() {
        let second = |seconds| Tally { lasted: Duration::from_secs(seconds), ..of([1]) };
        let mut tally = second(1);
        tally.merge(second(2));
        assert_eq!(tally.rate(), 1.0);
        tally.append(second(2));
        assert_eq!((tally.rate(), tally.len()), (0.75, 3));
        assert_eq!(Tally::default().rate(), 0.0);
    }

    #[test]
    fn what_takes_longer_than_can_be_told_counts_as_the_longest() {
        let tally = of([u64::MAX / 1000]);
        assert!(tally.max() >= LONGEST as f64 / 1000.0);
    }
}
