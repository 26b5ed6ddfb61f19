//! Lines on their way to the files: bounded, and so that no tenant has another's lost.
//!
//! Of a queue that is full it is the tenant with most lines in it that loses one. What costs whoever
//! asks little can be asked for thousands of times a second: so of those that are alike the first of
//! a second has a line of its own, and the others are one line, with their number. What was refused
//! is alike by key, route and status; what was done, by what it was done to as well. What has made
//! something is like nothing else.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::Entry;
use crate::sandbox::Tenant;

/// How long those that are alike are one line.
const FOLDED: Duration = Duration::from_secs(1);
/// The first status of refusals.
const REFUSED: u16 = 400;
/// Kinds of one tenant at once. Beyond them what was done has a line each time, and what was refused
/// is lost.
const KINDS: usize = 1024;

/// What is to be written.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) entries: Vec<Entry>,
    /// So many before them never will be.
    pub(super) lost: HashMap<Tenant, u64>,
    /// To be told when they are written.
    pub(super) settling: Vec<oneshot::Sender<()>>,
}

pub(super) struct Queue {
    lines: Mutex<Lines>,
    stirred: Condvar,
    /// Lines that may wait.
    most: usize,
}

#[derive(Default)]
struct Lines {
    /// In the order they came.
    waiting: VecDeque<Entry>,
    /// What is whose of them.
    of: HashMap<Tenant, Share>,
    folds: HashMap<Kind, Fold>,
    untold: HashMap<Tenant, u64>,
    settling: Vec<oneshot::Sender<()>>,
    closed: bool,
}

#[derive(Default)]
struct Share {
    lines: usize,
    folds: usize,
}

/// Of requests that are alike.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    tenant: Tenant,
    key: Option<String>,
    method: &'static str,
    route: String,
    object: Option<String>,
    status: u16,
}

struct Fold {
    until: Instant,
    /// Of all after the first.
    rest: Option<Entry>,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        Self { lines: Mutex::default(), stirred: Condvar::new(), most }
    }

    /// Returns how many are lost for it.
    pub(super) fn put(&self, entry: Entry, now: Instant) -> u64 {
        let mut lines = self.lines.lock();
        let lost = lines.put(entry, now, self.most);
        let count = lost.as_ref().map_or(0, |lost| lost.times);
        if let Some(lost) = lost {
            *lines.untold.entry(lost.tenant).or_default() += count;
        }
        drop(lines);
        self.stirred.notify_one();
        count
    }

    pub(super) fn settle(&self, told: oneshot::Sender<()>) {
        self.lines.lock().settling.push(told);
        self.stirred.notify_one();
    }

    /// Nothing comes any more.
    pub(super) fn close(&self) {
        self.lines.lock().closed = true;
        self.stirred.notify_one();
    }

    /// Waits for something to write, `at_once` lines at most; `None` when all is written and nothing
    /// comes any more.
    pub(super) fn take(&self, at_once: usize) -> Option<Batch> {
        let mut lines = self.lines.lock();
        loop {
            let now = Instant::now();
            let ends = lines.closed || !lines.settling.is_empty();
            lines.unfold(|fold| ends || fold.until <= now);
            let batch = lines.take(at_once);
            if !batch.entries.is_empty() || !batch.lost.is_empty() || !batch.settling.is_empty() {
                return Some(batch);
            }
            if lines.closed {
                return None;
            }
            match lines.folds.values().map(|fold| fold.until).min() {
                Some(until) => {
                    self.stirred.wait_until(&mut lines, until);
                }
                None => self.stirred.wait(&mut lines),
            }
        }
    }
}

impl Lines {
    /// Returns what is lost for it.
    fn put(&mut self, entry: Entry, now: Instant, most: usize) -> Option<Entry> {
        if let Some(kind) = Kind::of(&entry) {
            if let Some(fold) = self.folds.get_mut(&kind) {
                match &mut fold.rest {
                    Some(rest) => rest.times += entry.times,
                    rest => *rest = Some(Entry { object: kind.object, ..entry }),
                }
                return None;
            }
            let share = self.of.entry(entry.tenant.clone()).or_default();
            if share.folds < KINDS {
                share.folds += 1;
                self.folds.insert(kind, Fold { until: now + FOLDED, rest: None });
            } else if entry.status >= REFUSED {
                return Some(entry);
            }
        }
        self.push(entry);
        if self.waiting.len() > most { self.lose_one() } else { None }
    }

    fn push(&mut self, entry: Entry) {
        self.of.entry(entry.tenant.clone()).or_default().lines += 1;
        self.waiting.push_back(entry);
    }

    /// The last of whoever has most.
    fn lose_one(&mut self) -> Option<Entry> {
        let (most, _) = self.of.iter().max_by_key(|(_, share)| share.lines)?;
        let last = self.waiting.iter().rposition(|entry| entry.tenant == *most)?;
        let lost = self.waiting.remove(last)?;
        self.count_out(&lost.tenant, |share| share.lines -= 1);
        Some(lost)
    }

    /// Lines of those that are over; they have no bound but that of `folds`.
    fn unfold(&mut self, is_over: impl Fn(&Fold) -> bool) {
        let over: Vec<_> = self.folds.extract_if(|_, fold| is_over(fold)).collect();
        for (kind, fold) in over {
            self.count_out(&kind.tenant, |share| share.folds -= 1);
            if let Some(rest) = fold.rest {
                self.push(rest);
            }
        }
    }

    fn take(&mut self, at_once: usize) -> Batch {
        let count = self.waiting.len().min(at_once);
        let entries: Vec<Entry> = self.waiting.drain(..count).collect();
        for entry in &entries {
            self.count_out(&entry.tenant, |share| share.lines -= 1);
        }
        // Whoever waits does so for all before.
        let all = self.waiting.is_empty();
        let settling = if all { std::mem::take(&mut self.settling) } else { Vec::new() };
        Batch { entries, lost: std::mem::take(&mut self.untold), settling }
    }

    fn count_out(&mut self, tenant: &Tenant, by: impl FnOnce(&mut Share)) {
        if let Some(share) = self.of.get_mut(tenant) {
            by(share);
            if (share.lines, share.folds) == (0, 0) {
                self.of.remove(tenant);
            }
        }
    }
}

impl Kind {
    /// `None` for what is like nothing else.
    fn of(entry: &Entry) -> Option<Self> {
        entry.made.is_empty().then(|| Self {
            tenant: entry.tenant.clone(),
            key: entry.key.clone(),
            method: entry.method,
            route: entry.route.clone(),
            // What is not there could be called anything.
            object: entry.object.clone().filter(|_| entry.status < REFUSED),
            status: entry.status,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::entry, *};

    /// Done to something of that name.
    fn of(tenant: &str, status: u16, object: usize) -> Entry {
        let (tenant, object) = (tenant.parse().unwrap(), Some(format!("{object}")));
        Entry { tenant, object, made: Vec::new(), ..entry(status) }
    }

    /// Whose lines there are, with their status and number.
    fn told(batch: &Batch) -> Vec<(&str, u16, u64)> {
        batch.entries.iter().map(|it| (it.tenant.name(), it.status, it.times)).collect()
    }

    fn lost(batch: &Batch, tenant: &str) -> u64 {
        batch.lost.get(&tenant.parse().unwrap()).copied().unwrap_or(0)
    }

    #[test]
    fn a_queue_that_is_full_loses_lines_of_whoever_has_most() {
        let (queue, now) = (Queue::new(4), Instant::now());
        let count: u64 = (0..10).map(|n| queue.put(of("loud", 200, n), now)).sum();
        assert_eq!(count, 6);
        assert_eq!(queue.put(of("quiet", 201, 0), now), 1);
        assert_eq!(queue.put(of("loud", 202, 0), now), 1);
        let batch = queue.take(100).unwrap();
        let loud = ("loud", 200, 1);
        assert_eq!(told(&batch), [loud, loud, loud, ("quiet", 201, 1)]);
        assert_eq!((lost(&batch, "loud"), lost(&batch, "quiet")), (8, 0));
    }

    #[test]
    fn those_that_are_alike_are_one_line_a_second_with_their_number() {
        let (queue, now) = (Queue::new(8), Instant::now());
        for n in 0..1000 {
            for one in [of("loud", 404, n), of("loud", 429, n), of("other", 404, n)] {
                assert_eq!(queue.put(one, now), 0);
            }
            assert_eq!(queue.put(of("loud", 204, n % 2), now), 0);
        }
        let firsts = queue.take(100).unwrap();
        let first = [404, 429].map(|status| ("loud", status, 1));
        let done = ("loud", 204, 1);
        assert_eq!(told(&firsts), [first[0], first[1], ("other", 404, 1), done, done]);
        // The second goes on.
        queue.put(of("loud", 404, 0), now);
        let mut rest = Vec::new();
        while rest.len() < 5 {
            rest.extend(queue.take(100).unwrap().entries);
        }
        assert!(now.elapsed() >= FOLDED);
        let mut all: Vec<_> = rest
            .iter()
            .map(|it| (it.tenant.name(), it.status, it.times, it.object.as_deref()))
            .collect();
        all.sort_unstable();
        let done = ["0", "1"].map(|object| ("loud", 204, 499, Some(object)));
        let refused = [("loud", 404, 1000, None), ("loud", 429, 999, None)];
        assert_eq!(all, [&done[..], &refused, &[("other", 404, 999, None)]].concat());
        assert!(rest.iter().all(|it| it.key.is_some()));
        assert!(queue.lines.lock().of.is_empty());
        // And the next one has a line of its own.
        queue.put(of("loud", 404, 0), Instant::now());
        assert_eq!(told(&queue.take(100).unwrap()), [("loud", 404, 1)]);
    }

    #[test]
    fn what_has_made_something_is_like_nothing_else() {
        let (queue, now) = (Queue::new(8), Instant::now());
        for _ in 0..4 {
            queue.put(Entry { made: vec!["x".into()], ..of("loud", 201, 0) }, now);
        }
        assert_eq!(queue.take(100).unwrap().entries.len(), 4);
    }

    #[test]
    fn kinds_are_bounded_for_each_tenant_and_the_end_leaves_none_behind() {
        let (queue, now) = (Queue::new(2 * KINDS), Instant::now());
        for n in 0..KINDS {
            assert_eq!(queue.put(of("loud", 200, n), now), 0);
        }
        assert_eq!(queue.put(of("loud", 404, 0), now), 1, "what was refused is lost");
        assert_eq!(queue.put(of("loud", 200, KINDS), now), 0, "what was done has a line");
        assert_eq!(queue.put(of("loud", 200, KINDS), now), 0, "each time");
        assert_eq!(queue.put(of("quiet", 404, 0), now), 0, "nor does another tenant feel it");
        queue.put(of("quiet", 404, 0), now);
        queue.close();
        let last = queue.take(2 * KINDS).unwrap();
        assert_eq!((last.entries.len(), lost(&last, "loud")), (KINDS + 2 + 2, 1));
        assert!(queue.take(100).is_none());
        let lines = queue.lines.lock();
        assert!(lines.of.is_empty() && lines.folds.is_empty());
    }
}
