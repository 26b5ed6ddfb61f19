//! What one sandbox has used over time, in bounded memory: the last quarter of an hour each five
//! seconds, six hours before that each minute, five days before that each ten minutes. That is at
//! most [`History::MOST`] samples, of 20 bytes each.
//!
//! Where samples are drawn together, the CPU is their mean and all else the most there was.

use std::collections::VecDeque;

/// One look at a sandbox.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Seconds since the epoch, at the end of what it tells of.
    pub(crate) at: u32,
    /// Percent of one core, since the sample before.
    pub(crate) cpu_percent: f32,
    pub(crate) memory_kib: u32,
    pub(crate) cache_kib: u32,
    pub(crate) disk_kib: u32,
}

/// As memory and files have it.
const SIZE: usize = 20;

/// What a file of samples begins with; the digit rises when what follows means something else.
const MAGIC: &[u8; 8] = b"samples1";

impl Sample {
    fn bytes(&self) -> [u8; SIZE] {
        let words =
            [self.at, self.cpu_percent.to_bits(), self.memory_kib, self.cache_kib, self.disk_kib];
        let mut bytes = [0; SIZE];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut words = bytes.chunks_exact(4).map(|word| {
            let word = word.try_into().expect("is four bytes long");
            u32::from_le_bytes(word)
        });
        let mut word = || words.next();
        let sample = Self {
            at: word()?,
            cpu_percent: f32::from_bits(word()?),
            memory_kib: word()?,
            cache_kib: word()?,
            disk_kib: word()?,
        };
        (sample.cpu_percent.is_finite() && sample.cpu_percent >= 0.0).then_some(sample)
    }

    /// As many as there may be, each for as many of these.
    pub(crate) fn drawn_together(samples: &[Self], most: usize) -> Vec<Self> {
        let of_one = samples.len().div_ceil(most.max(1)).max(1);
        samples.chunks(of_one).filter_map(Self::of).collect()
    }

    /// One for several, which are not none.
    fn of(several: &[Self]) -> Option<Self> {
        let last = several.last()?;
        let most = |of: fn(&Self) -> u32| several.iter().map(of).max().unwrap_or(0);
        let sum: f32 = several.iter().map(|sample| sample.cpu_percent).sum();
        Some(Self {
            at: last.at,
            cpu_percent: sum / several.len() as f32,
            memory_kib: most(|sample| sample.memory_kib),
            cache_kib: most(|sample| sample.cache_kib),
            disk_kib: most(|sample| sample.disk_kib),
        })
    }
}

/// Of one fineness: how many samples are kept, and of how many one of the next coarser is made.
const TIERS: [(usize, usize); 3] = [(180, 12), (360, 10), (720, 1)];

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct History {
    /// The finest first; each has its oldest first, and all of them are older than those before.
    tiers: [VecDeque<Sample>; TIERS.len()],
}

impl History {
    /// Samples between two drawings together: the finest step.
    pub(crate) const STEP: std::time::Duration = std::time::Duration::from_secs(5);

    /// Samples there can be.
    const MOST: usize = 180 + 360 + 720;

    pub(crate) fn add(&mut self, sample: Sample) {
        let mut next = Some(sample);
        for (tier, (kept, drawn)) in self.tiers.iter_mut().zip(TIERS) {
            let Some(sample) = next else { return };
            tier.push_back(sample);
            next = None;
            if tier.len() > kept {
                let oldest: Vec<Sample> = tier.drain(..drawn).collect();
                next = Sample::of(&oldest);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tiers.iter().all(VecDeque::is_empty)
    }

    pub(crate) fn latest(&self) -> Option<&Sample> {
        self.tiers.iter().find_map(VecDeque::back)
    }

    /// Those of these seconds, the oldest first.
    pub(crate) fn between(&self, start: u64, end: u64) -> Vec<Sample> {
        let all = self.tiers.iter().rev().flatten();
        all.filter(|sample| (start..=end).contains(&u64::from(sample.at))).copied().collect()
    }

    /// As a file has it.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let samples: usize = self.tiers.iter().map(VecDeque::len).sum();
        let mut bytes = Vec::with_capacity(MAGIC.len() + TIERS.len() * 4 + samples * SIZE);
        bytes.extend(MAGIC);
        for tier in &self.tiers {
            bytes.extend((tier.len() as u32).to_le_bytes());
            tier.iter().for_each(|sample| bytes.extend(sample.bytes()));
        }
        bytes
    }

    /// No file is longer (bytes).
    pub(crate) const LONGEST: usize = MAGIC.len() + TIERS.len() * 4 + Self::MOST * SIZE;

    /// `None` where that is not what [`Self::bytes`] has written.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut history = Self::default();
        for (tier, (kept, _)) in history.tiers.iter_mut().zip(TIERS) {
            let (count, samples) = rest.split_first_chunk()?;
            let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
            let length = (count <= kept).then_some(count * SIZE)?;
            let (samples, after) = samples.split_at_checked(length)?;
            *tier = samples.chunks_exact(SIZE).map(Sample::read).collect::<Option<_>>()?;
            rest = after;
        }
        rest.is_empty().then_some(history)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(at: u32) -> Sample {
        let cpu_percent = (at % 100) as f32;
        Sample { at, cpu_percent, memory_kib: at, cache_kib: 1, disk_kib: 2 }
    }

    fn filled(samples: u32) -> History {
        let mut history = History::default();
        for n in 0..samples {
            history.add(sample(n * 5));
        }
        history
    }

    #[test]
    fn what_is_older_is_coarser_and_there_is_never_more_than_fits() {
        let history = filled(200_000);
        let lengths: Vec<_> = history.tiers.iter().map(VecDeque::len).collect();
        assert!(
            lengths.iter().zip(TIERS).all(|(length, (kept, _))| *length <= kept),
            "{lengths:?}"
        );
        let all = history.between(0, u64::MAX);
        assert!(all.len() > 1200 && all.is_sorted_by(|one, next| one.at < next.at));
        let span = all[all.len() - 1].at - all[0].at;
        assert!(span > 5 * 86_400, "{span}");
        assert_eq!(history.latest().unwrap().at, 199_999 * 5);
        assert!(history.bytes().len() <= History::LONGEST);
    }

    #[test]
    fn those_drawn_together_have_their_mean_of_the_cpu_and_the_most_of_all_else() {
        let drawn = Sample::of(&[
            Sample { cpu_percent: 100.0, memory_kib: 9, ..sample(5) },
            Sample { cpu_percent: 50.0, memory_kib: 3, ..sample(10) },
        ]);
        let drawn = drawn.unwrap();
        assert_eq!((drawn.at, drawn.cpu_percent, drawn.memory_kib), (10, 75.0, 9));
    }

    #[test]
    fn of_many_no_more_are_left_than_wanted_and_none_is_left_out() {
        let samples: Vec<Sample> = (1..=10).map(sample).collect();
        let drawn = Sample::drawn_together(&samples, 4);
        assert_eq!(drawn.iter().map(|sample| sample.at).collect::<Vec<_>>(), [3, 6, 9, 10]);
        assert_eq!(Sample::drawn_together(&samples, 10), samples);
        assert!(Sample::drawn_together(&[], 4).is_empty());
    }

    #[test]
    fn a_span_has_both_its_ends() {
        let history = filled(10);
        let at = |start, end| -> Vec<u32> {
            history.between(start, end).iter().map(|sample| sample.at).collect()
        };
        assert_eq!(at(10, 20), [10, 15, 20]);
        assert!(at(46, u64::MAX).is_empty() && at(20, 10).is_empty());
    }

    proptest! {
        #[test]
        fn a_history_is_read_as_it_was_written(samples in 0_u32..3000) {
            let history = filled(samples);
            let bytes = history.bytes();
            prop_assert_eq!(History::read(&bytes), Some(history));
            prop_assert!(bytes.len() == 20 || History::read(&bytes[..bytes.len() - 1]).is_none());
        }

        #[test]
        fn nothing_else_is_read_as_one(mut bytes in prop::collection::vec(any::<u8>(), 0..200), valid: bool) {
            if valid {
                bytes.splice(0..0, *MAGIC);
            }
            if let Some(history) = History::read(&bytes) {
                prop_assert_eq!(history.bytes().len(), bytes.len());
            }
        }
    }
}
