//! Who goes round in circles: commands and code that come again, word for word. Of each there is a
//! hash and when it was there last, as much as is bounded.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// For so long one counts.
const WINDOW: Duration = Duration::from_secs(600);
/// So many before it, within the window, make one a repetition.
const BEFORE: usize = 3;
/// Different ones that are remembered.
const MOST: usize = 512;

#[derive(Default)]
pub(crate) struct Repeats {
    hasher: RandomState,
    /// When each was there last, the latest at the end.
    seen: Mutex<HashMap<u64, [Option<Instant>; BEFORE]>>,
}

impl Repeats {
    /// Takes note of one; whether it is a repetition.
    pub(crate) fn note(&self, what: impl Hash, now: Instant) -> bool {
        let hash = self.hasher.hash_one(what);
        let mut seen = self.seen.lock();
        if seen.len() == MOST && !seen.contains_key(&hash) {
            let oldest = seen.iter().min_by_key(|(_, times)| times[BEFORE - 1]);
            if let Some(oldest) = oldest.map(|(hash, _)| *hash) {
                seen.remove(&oldest);
            }
        }
        let times = seen.entry(hash).or_default();
        let repeated = times[0].is_some_and(|at| now.saturating_duration_since(at) <= WINDOW);
        times.rotate_left(1);
        times[BEFORE - 1] = Some(now);
        repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_within_ten_minutes_is_a_repetition() {
        let (repeats, began) = (Repeats::default(), Instant::now());
        let at = |what: &str, second| repeats.note(what, began + Duration::from_secs(second));
        assert_eq!([0, 1, 2].map(|second| at("ls", second)), [false; 3]);
        assert!(!at("ls -l", 3) && at("ls", 4) && at("ls", 5));
        // The second of these is the first that has three within the window before it.
        assert!(!at("ls", 700) && !at("ls", 701) && !at("ls", 702) && at("ls", 703));
    }

    #[test]
    fn a_flood_of_others_drives_out_what_was_longest_ago() {
        let (repeats, began) = (Repeats::default(), Instant::now());
        let at = |what: usize, second| repeats.note(what, began + Duration::from_secs(second));
        for second in 0..3 {
            assert!(!at(0, second) && !at(1, second));
        }
        assert!(at(0, 3));
        for other in 2..MOST + 1 {
            assert!(!at(other, 4));
        }
        assert_eq!(repeats.seen.lock().len(), MOST);
        assert!(at(0, 5), "it was there later than the one that is driven out");
        assert!(!at(1, 6), "it was driven out");
    }
}
