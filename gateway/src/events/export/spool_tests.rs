use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Files = BTreeMap<String, Vec<u8>>;

fn open(dir: &Path, room: u64) -> Spool {
    Spool::open(dir, room).unwrap().0
}

/// A line of that length, or a little longer, that is like no other.
fn line(n: usize, length: usize) -> Vec<u8> {
    format!("{n:06}{}", "x".repeat(length.saturating_sub(6))).into_bytes()
}

fn number(line: &[u8]) -> usize {
    str::from_utf8(&line[..6]).unwrap().parse().unwrap()
}

/// Takes and sends all there is.
fn drained(spool: &mut Spool) -> Vec<usize> {
    let mut all = Vec::new();
    loop {
        let taken = spool.take(3, 100);
        if taken.lines.is_empty() {
            assert_eq!(spool.ready(), 0);
            spool.sent(&taken).unwrap();
            assert_eq!((spool.waiting(), spool.waiting_bytes()), (0, 0));
            return all;
        }
        all.extend(taken.lines.iter().map(|line| number(line)));
        spool.sent(&taken).unwrap();
    }
}

fn files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|it| (it.file_name().into_string().unwrap(), fs::read(it.path()).unwrap()))
        .collect()
}

fn written(files: &Files) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

#[test]
fn lines_leave_in_the_order_they_came_and_stay_until_they_are_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 1 << 20);
    assert_eq!(spool.keep((0..10).map(|n| line(n, 20))).lost, 0);
    let taken = spool.take(4, 1 << 20);
    assert_eq!((taken.lines.len(), spool.ready(), spool.waiting()), (4, 6, 10));
    // Nobody said that they have arrived.
    let mut spool = open(dir.path(), 1 << 20);
    assert_eq!(spool.waiting(), 10);
    let taken = spool.take(4, 1 << 20);
    spool.sent(&taken).unwrap();
    let mut spool = open(dir.path(), 1 << 20);
    assert_eq!(spool.waiting(), 6);
    assert_eq!(drained(&mut spool), (4..10).collect::<Vec<_>>());
    spool.keep([line(10, 20)]);
    assert_eq!(drained(&mut open(dir.path(), 1 << 20)), [10]);
    let modes = ["sent", "00000000000000000001.seg"].map(|name| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777
    });
    assert_eq!(modes, [0o600; 2]);
}

#[test]
fn without_room_the_oldest_go_and_are_counted_but_not_those_under_way() {
    let dir = tempfile::tempdir().unwrap();
    // Eight segments of two lines.
    let mut spool = open(dir.path(), 8 * 60);
    assert_eq!(spool.keep((0..16).map(|n| line(n, 20))).lost, 0);
    let taken = spool.take(3, 1 << 20);
    let lost = spool.keep((16..22).map(|n| line(n, 20))).lost;
    assert_eq!((lost, spool.waiting()), (3, 16));
    spool.sent(&taken).unwrap();
    assert_eq!(drained(&mut spool), (6..22).collect::<Vec<_>>());
    assert_eq!(spool.keep([line(0, 1000)]).lost, 1, "longer than a segment");
    // Less room at the next start.
    spool.keep((22..38).map(|n| line(n, 20)));
    let (mut spool, lost) = Spool::open(dir.path(), 4 * 60).unwrap();
    let left = drained(&mut spool);
    assert_eq!((lost as usize + left.len(), left.last()), (16, Some(&37)));
}

#[test]
fn a_segment_that_somebody_removed_is_counted_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 8 * 60);
    spool.keep((0..6).map(|n| line(n, 20)));
    fs::remove_file(dir.path().join("00000000000000000002.seg")).unwrap();
    let taken = spool.take(10, 1 << 20);
    let numbers: Vec<_> = taken.lines.iter().map(|line| number(line)).collect();
    assert_eq!((numbers, taken.lost), (vec![0, 1, 4, 5], 2));
    assert!(spool.sent(&taken).is_err(), "it is gone");
    assert_eq!(spool.waiting(), 0);
}

#[test]
fn what_cannot_be_written_is_counted_and_said_and_the_next_can() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 8 * 60);
    fs::create_dir(dir.path().join("00000000000000000001.seg")).unwrap();
    let kept = spool.keep([line(0, 20)]);
    assert_eq!((kept.lost, kept.error.is_some()), (1, true));
    fs::remove_dir(dir.path().join("00000000000000000001.seg")).unwrap();
    assert_eq!(spool.keep([line(1, 20)]).lost, 0);
    assert_eq!(drained(&mut spool), [1]);
}

#[derive(Clone, Debug)]
enum Step {
    Keep(Vec<usize>),
    Take(usize, usize),
    Sent,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(6..40_usize, 0..9).prop_map(Step::Keep),
        3 => (1..9_usize, 1..200_usize).prop_map(|(most, bytes)| Step::Take(most, bytes)),
        3 => Just(Step::Sent),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// Each line is sent, or dropped and counted, or still there; in order, within the bound.
    #[test]
    fn every_line_is_accounted_for(steps in steps(), room in 400..2000_u64) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path(), room);
        let (mut next, mut lost, mut sent) = (0, 0, Vec::<usize>::new());
        let mut under_way: Option<Taken> = None;
        for step in steps {
            match step {
                Step::Keep(lengths) => {
                    let lines: Vec<_> =
                        lengths.iter().enumerate().map(|(n, it)| line(next + n, *it)).collect();
                    next += lines.len();
                    lost += spool.keep(lines).lost;
                }
                Step::Take(most, bytes) if under_way.is_none() => {
                    let taken = spool.take(most, bytes);
                    prop_assert_eq!(taken.lost, 0);
                    under_way = Some(taken);
                }
                Step::Take(..) => {}
                Step::Sent => {
                    if let Some(taken) = under_way.take() {
                        sent.extend(taken.lines.iter().map(|line| number(line)));
                        spool.sent(&taken).unwrap();
                    }
                }
                Step::Restart => {
                    // What was dropped while it was under way is counted by whoever has it.
                    if let Some(taken) = under_way.take() {
                        sent.extend(taken.lines.iter().map(|line| number(line)));
                        spool.sent(&taken).unwrap();
                    }
                    let waiting = spool.waiting();
                    spool = open(dir.path(), room);
                    prop_assert_eq!(spool.waiting(), waiting);
                }
            }
            let bytes: usize = files(dir.path()).iter().filter(|(name, _)| *name != SENT).map(|(_, it)| it.len()).sum();
            prop_assert!(bytes as u64 <= room);
        }
        if let Some(taken) = under_way.take() {
            sent.extend(taken.lines.iter().map(|line| number(line)));
            spool.sent(&taken).unwrap();
        }
        sent.extend(drained(&mut spool));
        prop_assert!(sent.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(sent.len() as u64 + lost, next as u64);
    }

    /// Killed at any byte of a write, and anywhere in that of how far it is: what was written as a
    /// whole and not sent is there, what was sent may be too, and it goes on.
    #[test]
    fn a_kill_at_any_point_loses_nothing_that_was_written(
        lengths in prop::collection::vec(6..40_usize, 1..60),
        done in 0..60_usize,
        more in 1..9_usize,
        cut in 0.0..1.0_f64,
        turned in 0..60_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path(), 8 * 500);
        let (first, second) = lengths.split_at(lengths.len() / 2);
        let lines = |range: &[usize], from: usize| -> Vec<_> {
            range.iter().enumerate().map(|(n, it)| line(from + n, *it)).collect()
        };
        prop_assert_eq!(spool.keep(lines(first, 0)).lost, 0);
        let taken = spool.take(done.min(first.len()), usize::MAX);
        let done = taken.lines.len();
        spool.sent(&taken).unwrap();
        // One that is cut: the bytes of segments in their order.
        let before = files(dir.path());
        prop_assert_eq!(spool.keep(lines(second, first.len())).lost, 0);
        let mut torn = files(dir.path());
        let grown: usize = torn.iter().map(|(name, it)| it.len() - before.get(name).map_or(0, Vec::len)).sum();
        let mut left = (grown as f64 * cut) as usize;
        let mut whole = first.len();
        for (name, bytes) in torn.iter_mut().filter(|(name, _)| *name != SENT) {
            let was = before.get(name).map_or(0, Vec::len);
            let here = (bytes.len() - was).min(left);
            bytes.truncate(was + here);
            left -= here;
            whole += bytes[was..].iter().filter(|b| **b == b'\n').count();
        }
        // And one that is not known to be sent: both lines of `sent`, mixed.
        let dir = written(&torn);
        let mut spool = open(dir.path(), 8 * 500);
        prop_assert_eq!(spool.waiting() as usize, whole - done);
        let next = spool.take(more, usize::MAX);
        spool.sent(&next).unwrap();
        let mut state = files(dir.path());
        let old = torn[SENT].clone();
        let new = state[SENT].clone();
        let turned = turned.min(new.len());
        let mixed = [&new[..turned], &old[turned.min(old.len())..]].concat();
        let known = mixed == new || mixed == old;
        state.insert(SENT.to_owned(), mixed);
        // Killed before what was sent is removed.
        for (name, bytes) in &torn {
            state.entry(name.clone()).or_insert_with(|| bytes.clone());
        }
        let dir = written(&state);
        let mut spool = open(dir.path(), 8 * 500);
        spool.keep([line(999_999, 10)]);
        let all = drained(&mut spool);
        let from = *all.first().unwrap();
        prop_assert!(from <= done + next.lines.len() || from == 999_999);
        prop_assert!(!known || from >= done);
        let wanted: Vec<_> = (from..whole).chain([999_999]).collect();
        prop_assert_eq!(all, if from == 999_999 { vec![999_999] } else { wanted });
    }

    /// Whatever lies there: it opens, makes nothing up, and what comes after is kept.
    #[test]
    fn what_is_not_ours_is_skipped(
        count in 0..20_usize,
        at in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..6),
        garbage in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path(), 8 * 200);
        spool.keep((0..count).map(|n| line(n, 20)));
        let taken = spool.take(count / 2, usize::MAX);
        spool.sent(&taken).unwrap();
        let mut state = files(dir.path());
        for (file, place, byte) in at {
            let chosen = file.index(state.len());
            let file = state.values_mut().nth(chosen).unwrap();
            if !file.is_empty() {
                let place = place.index(file.len());
                file[place] = byte;
            }
        }
        state.insert("00000000000000000000.seg".into(), garbage.clone());
        state.insert(format!("{:020}.seg", u64::MAX - 9), garbage);
        let dir = written(&state);
        let mut spool = open(dir.path(), 8 * 200);
        spool.keep([line(999_999, 10)]);
        let all = drained(&mut spool);
        prop_assert!(all.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(all.last(), Some(&999_999));
        prop_assert!(all.iter().all(|n| *n < count || *n == 999_999));
    }
}
