//! `Range: bytes=…`, one range at a time.

use std::ops::Range;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Bytes(Range<u64>),
    /// The range lies beyond the end.
    Unsatisfiable,
}

/// Several ranges, other units and what cannot be read give the whole, as HTTP allows.
pub(super) fn part(header: Option<&str>, length: u64) -> Part {
    parse(header, length).unwrap_or(Part::Whole)
}

fn parse(header: Option<&str>, length: u64) -> Option<Part> {
    let (first, last) = header?.trim().strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More digits than fit are beyond any file.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        let suffix: u64 = number(last)?;
        return Some(match suffix.min(length) {
            0 => Part::Unsatisfiable,
            suffix => Part::Bytes(length - suffix..length),
        });
    }
    let start = number(first)?;
    let end = match last {
        "" => length,
        last => match number(last)? {
            last if last < start => return None,
            last => length.min(last.saturating_add(1)),
        },
    };
    Some(if start < end { Part::Bytes(start..end) } else { Part::Unsatisfiable })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn single_ranges_are_cut_to_the_file() {
        for (header, expect) in [
            ("bytes=0-0", Part::Bytes(0..1)),
            ("bytes=2-5", Part::Bytes(2..6)),
            ("bytes=2-", Part::Bytes(2..10)),
            ("bytes=2-99999999999999999999", Part::Bytes(2..10)),
            ("bytes=-3", Part::Bytes(7..10)),
            ("bytes=-30", Part::Bytes(0..10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=99999999999999999999-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=5-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=-", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("lines=0-1", Part::Whole),
            ("", Part::Whole),
        ] {
            assert_eq!(part(Some(header), 10), expect, "{header}");
        }
        assert_eq!(part(Some("bytes=0-"), 0), Part::Unsatisfiable);
        assert_eq!(part(None, 10), Part::Whole);
    }

    proptest! {
        #[test]
        fn a_range_is_cut_as_slices_are(length in 1..10_000_u64, start: u64, count in 1..10_000_u64) {
            let start = start % length;
            let header = format!("bytes={start}-{}", start + count - 1);
            let expect = Part::Bytes(start..length.min(start + count));
            prop_assert_eq!(part(Some(&header), length), expect);
        }

        #[test]
        fn no_range_leaves_the_file(header in "bytes=[0-9-]{0,24}", length: u64) {
            if let Part::Bytes(bytes) = part(Some(&header), length) {
                prop_assert!(bytes.start < bytes.end && bytes.end <= length);
            }
        }
    }
}
