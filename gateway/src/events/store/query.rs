//! Looking for events: which stretches of which files may have them, and which lines there are.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use chrono::{DateTime, Utc};

use super::{
    block::{self, Block, Wanted, id_millis},
    line::Line,
    segment::Segment,
    shelf::{Seen, Shelf},
};
use crate::{
    events::{EventId, Kind},
    sandbox::{SandboxId, Tenant},
};

/// Found at once, in bytes of lines: with so many it is enough, however few they are. A line may have
/// tens of KiB, and there is one such answer for each who asks.
const MOST_BYTES: usize = 4 << 20;
/// How a line says of which sandbox it is.
const SANDBOX: &str = "\"sandboxId\":\"";

/// Which events somebody wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `None`: of whomever.
    pub tenant: Option<Tenant>,
    /// Any of these; none at all is any.
    pub sandboxes: Vec<SandboxId>,
    /// `None`: of whatever type.
    pub kinds: Option<Vec<Kind>>,
    /// When they happened, both included.
    pub from: Option<DateTime<Utc>>,
    pub until: Option<DateTime<Utc>>,
}

/// Where a look begins.
#[derive(Clone, Debug, Default)]
pub enum Start {
    #[default]
    Oldest,
    /// Behind that event.
    After(EventId),
    /// Where an earlier look has ended.
    At(Place),
}

/// Between two lines; good for as long as this gateway runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    file: u64,
    block: usize,
    /// In the block's lines (bytes).
    line: usize,
}

/// What to look for, and how much of it.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub filter: Filter,
    pub start: Start,
    /// The newest first, down to the start.
    pub descending: bool,
    /// So many are passed over.
    pub offset: usize,
    pub limit: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Page {
    /// As they stand in the file.
    pub lines: Vec<String>,
    /// There may be more behind them: of an ascending look.
    pub more: bool,
    /// Behind all that was looked at; of an ascending look.
    pub end: Place,
    /// What the look was to begin behind is no longer there, and maybe more.
    pub gap: bool,
}

/// As blocks are asked for it.
#[cfg(test)]
pub(super) fn wanted(filter: &Filter) -> Wanted {
    filter.wanted()
}

impl Filter {
    fn wanted(&self) -> Wanted {
        let names: Vec<String> = if self.sandboxes.is_empty() {
            self.tenant.iter().map(|tenant| tenant.name().to_owned()).collect()
        } else {
            self.sandboxes.iter().map(ToString::to_string).collect()
        };
        let keys = names.iter().flat_map(|name| match &self.kinds {
            None => vec![block::key(name)],
            Some(kinds) => kinds.iter().map(|kind| block::key_of_type(name, kind.name())).collect(),
        });
        let millis = |at: Option<DateTime<Utc>>| at.map(|at| at.timestamp_millis());
        Wanted {
            keys: (!names.is_empty()).then(|| keys.collect()),
            from: millis(self.from).unwrap_or(i64::MIN),
            until: millis(self.until).unwrap_or(i64::MAX),
        }
    }
}

/// A filter, made ready for many lines.
struct Sieve<'a> {
    filter: &'a Filter,
    wanted: Wanted,
    /// One of these stands in each line that is wanted; empty is no such hint.
    hints: Vec<String>,
    sandboxes: HashSet<String>,
}

impl<'a> Sieve<'a> {
    fn new(filter: &'a Filter) -> Self {
        let sandboxes: HashSet<String> = filter.sandboxes.iter().map(ToString::to_string).collect();
        let hints: Vec<String> = if sandboxes.is_empty() {
            let kinds = filter.kinds.iter().flatten();
            kinds.map(|kind| format!("\"type\":\"{}\"", kind.name())).collect()
        } else {
            sandboxes.iter().cloned().collect()
        };
        // Many of them are slower than to read the line.
        let hints = if hints.len() > 3 { Vec::new() } else { hints };
        Self { filter, wanted: filter.wanted(), hints, sandboxes }
    }

    /// Unless it says plainly that it is of another.
    fn may_be_of_them(&self, text: &str) -> bool {
        let mut said = text.match_indices(SANDBOX).map(|(at, _)| {
            let rest = &text[at + SANDBOX.len()..];
            rest.split('"').next().unwrap_or_default()
        });
        let Some(first) = said.next() else { return true };
        // What agents tell of may have that name again.
        self.sandboxes.contains(first) || said.any(|id| self.sandboxes.contains(id))
    }

    fn lets(&self, text: &str) -> bool {
        if !self.hints.is_empty() && !self.hints.iter().any(|hint| text.contains(hint.as_str())) {
            return false;
        }
        // Of many of them too: to read a whole line is much dearer.
        if self.hints.is_empty() && !self.sandboxes.is_empty() && !self.may_be_of_them(text) {
            return false;
        }
        let Some(line) = Line::read(text.as_bytes()) else { return false };
        let Filter { tenant, kinds, .. } = self.filter;
        let Wanted { from, until, .. } = self.wanted;
        let timed = from > i64::MIN || until < i64::MAX;
        tenant.as_ref().is_none_or(|tenant| tenant.name() == line.tenant)
            && (self.sandboxes.is_empty() || self.sandboxes.contains(line.sandbox))
            && kinds.as_ref().is_none_or(|all| all.iter().any(|kind| kind.name() == line.kind))
            && (!timed || line.millis().is_some_and(|at| (from..=until).contains(&at)))
    }
}

/// A look that is under way.
struct Look<'a> {
    query: &'a Query,
    sieve: Sieve<'a>,
    passed: usize,
    found: Vec<String>,
    /// Of those found.
    bytes: usize,
}

impl Look<'_> {
    /// Whether there is enough.
    fn take(&mut self, text: &str) -> bool {
        if !self.sieve.lets(text) {
            return false;
        }
        if self.passed < self.query.offset {
            self.passed += 1;
        } else {
            self.found.push(text.to_owned());
            self.bytes += text.len();
        }
        self.found.len() >= self.query.limit || self.bytes >= MOST_BYTES
    }
}

/// Looks for them, unless nobody waits any more. Blocks.
pub(super) fn find(shelf: &Shelf, query: &Query, given_up: &AtomicBool) -> Page {
    let seen = shelf.look();
    let (start, gap) = begin(&seen, &query.start, given_up);
    let sieve = Sieve::new(&query.filter);
    let mut look = Look { query, sieve, passed: 0, found: Vec::new(), bytes: 0 };
    let (mut more, mut end) = (false, end_of(&seen).max(start));
    if query.limit > 0 {
        if query.descending {
            descend(&seen, start, &mut look, given_up);
        } else if let Some(place) = ascend(&seen, start, &mut look, given_up) {
            (more, end) = (true, place);
        }
    }
    Page { lines: look.found, more, end, gap }
}

/// Whether there is any such event at all.
pub(super) fn any(shelf: &Shelf, filter: Filter, given_up: &AtomicBool) -> bool {
    let query = Query { filter, limit: 1, descending: true, ..Query::default() };
    !find(shelf, &query, given_up).lines.is_empty()
}

/// Up to the end, or to behind the last line that was wanted.
fn ascend(seen: &Seen, start: Place, look: &mut Look<'_>, given_up: &AtomicBool) -> Option<Place> {
    for (file, segment) in seen.files.range(start.file..) {
        let first = if *file == start.file { start.block } else { 0 };
        for (block, about) in segment.blocks.iter().enumerate().skip(first) {
            if given_up.load(Relaxed) {
                return None;
            }
            if !about.may_have(&look.sieve.wanted) {
                continue;
            }
            let place = Place { file: *file, block, line: 0 };
            let from =
                if place.file == start.file && block == start.block { start.line } else { 0 };
            let text = lines_of(segment, about, place);
            let mut at = from.min(text.len());
            for line in text[at..].split_inclusive('\n') {
                at += line.len();
                if look.take(line.trim_end_matches('\n')) {
                    return Some(Place { line: at, ..place });
                }
            }
        }
    }
    None
}

fn descend(seen: &Seen, start: Place, look: &mut Look<'_>, given_up: &AtomicBool) {
    for (file, segment) in seen.files.range(start.file..).rev() {
        let first = if *file == start.file { start.block } else { 0 };
        for (block, about) in segment.blocks.iter().enumerate().skip(first).rev() {
            if given_up.load(Relaxed) {
                return;
            }
            if !about.may_have(&look.sieve.wanted) {
                continue;
            }
            let text = lines_of(segment, about, Place { file: *file, block, line: 0 });
            let from = if *file == start.file && block == start.block { start.line } else { 0 };
            let lines = text[from.min(text.len())..].lines();
            if lines.rev().any(|line| look.take(line)) {
                return;
            }
        }
    }
}

/// What cannot be read is as good as not there: it is logged, and the others are.
fn lines_of(segment: &Segment, about: &Block, place: Place) -> String {
    match segment.read(about) {
        Ok(text) => String::from_utf8(text)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        Err(error) => {
            tracing::error!("events: some of file {} cannot be read: {error}", place.file);
            String::new()
        }
    }
}

/// Behind the last line there is.
fn end_of(seen: &Seen) -> Place {
    let last = seen.files.last_key_value();
    last.map_or_else(Place::default, |(file, segment)| match segment.blocks.len().checked_sub(1) {
        None => Place { file: *file, block: 0, line: 0 },
        Some(block) => Place { file: *file, block, line: segment.blocks[block].plain as usize },
    })
}

/// Where to begin, and whether something is missing there.
fn begin(seen: &Seen, start: &Start, given_up: &AtomicBool) -> (Place, bool) {
    let oldest = seen.files.first_key_value().map_or(0, |(file, _)| *file);
    match start {
        Start::Oldest => (Place::default(), false),
        Start::At(place) => ((*place), place.file < oldest && *place != Place::default()),
        Start::After(id) => behind(seen, *id, given_up),
    }
}

/// Behind an event; where it is not there, before the first one that is younger by its id.
fn behind(seen: &Seen, id: EventId, given_up: &AtomicBool) -> (Place, bool) {
    let text = id.to_string();
    let millis = id_millis(&text).unwrap_or_default();
    let mut younger = None;
    for (file, segment) in &seen.files {
        for (block, about) in segment.blocks.iter().enumerate() {
            if given_up.load(Relaxed) {
                return (Place::default(), seen.forgot);
            }
            if about.span.high < millis || about.span.low > about.span.high {
                continue;
            }
            let place = Place { file: *file, block, line: 0 };
            if about.span.low > millis {
                younger.get_or_insert(place);
                continue;
            }
            let lines = lines_of(segment, about, place);
            let mut at = 0;
            for line in lines.split_inclusive('\n') {
                let begun = at;
                at += line.len();
                let found = Line::read(line.as_bytes()).map(|line| line.id.to_owned());
                let Some(found) = found else { continue };
                if found == text {
                    return (Place { line: at, ..place }, false);
                }
                if younger.is_none() && id_millis(&found).is_some_and(|found| found > millis) {
                    younger = Some(Place { line: begun, ..place });
                }
            }
        }
    }
    (younger.unwrap_or_else(|| end_of(seen)), seen.forgot)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn shelf(lines: &[String]) -> Shelf {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        fs::write(&path, lines.concat()).unwrap();
        let shelf = Shelf::default();
        shelf.put(1, Segment::of_lines(File::open(path).unwrap()).unwrap());
        shelf
    }

    fn line(n: u64, data: &str) -> String {
        let front =
            format!("{{\"timestamp\":\"2026-01-01T00:00:00.000Z\",\"id\":\"00000000-{n:04x}\"");
        format!(
            "{front},\"sandboxId\":\"{n:032x}\",\"type\":\"x\",\"data\":{data},\
             \"tenant\":\"acme\",\"template\":\"base\"}}\n"
        )
    }

    #[test]
    fn an_answer_is_bounded_in_bytes_and_the_next_goes_on_behind_it() {
        let long = format!("\"{}\"", "a".repeat(1 << 20));
        let shelf = shelf(&(0..10).map(|n| line(n, &long)).collect::<Vec<_>>());
        let (mut start, mut pages) = (Start::Oldest, Vec::new());
        loop {
            let query = Query { start, limit: usize::MAX, ..Query::default() };
            let page = find(&shelf, &query, &AtomicBool::new(false));
            pages.push((page.lines.len(), page.more));
            start = Start::At(page.end);
            if !page.more {
                break;
            }
        }
        assert_eq!(pages, [(4, true), (4, true), (2, false)]);
    }

    #[test]
    fn many_sandboxes_are_asked_for_at_once() {
        let named = "{\"sandboxId\":\"no\"}";
        let shelf = shelf(&(0..100).map(|n| line(n, named)).collect::<Vec<_>>());
        let sandboxes = (0..50).map(|n| format!("{:032x}", n * 2).parse().unwrap()).collect();
        let filter = Filter { sandboxes, ..Filter::default() };
        let query = Query { filter, limit: usize::MAX, ..Query::default() };
        assert_eq!(find(&shelf, &query, &AtomicBool::new(false)).lines.len(), 50);
        let none = find(&shelf, &query, &AtomicBool::new(true));
        assert!(none.lines.is_empty());
    }
}
