use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{Read, Write},
};

use chrono::Utc;
use flate2::read::MultiGzDecoder;
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{roll::LOST, *};
use crate::{
    events::{Event, EventId, Kind, New, What},
    sandbox::{SandboxId, Tenant},
};

const LONG: Duration = Duration::from_secs(20);

struct Bed {
    dir: TempDir,
    settings: Settings,
    events: Events,
}

fn bed(size: u64, files: usize) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { size, files, ..Settings::of(dir.path()) };
    Bed { dir, settings, events: Events::default() }
}

impl Bed {
    fn open(&self) -> History {
        History::open(&self.settings, &self.events, CancellationToken::new()).unwrap()
    }

    /// Ends one, so that another can be opened.
    async fn close(&self, history: History) {
        history.settle(LONG).await;
        drop(history);
        let lock = Names(self.settings.dir.clone()).lock();
        let began = Instant::now();
        while fs::File::open(&lock).unwrap().try_lock().is_err() {
            assert!(began.elapsed() < LONG, "the writer does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.settings.dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn current(&self) -> PathBuf {
        self.settings.dir.join("events.jsonl")
    }
}

fn sandbox(n: u64) -> SandboxId {
    format!("{n:032x}").parse().unwrap()
}

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn path(n: u64) -> What {
    What::FileCreated { path: format!("/{n}"), size_bytes: n }
}

fn emit(events: &Events, of: u64, what: What) -> EventId {
    let name = if of < 100 { "acme" } else { "other" };
    events.emit(New::of(sandbox(of), tenant(name), "base", what))
}

/// What the paths of those that were found count.
fn numbers(lines: &[String]) -> Vec<u64> {
    let read = |line: &String| {
        let event: Event = serde_json::from_str(line).unwrap();
        match event.what {
            What::FileCreated { size_bytes, .. } => size_bytes,
            other => panic!("{other:?}"),
        }
    };
    lines.iter().map(read).collect()
}

fn all() -> Query {
    Query { limit: usize::MAX, ..Query::default() }
}

fn of(filter: Filter) -> Query {
    Query { filter, ..all() }
}

async fn eventually(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < LONG, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_was_told_is_found_at_once_by_all_it_can_be_asked_by() {
    let bed = bed(Settings::SIZE, 10);
    let history = bed.open();
    let before = Utc::now();
    for n in 0..300 {
        emit(&bed.events, n % 3, path(n));
        emit(&bed.events, 100, path(1000 + n));
    }
    emit(&bed.events, 1, What::FileDeleted { path: "/".into() });
    let found = history.find(all()).await.lines;
    assert_eq!(found.len(), 601);
    let created = || Some(vec![Kind::FileCreated]);
    let acme = || Filter { tenant: Some(tenant("acme")), kinds: created(), ..Filter::default() };
    let lines = history.find(of(acme())).await.lines;
    assert_eq!(numbers(&lines), (0..300).collect::<Vec<_>>());

    let of_one = || Filter { sandboxes: vec![sandbox(1)], ..acme() };
    let page = Query { offset: 10, limit: 5, ..of(of_one()) };
    let lines = history.find(page.clone()).await.lines;
    assert_eq!(numbers(&lines), [31, 34, 37, 40, 43]);
    let newest = history.find(Query { descending: true, ..page }).await.lines;
    assert_eq!(numbers(&newest), [268, 265, 262, 259, 256]);
    // Of another tenant it is not there.
    let foreign = Filter { sandboxes: vec![sandbox(100)], ..acme() };
    assert!(history.find(of(foreign.clone())).await.lines.is_empty());
    assert!(!history.any(foreign).await && history.any(of_one()).await);

    let deleted = Filter { kinds: Some(vec![Kind::FileDeleted]), ..Filter::default() };
    assert_eq!(history.find(of(deleted)).await.lines.len(), 1);
    let none = Filter { kinds: Some(Vec::new()), ..Filter::default() };
    assert!(history.find(of(none)).await.lines.is_empty());
    let early = Filter { until: Some(before - Duration::from_secs(1)), ..Filter::default() };
    assert!(history.find(of(early)).await.lines.is_empty());
    let late = Filter { from: Some(before - Duration::from_secs(1)), ..Filter::default() };
    assert_eq!(history.find(of(late)).await.lines.len(), 601);
}

#[tokio::test]
async fn a_look_goes_on_behind_an_event_or_where_another_ended() {
    let bed = bed(3000, 100);
    let history = bed.open();
    let ids: Vec<_> = (0..100).map(|n| emit(&bed.events, 1, path(n))).collect();
    for at in [0, 7, 50, 98, 99] {
        let query = Query { start: Start::After(ids[at]), ..all() };
        let page = history.find(query.clone()).await;
        let rest: Vec<_> = (at as u64 + 1..100).collect();
        assert_eq!((numbers(&page.lines), page.gap), (rest.clone(), false));
        let down = history.find(Query { descending: true, ..query }).await.lines;
        assert_eq!(numbers(&down), rest.into_iter().rev().collect::<Vec<_>>());
    }
    let (mut start, mut seen) = (Start::Oldest, Vec::new());
    loop {
        let page = history.find(Query { start, limit: 7, ..all() }).await;
        seen.extend(numbers(&page.lines));
        start = Start::At(page.end);
        if page.lines.is_empty() {
            break;
        }
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    emit(&bed.events, 1, path(100));
    assert_eq!(numbers(&history.find(Query { start, ..all() }).await.lines), [100]);
}

#[tokio::test]
async fn files_are_put_aside_compressed_and_the_oldest_deleted_and_all_are_read() {
    let bed = bed(10_000, 4);
    let history = bed.open();
    for n in 0..1000 {
        emit(&bed.events, 1, path(n));
        if n % 10 == 0 {
            history.settle(LONG).await;
        }
    }
    let zipped = |bed: &Bed| {
        let names = bed.names();
        let of = |end: &str| names.iter().filter(|name| name.ends_with(end)).count();
        (of(".jsonl.gz"), of(".index"), of(".jsonl"), of(".new")) == (3, 3, 1, 0)
    };
    eventually("compressed", || zipped(&bed)).await;
    let lines = history.find(all()).await.lines;
    let found = numbers(&lines);
    assert!(found.len() < 250, "{}", found.len());
    assert_eq!(found, (found[0]..1000).collect::<Vec<_>>());
    // Anybody reads them.
    let mut text = String::new();
    for name in bed.names().iter().filter(|name| name.ends_with(".gz")) {
        let file = fs::File::open(bed.settings.dir.join(name)).unwrap();
        let before = text.len();
        MultiGzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert!(text.len() - before <= 10_000 && text.ends_with('\n'));
    }
    text += &fs::read_to_string(bed.current()).unwrap();
    assert!(text.lines().eq(lines.iter()));
    // So does the next gateway, with its indexes and without.
    bed.close(history).await;
    for without in [false, true] {
        if without {
            for name in bed.names().iter().filter(|name| name.ends_with(".index")) {
                fs::write(bed.settings.dir.join(name), "none").unwrap();
            }
        }
        let history = bed.open();
        assert_eq!(numbers(&history.find(all()).await.lines), found);
        let gone = EventId::derived(sandbox(1), "2026-01-01T00:00:00Z".parse().unwrap(), 1);
        let page = history.find(Query { start: Start::After(gone), ..all() }).await;
        assert!(page.gap && page.lines.len() == found.len());
        bed.close(history).await;
    }
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(bed.current()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_torn_line_is_cut_off_and_said_and_a_whole_one_is_ended() {
    let bed = bed(Settings::SIZE, 10);
    let history = bed.open();
    (0..5).for_each(|n| drop(emit(&bed.events, 1, path(n)).to_string()));
    bed.close(history).await;
    let whole = fs::read(bed.current()).unwrap();
    for torn in [1, 40, 200] {
        fs::write(bed.current(), &whole[..whole.len() - torn]).unwrap();
        let history = bed.open();
        emit(&bed.events, 1, path(9));
        let found = numbers(&history.find(all()).await.lines);
        // All of one was there but its end.
        let expected: &[u64] = if torn == 1 { &[0, 1, 2, 3, 4, 9] } else { &[0, 1, 2, 3, 9] };
        assert_eq!(found, expected, "{torn}");
        bed.close(history).await;
        let text = fs::read_to_string(bed.current()).unwrap();
        let values: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let lost: Vec<_> = values.iter().filter(|line| line["type"] == LOST).collect();
        assert_eq!(lost.len(), usize::from(torn != 1), "{text}");
        assert!(lost.iter().all(|line| line["data"]["count"] == 1));
    }
}

#[tokio::test]
async fn what_came_too_fast_is_counted_where_it_is_missing() {
    let bed = bed(Settings::SIZE, 10);
    let shelf = Arc::new(Shelf::default());
    let (roll, _) = Roll::open(&bed.settings.dir, bed.settings.size, &shelf).unwrap();
    let from = bed.events.subscribe("store", Types::all(), Room { events: 3, bytes: 1 << 20 });
    let (aside, _put_aside) = threads::channel();
    let mut writer =
        Writer { roll, from, aside, failing: Arc::default(), closing: CancellationToken::new() };
    (0..10).for_each(|n| drop(emit(&bed.events, 1, path(n)).to_string()));
    writer.write_rest().await;
    let text = fs::read_to_string(bed.current()).unwrap();
    let (lost, rest) = text.split_once('\n').unwrap();
    let lost: Value = serde_json::from_str(lost).unwrap();
    assert_eq!((&lost["type"], &lost["data"]["count"]), (&LOST.into(), &7.into()));
    assert_eq!(numbers(&rest.lines().map(str::to_owned).collect::<Vec<_>>()), [7, 8, 9]);
}

#[tokio::test]
async fn what_cannot_be_written_is_written_once_it_can_and_once() {
    let bed = bed(700, 10);
    let history = bed.open();
    (0..2).for_each(|n| drop(emit(&bed.events, 1, path(n)).to_string()));
    history.settle(LONG).await;
    // Nothing can be put aside.
    let aside = bed.settings.dir.join("events.00000001.jsonl");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("x"), "").unwrap();
    (2..6).for_each(|n| drop(emit(&bed.events, 1, path(n)).to_string()));
    history.settle(Duration::from_millis(300)).await;
    fs::remove_dir_all(&aside).unwrap();
    history.settle(LONG).await;
    assert_eq!(numbers(&history.find(all()).await.lines), [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn two_gateways_do_not_write_to_one_directory() {
    let bed = bed(Settings::SIZE, 10);
    let history = bed.open();
    let again = History::open(&bed.settings, &bed.events, CancellationToken::new());
    assert!(again.err().unwrap().to_string().contains("another gateway"));
    bed.close(history).await;
    bed.open();
}

/// A few stretches are read, however much there is.
#[test]
fn a_look_for_one_reads_what_may_have_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = Arc::new(Shelf::default());
    let (mut roll, _) = Roll::open(dir.path(), Settings::SIZE, &shelf).unwrap();
    roll.look_through().unwrap();
    let events = Events::default();
    let mut from = events.subscribe("test", Types::all(), Room { events: 1 << 20, bytes: 1 << 30 });
    for n in 0..30_000 {
        emit(&events, 1000 + n / 100, path(n));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let batch = runtime.block_on(from.batch(30_000, LONG));
    batch.events.iter().for_each(|event| roll.add(event));
    roll.write(|_| ()).unwrap();
    let blocks: Vec<_> = shelf.look().files.into_values().flat_map(|file| file.blocks).collect();
    assert!(blocks.len() > 20, "{}", blocks.len());
    let having = |kinds: Option<Vec<Kind>>, of: u64| {
        let filter = Filter { sandboxes: vec![sandbox(of)], kinds, ..Filter::default() };
        let given_up = AtomicBool::new(false);
        let query = Query { filter, limit: 1000, ..Query::default() };
        let wanted = query::wanted(&query.filter);
        let read = blocks.iter().filter(|block| block.may_have(&wanted)).count();
        (read, query::find(&shelf, &query, &given_up).lines.len())
    };
    let (mut read, mut needed) = (0, 0);
    for of in 1000..1300 {
        let (blocks, lines) = having(None, of);
        assert_eq!(lines, 100);
        (read, needed) = (read + blocks, needed + 1);
    }
    // Some lie across the border of two.
    assert!(read < needed * 3 / 2, "{read} {needed}");
    assert_eq!(having(Some(vec![Kind::CostTotal]), 1000), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_reads_while_it_is_written_sees_all_up_to_some_point() {
    let bed = bed(50_000, 1000);
    let history = bed.open();
    let writes = tokio::task::spawn_blocking({
        let events = bed.events.clone();
        move || {
            for n in 0..6000 {
                emit(&events, 1, path(n));
                if n % 50 == 0 {
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
    });
    let mut before = 0;
    while !writes.is_finished() {
        let found = numbers(&history.find(all()).await.lines);
        assert!(found.len() >= before);
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>());
        before = found.len();
        let newest = Query { descending: true, limit: 3, ..all() };
        let newest = numbers(&history.find(newest).await.lines);
        assert!(newest.windows(2).all(|pair| pair[0] == pair[1] + 1), "{newest:?}");
    }
    assert_eq!(history.find(all()).await.lines.len(), 6000);
}

async fn next(watch: &mut Watch) -> Option<Sight> {
    tokio::time::timeout(LONG, watch.next()).await.expect("nothing comes")
}

async fn seen(watch: &mut Watch, until: u64) -> Vec<u64> {
    let mut all = Vec::new();
    while all.last() != Some(&until) {
        match next(watch).await {
            Some(Sight::Event(line)) => all.extend(numbers(&[line])),
            other => panic!("{other:?} after {all:?}"),
        }
    }
    all
}

fn of_acme() -> Filter {
    let kinds = Some(vec![Kind::FileCreated]);
    Filter { tenant: Some(tenant("acme")), kinds, ..Filter::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_watches_misses_nothing_and_sees_nothing_twice_however_slow_they_are() {
    let bed = bed(100_000, 1000);
    let history = bed.open();
    let first = emit(&bed.events, 1, path(0));
    let writes = tokio::task::spawn_blocking({
        let events = bed.events.clone();
        move || {
            for n in 1..5000 {
                emit(&events, n % 7, path(n));
                emit(&events, 100 + n % 3, path(n));
                if n % 20 == 0 {
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
    });
    let watchers = (0..6).map(|n| {
        let history = history.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(n * 40)).await;
            let start = if n % 2 == 0 { Start::Oldest } else { Start::After(first) };
            let mut watch = history.watch(of_acme(), Some(start)).unwrap();
            let mut all = Vec::new();
            while all.last() != Some(&4999) {
                if all.len() == 1000 {
                    // Many more than wait for anybody come meanwhile.
                    tokio::time::sleep(Duration::from_millis(n * 60)).await;
                }
                match next(&mut watch).await {
                    Some(Sight::Event(line)) => all.extend(numbers(&[line])),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(all, (n % 2..5000).collect::<Vec<_>>());
        })
    });
    for watcher in watchers.collect::<Vec<_>>() {
        watcher.await.unwrap();
    }
    writes.await.unwrap();
}

#[tokio::test]
async fn who_watches_from_now_on_sees_what_comes_and_is_told_of_the_end() {
    let bed = bed(Settings::SIZE, 10);
    let stop = CancellationToken::new();
    let history = History::open(&bed.settings, &bed.events, stop.clone()).unwrap();
    emit(&bed.events, 1, path(0));
    let mut watch = history.watch(of_acme(), None).unwrap();
    let of_two = Filter { sandboxes: vec![sandbox(2)], ..of_acme() };
    let mut narrow = history.watch(of_two, None).unwrap();
    (1..4).for_each(|n| drop(emit(&bed.events, n, path(n)).to_string()));
    assert_eq!(seen(&mut watch, 3).await, [1, 2, 3]);
    assert_eq!(seen(&mut narrow, 2).await, [2]);
    stop.cancel();
    assert_eq!(next(&mut watch).await, None);
    assert_eq!(next(&mut narrow).await, None);
}

#[tokio::test(start_paused = true)]
async fn who_watches_hears_that_nothing_happens() {
    let bed = bed(Settings::SIZE, 10);
    let mut watch = bed.open().watch(of_acme(), None).unwrap();
    assert_eq!(watch.next().await, Some(Sight::Quiet));
}

#[tokio::test]
async fn who_left_off_where_nothing_is_any_more_is_told_so_and_watchers_are_bounded() {
    let bed = bed(1000, 2);
    let history = bed.open();
    let first = emit(&bed.events, 1, path(0));
    // Each in a write of its own, so that they are in many files.
    for n in 1..50 {
        emit(&bed.events, 1, path(n));
        history.settle(LONG).await;
    }
    eventually("deleted", || bed.names().len() <= 4).await;
    let mut watch = history.watch(of_acme(), Some(Start::After(first))).unwrap();
    assert_eq!(next(&mut watch).await, Some(Sight::Lost));
    let rest = seen(&mut watch, 49).await;
    assert!(rest.len() < 20 && rest[0] > 1, "{rest:?}");
    let own: Vec<_> = std::iter::from_fn(|| history.watch(of_acme(), None)).collect();
    assert_eq!(own.len(), WATCHERS_OF_ONE - 1);
    let others: Vec<_> = std::iter::from_fn(|| history.watch(Filter::default(), None)).collect();
    assert_eq!(others.len(), WATCHERS - WATCHERS_OF_ONE);
}

/// What a gateway that is killed, or a host that goes down, may leave behind.
#[derive(Clone, Copy, Debug)]
enum Crash {
    /// So many bytes of the last line and those before are gone.
    Torn(usize),
    /// While a new file was about to take the old one's place.
    BeforeNew,
    WithoutCurrent,
    /// While one was compressed,
    HalfZipped,
    /// or just after: the lines are there twice.
    BothForms,
    NoIndex,
    BrokenIndex,
    None,
}

fn crash() -> impl Strategy<Value = Crash> {
    prop_oneof![
        (1..600_usize).prop_map(Crash::Torn),
        Just(Crash::BeforeNew),
        Just(Crash::WithoutCurrent),
        Just(Crash::HalfZipped),
        Just(Crash::BothForms),
        Just(Crash::NoIndex),
        Just(Crash::BrokenIndex),
        Just(Crash::None),
    ]
}

/// Returns how many events are gone by that.
fn strike(dir: &Path, crash: Crash) -> usize {
    let names = Names(dir.to_owned());
    let aside = names.look().unwrap();
    let zipped = aside.iter().find(|(_, aside)| aside.zipped).map(|(number, _)| *number);
    match (crash, zipped) {
        (Crash::Torn(bytes), _) => {
            let text = fs::read(names.current()).unwrap();
            let left = text.len().saturating_sub(bytes);
            fs::write(names.current(), &text[..left]).unwrap();
            let count = |text: &[u8]| {
                let lines = text.split_inclusive(|byte| *byte == b'\n');
                lines.filter(|line| Line::read(line).is_some()).count()
            };
            return count(&text) - count(&text[..left]);
        }
        (Crash::BeforeNew, _) => {
            fs::write(Names::unfinished(&names.current()), "").unwrap();
        }
        (Crash::WithoutCurrent, _) => {
            let next = aside.last_key_value().map_or(1, |(last, _)| last + 1);
            fs::rename(names.current(), names.plain(next)).unwrap();
            fs::write(Names::unfinished(&names.current()), "").unwrap();
        }
        (Crash::HalfZipped, Some(number)) => {
            let text = fs::read(names.zipped(number)).unwrap();
            let mut plain = Vec::new();
            MultiGzDecoder::new(text.as_slice()).read_to_end(&mut plain).unwrap();
            fs::write(names.plain(number), plain).unwrap();
            fs::write(Names::unfinished(&names.zipped(number)), &text[..text.len() / 2]).unwrap();
            fs::remove_file(names.zipped(number)).unwrap();
        }
        (Crash::BothForms, Some(number)) => {
            let text = fs::read(names.zipped(number)).unwrap();
            let mut plain = Vec::new();
            MultiGzDecoder::new(text.as_slice()).read_to_end(&mut plain).unwrap();
            fs::write(names.plain(number), plain).unwrap();
        }
        (Crash::NoIndex, Some(number)) => fs::remove_file(names.index(number)).unwrap(),
        (Crash::BrokenIndex, Some(number)) => {
            let mut file = OpenOptions::new().append(true).open(names.index(number)).unwrap();
            file.write_all(b"x").unwrap();
        }
        _ => {}
    }
    0
}

#[tokio::test]
async fn a_file_of_no_lines_is_removed_rather_than_compressed() {
    let bed = bed(Settings::SIZE, 10);
    bed.close(bed.open()).await;
    strike(&bed.settings.dir, Crash::WithoutCurrent);
    let history = bed.open();
    let id = emit(&bed.events, 1, path(1));
    assert_eq!(numbers(&history.find(all()).await.lines), [1]);
    bed.close(history).await;
    assert_eq!(bed.names(), ["events.jsonl", "lock"].map(str::to_owned).into());
    let page = bed.open().find(Query { start: Start::After(id), ..all() }).await;
    assert!(page.lines.is_empty() && !page.gap);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_the_moment_of_a_crash_no_whole_line_is_lost_and_none_is_there_twice(
        runs in prop::collection::vec((0..60_usize, 1..12_usize, crash()), 1..6),
        size in 300..5000_u64,
    ) {
        let bed = bed(size, 10_000);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut expected: Vec<u64> = Vec::new();
        let mut next = 0;
        for (count, step, crash) in runs {
            runtime.block_on(async {
                let history = bed.open();
                for n in 0..count {
                    emit(&bed.events, 1, path(next));
                    expected.push(next);
                    next += 1;
                    if n % step == 0 {
                        history.settle(LONG).await;
                    }
                }
                let found = history.find(all()).await.lines;
                assert_eq!(numbers(&found), expected);
                bed.close(history).await;
            });
            let gone = strike(&bed.settings.dir, crash);
            expected.truncate(expected.len() - gone);
        }
        let found = runtime.block_on(async {
            let history = bed.open();
            let found = history.find(all()).await.lines;
            // It may be compressing until then.
            bed.close(history).await;
            found
        });
        prop_assert_eq!(numbers(&found), expected);
        prop_assert!(bed.names().iter().all(|name| !name.ends_with(".new")));
        drop(bed.dir);
    }
}
