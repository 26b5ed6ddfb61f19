//! How much of what a sandbox reports becomes events. They are kept with those of all others, who
//! are not to lose theirs to the word of one.

use std::time::Instant;

/// Events at once, and in each second after;
const EVENTS: f64 = 2000.0;
const EVENTS_BACK: f64 = 100.0;
/// of their reports (bytes), the same.
const BYTES: f64 = (4 << 20) as f64;
const BYTES_BACK: f64 = (64 << 10) as f64;

pub(super) struct Budget {
    events: f64,
    bytes: f64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { events: EVENTS, bytes: BYTES, at: now }
    }

    /// Whether there is enough for a report of so many bytes; else nothing is taken.
    pub(super) fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.events = (self.events + since * EVENTS_BACK).min(EVENTS);
        self.bytes = (self.bytes + since * BYTES_BACK).min(BYTES);
        let bytes = bytes as f64;
        let enough = self.events >= 1.0 && self.bytes >= bytes;
        if enough {
            self.events -= 1.0;
            self.bytes -= bytes;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn many_are_taken_at_once_and_others_as_time_goes_by() {
        let start = Instant::now();
        for (bytes, at_once, later) in [(1, EVENTS, EVENTS_BACK), (8 << 10, 512.0, 8.0)] {
            let mut budget = Budget::new(start);
            let mut taken = |now| (0..10_000).filter(|_| budget.take(bytes, now)).count() as f64;
            assert_eq!(taken(start), at_once);
            assert_eq!(taken(start + Duration::from_secs(1)), later);
            assert_eq!(taken(start + Duration::from_secs(3600)), at_once);
        }
    }
}
