//! How often is logged what code in the sandbox can make happen as often as it likes: envd's log
//! lies outside the sandbox, on the host's disk.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Between two lines.
const REST: Duration = Duration::from_secs(5);

/// For all kernels together.
pub(super) static LOG: Seldom = Seldom(Mutex::new(None));

pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether a line may be written, which is the last one then for a while.
    pub(super) fn has_turn(&self, now: Instant) -> bool {
        let mut last = self.0.lock();
        let has = last.is_none_or(|last| now >= last + REST);
        if has {
            *last = Some(now);
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_a_while_is_logged() {
        let (log, start) = (Seldom(Mutex::new(None)), Instant::now());
        let written = (0..100).filter(|n| log.has_turn(start + REST * *n / 10)).count();
        assert_eq!(written, 10);
    }
}
