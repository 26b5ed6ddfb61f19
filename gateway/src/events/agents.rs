//! What agents tell of what they do in a sandbox: as much as they may in a second.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::sandbox::SandboxId;

/// Of one sandbox: so many at once, and as many again in so long.
const AT_ONCE: f64 = 200.0;
const PER_SECOND: f64 = 50.0;
/// Sandboxes that are remembered to have been told of lately.
const MOST: usize = 10_000;

/// How often each sandbox may be told of.
#[derive(Default)]
pub(crate) struct Rates(Mutex<HashMap<SandboxId, Bucket>>);

struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// What it has by then.
    fn by(&self, now: Instant) -> f64 {
        let back = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        (self.left + back).min(AT_ONCE)
    }
}

impl Rates {
    /// # Errors
    /// It is too often, by how long; nothing is taken.
    pub(crate) fn take(&self, sandbox: SandboxId, now: Instant) -> Result<(), Duration> {
        let mut buckets = self.0.lock();
        if buckets.len() >= MOST && !buckets.contains_key(&sandbox) {
            // One that is full is as good as none.
            buckets.retain(|_, bucket| bucket.by(now) < AT_ONCE);
        }
        let bucket = buckets.entry(sandbox).or_insert(Bucket { left: AT_ONCE, at: now });
        let left = bucket.by(now);
        if left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - left) / PER_SECOND));
        }
        *bucket = Bucket { left: left - 1.0, at: now };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_taken_at_once_and_others_as_time_goes_by_for_each_by_itself() {
        let (rates, start) = (Rates::default(), Instant::now());
        let [one, other] = [SandboxId::random(), SandboxId::random()];
        let taken = (0..1000).filter(|_| rates.take(one, start).is_ok()).count();
        assert_eq!(taken as f64, AT_ONCE);
        let again = rates.take(one, start).unwrap_err();
        rates.take(other, start).unwrap();
        let later = start + again + Duration::from_millis(1);
        rates.take(one, later).unwrap();
        rates.take(one, later).unwrap_err();
    }

    #[test]
    fn those_who_have_their_share_again_are_forgotten() {
        let (rates, start) = (Rates::default(), Instant::now());
        for n in 0..3 * MOST {
            rates.take(SandboxId::random(), start + Duration::from_millis(n as u64)).unwrap();
        }
        assert!(rates.0.lock().len() <= MOST);
    }
}
