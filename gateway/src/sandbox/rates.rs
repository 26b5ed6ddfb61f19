//! How often each tenant may have sandboxes made.
//!
//! A minute's worth is there at first, and comes back evenly. What asks for several at once gets
//! them as soon as there is one, and is waited for afterwards.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{Error, Owner, Tenant};

const MINUTE: f64 = 60.0;

#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<Tenant, Bucket>>);

struct Bucket {
    /// Below nothing after several at once.
    left: f64,
    at: Instant,
}

impl Rates {
    /// # Errors
    /// [`Error::TooOften`], and nothing is taken.
    pub(super) fn take(&self, owner: &Owner, count: u32, now: Instant) -> Result<(), Error> {
        let Some(most) = owner.quota.creates_per_minute else { return Ok(()) };
        let a_minute = f64::from(most.max(1));
        let mut buckets = self.0.lock();
        let bucket = buckets
            .entry(owner.tenant.clone())
            .or_insert_with(|| Bucket { left: a_minute, at: now });
        let back = now.duration_since(bucket.at).as_secs_f64() / MINUTE * a_minute;
        // The tenant may be given less than it had.
        bucket.left = (bucket.left + back).min(a_minute);
        bucket.at = now;
        if bucket.left < 1.0 {
            let again = Duration::from_secs_f64((1.0 - bucket.left) * MINUTE / a_minute);
            return Err(Error::TooOften { tenant: owner.tenant.clone(), most, again });
        }
        bucket.left -= f64::from(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Quota, *};

    fn owner(name: &str, most: Option<u32>) -> Owner {
        let quota = Quota { creates_per_minute: most, ..Quota::default() };
        Owner { tenant: name.parse().unwrap(), quota }
    }

    #[test]
    fn a_minutes_worth_is_there_at_first_and_comes_back_evenly() {
        let (rates, start) = (Rates::default(), Instant::now());
        let (one, other) = (owner("one", Some(6)), owner("other", Some(1)));
        for _ in 0..6 {
            rates.take(&one, 1, start).unwrap();
        }
        let Err(Error::TooOften { again, most: 6, .. }) = rates.take(&one, 1, start) else {
            panic!("one too many")
        };
        assert_eq!(again, Duration::from_secs(10));
        rates.take(&other, 1, start).unwrap();
        let later = start + again + Duration::from_millis(1);
        rates.take(&one, 1, later).unwrap();
        assert!(rates.take(&one, 1, later).is_err());
        for _ in 0..6 {
            rates.take(&one, 1, start + Duration::from_secs(3600)).unwrap();
        }
        assert!(rates.take(&one, 1, start + Duration::from_secs(3600)).is_err());
    }

    #[test]
    fn several_at_once_are_waited_for_afterwards() {
        let (rates, start) = (Rates::default(), Instant::now());
        let one = owner("one", Some(60));
        rates.take(&one, 100, start).unwrap();
        let refused = rates.take(&one, 1, start + Duration::from_secs(40));
        assert!(matches!(refused, Err(Error::TooOften { .. })));
        rates.take(&one, 1, start + Duration::from_secs(42)).unwrap();
    }

    #[test]
    fn whoever_has_no_bound_may_and_one_that_is_told_later_holds() {
        let (rates, now) = (Rates::default(), Instant::now());
        for _ in 0..1000 {
            rates.take(&owner("one", None), 100, now).unwrap();
        }
        rates.take(&owner("one", Some(100)), 1, now).unwrap();
        rates.take(&owner("one", Some(1)), 1, now).unwrap();
        assert!(rates.take(&owner("one", Some(1)), 1, now).is_err());
    }
}
