//! How large a pool is to be, in the four numbers of OpenSandbox's `capacitySpec`.

use serde::{Deserialize, Serialize};

/// Sandboxes of a pool: what waits in it is its buffer, and with what was taken and runs it is the
/// pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    pub buffer_max: usize,
    pub buffer_min: usize,
    pub pool_max: usize,
    pub pool_min: usize,
}

impl Capacity {
    /// What may wait in one pool.
    pub const MOST_WAITING: usize = 1000;
    /// What one may have in all.
    pub const MOST: usize = 1_000_000;

    /// So many wait, however many run.
    pub(super) fn waiting(size: usize) -> Self {
        Self { buffer_max: size, buffer_min: size, pool_max: Self::MOST, pool_min: 0 }
    }

    /// Why there is no such pool, if there is none.
    ///
    /// # Errors
    /// With what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let Self { buffer_max, buffer_min, pool_max, pool_min } = *self;
        let most = Self::MOST_WAITING;
        if buffer_max > most || pool_min > most {
            return Err(format!("bufferMax and poolMin are {most} at the most"));
        }
        if pool_max > Self::MOST {
            return Err(format!("poolMax is {} at the most", Self::MOST));
        }
        if buffer_min > buffer_max {
            return Err("bufferMin is bufferMax at the most".to_owned());
        }
        if pool_min > pool_max || buffer_min > pool_max {
            return Err("poolMin and bufferMin are poolMax at the most".to_owned());
        }
        Ok(())
    }

    /// How many are to wait where so many do, and so many that were taken run.
    pub(super) fn wanted(&self, available: usize, allocated: usize) -> usize {
        let buffer = available.clamp(self.buffer_min, self.buffer_max.max(self.buffer_min));
        let least = self.pool_min.saturating_sub(allocated);
        let most = self.pool_max.saturating_sub(allocated);
        buffer.max(least).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(
        buffer_min: usize,
        buffer_max: usize,
        pool_min: usize,
        pool_max: usize,
    ) -> Capacity {
        Capacity { buffer_max, buffer_min, pool_max, pool_min }
    }

    #[test]
    fn a_buffer_is_left_alone_within_its_bounds_and_the_pool_has_bounds_of_its_own() {
        let pool = capacity(2, 4, 3, 10);
        for (available, allocated, wanted) in [
            // What nothing was taken from yet is as large as a pool has to be.
            (0, 0, 3),
            (3, 0, 3),
            (0, 2, 2),
            (1, 5, 2),
            (3, 5, 3),
            (9, 5, 4),
            // No more than all may be, waiting or not.
            (2, 8, 2),
            (2, 9, 1),
            (2, 30, 0),
        ] {
            assert_eq!(pool.wanted(available, allocated), wanted, "{available} {allocated}");
        }
        assert_eq!(Capacity::waiting(3).wanted(0, 5000), 3);
        assert_eq!(Capacity::waiting(3).wanted(7, 0), 3);
        assert_eq!(capacity(0, 0, 0, 0).wanted(1, 0), 0);
    }

    #[test]
    fn what_cannot_be_kept_to_is_refused() {
        for good in [(0, 0, 0, 0), (1, 1, 0, 1), (2, 5, 10, 10), (1000, 1000, 1000, 1_000_000)] {
            let (buffer_min, buffer_max, pool_min, pool_max) = good;
            assert_eq!(capacity(buffer_min, buffer_max, pool_min, pool_max).check(), Ok(()));
        }
        for wrong in [
            (2, 1, 0, 5),
            (2, 2, 0, 1),
            (0, 1001, 0, 2000),
            (0, 0, 1001, 2000),
            (0, 0, 3, 2),
            (0, 0, 0, 1_000_001),
        ] {
            let (buffer_min, buffer_max, pool_min, pool_max) = wrong;
            let checked = capacity(buffer_min, buffer_max, pool_min, pool_max).check();
            assert!(checked.is_err(), "{wrong:?}");
        }
    }
}
