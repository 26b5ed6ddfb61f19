//! What became of deliveries: the last attempts of each webhook one by one, and of a week how many
//! there were in each hour. In memory: they begin anew with the gateway.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use uuid::Uuid;

/// Attempts that are kept of each webhook.
const MOST: usize = 100;
/// Hours that are: a week of them.
const HOURS: usize = 168;
/// Of a body that is kept (bytes): enough to see what it was.
pub(super) const LONGEST: usize = 2048;

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// The `e2b-delivery-id`.
    pub(crate) id: Uuid,
    pub(crate) event: String,
    pub(crate) sandbox: String,
    /// By its name for receivers.
    pub(crate) kind: String,
    pub(crate) at: DateTime<Utc>,
    pub(crate) took: Duration,
    pub(crate) url: String,
    /// As far as it is kept.
    pub(crate) body: Arc<str>,
    /// JSON, without the signature.
    pub(crate) headers: String,
    pub(crate) answer: Option<Answer>,
    /// Why it has failed; E2B's word for it, and ours.
    pub(crate) error: Option<(&'static str, String)>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// JSON.
    pub(crate) headers: String,
    /// As far as it is kept.
    pub(crate) body: String,
}

impl Attempt {
    pub(crate) fn failed(&self) -> bool {
        self.error.is_some()
    }
}

/// Attempts of an hour, or of more.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hour {
    pub(crate) from: DateTime<Utc>,
    pub(crate) total: u64,
    pub(crate) failed: u64,
    /// Milliseconds.
    pub(crate) shortest: f64,
    pub(crate) sum: f64,
    pub(crate) longest: f64,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Stats {
    pub(crate) all: Hour,
    pub(crate) hours: Vec<Hour>,
}

/// Which of them.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) start: Option<DateTime<Utc>>,
    /// Not itself.
    pub(crate) end: Option<DateTime<Utc>>,
    pub(crate) failed: Option<bool>,
    /// None: all.
    pub(crate) kinds: Vec<String>,
    /// The oldest first.
    pub(crate) ascending: bool,
    /// Of events.
    pub(crate) limit: usize,
    /// The last event of the page before: when its first attempt was, and which.
    pub(crate) after: Option<(DateTime<Utc>, String)>,
}

/// The attempts to deliver one event, the first of them first.
pub(crate) type Group = Vec<Arc<Attempt>>;

#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// The oldest first.
    attempts: VecDeque<Arc<Attempt>>,
    hours: VecDeque<Hour>,
}

impl Hour {
    fn new(from: DateTime<Utc>) -> Self {
        Self { from, total: 0, failed: 0, shortest: f64::INFINITY, sum: 0.0, longest: 0.0 }
    }

    fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.failed += other.failed;
        self.shortest = self.shortest.min(other.shortest);
        self.sum += other.sum;
        self.longest = self.longest.max(other.longest);
    }

    /// Shortest, mean and longest in milliseconds; 0 where there was none.
    pub(crate) fn durations(&self) -> [f64; 3] {
        match self.total {
            0 => [0.0; 3],
            total => [self.shortest, self.sum / total as f64, self.longest],
        }
    }
}

impl Deliveries {
    pub(super) fn note(&mut self, attempt: Attempt) {
        let from = hour_of(attempt.at);
        if self.hours.back().is_none_or(|last| last.from < from) {
            self.hours.push_back(Hour::new(from));
        }
        if let Some(hour) = self.hours.back_mut() {
            let millis = attempt.took.as_secs_f64() * 1e3;
            hour.add(&Hour {
                from,
                total: 1,
                failed: attempt.failed().into(),
                shortest: millis,
                sum: millis,
                longest: millis,
            });
        }
        self.attempts.push_back(Arc::new(attempt));
        while self.attempts.len() > MOST {
            self.attempts.pop_front();
        }
        while self.hours.len() > HOURS {
            self.hours.pop_front();
        }
    }

    /// A page of them by events, and whether there is another.
    pub(crate) fn page(&self, asked: &Asked) -> (Vec<Group>, bool) {
        let wanted = |attempt: &Attempt| {
            asked.start.is_none_or(|start| attempt.at >= start)
                && asked.end.is_none_or(|end| attempt.at < end)
                && asked.failed.is_none_or(|failed| attempt.failed() == failed)
                && (asked.kinds.is_empty() || asked.kinds.contains(&attempt.kind))
        };
        let mut groups: Vec<Group> = Vec::new();
        for attempt in self.attempts.iter().filter(|attempt| wanted(attempt)) {
            match groups.iter_mut().find(|group| group[0].event == attempt.event) {
                Some(group) => group.push(attempt.clone()),
                None => groups.push(vec![attempt.clone()]),
            }
        }
        let place = |group: &Group| (group[0].at, group[0].event.clone());
        groups.sort_by_key(place);
        if !asked.ascending {
            groups.reverse();
        }
        if let Some(after) = &asked.after {
            groups.retain(|group| match asked.ascending {
                true => place(group) > *after,
                false => place(group) < *after,
            });
        }
        let more = groups.len() > asked.limit;
        groups.truncate(asked.limit);
        (groups, more)
    }

    /// Of the hours that have any of that time in them.
    pub(crate) fn stats(&self, start: DateTime<Utc>, end: DateTime<Utc>) -> Stats {
        let hours = self.hours.iter();
        let hours = hours.filter(|hour| hour.from + TimeDelta::hours(1) > start && hour.from < end);
        let hours: Vec<Hour> = hours.cloned().collect();
        let mut all = Hour::new(start);
        hours.iter().for_each(|hour| all.add(hour));
        Stats { all, hours }
    }
}

fn hour_of(at: DateTime<Utc>) -> DateTime<Utc> {
    at.duration_trunc(TimeDelta::hours(1)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(event: &str, second: i64, failed: bool) -> Attempt {
        Attempt {
            id: Uuid::new_v4(),
            event: event.into(),
            sandbox: "s".into(),
            kind: if event.starts_with('k') { "killed".into() } else { "exec.started".into() },
            at: DateTime::from_timestamp(second, 0).unwrap(),
            took: Duration::from_millis(second.unsigned_abs()),
            url: "https://example.com".into(),
            body: "{}".into(),
            headers: "{}".into(),
            answer: None,
            error: failed.then(|| ("timeout", "late".to_owned())),
        }
    }

    fn asked() -> Asked {
        Asked {
            start: None,
            end: None,
            failed: None,
            kinds: Vec::new(),
            ascending: false,
            limit: 10,
            after: None,
        }
    }

    fn names(deliveries: &Deliveries, asked: &Asked) -> (Vec<(String, usize)>, bool) {
        let (groups, more) = deliveries.page(asked);
        (groups.iter().map(|group| (group[0].event.clone(), group.len())).collect(), more)
    }

    #[test]
    fn attempts_are_told_by_event_in_pages_that_miss_none() {
        let mut deliveries = Deliveries::default();
        for (event, second, failed) in
            [("a", 1, true), ("b", 2, false), ("a", 3, false), ("k", 4, true), ("c", 4, false)]
        {
            deliveries.note(attempt(event, second, failed));
        }
        let of = |pairs: &[(&str, usize)]| -> Vec<(String, usize)> {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        assert_eq!(
            names(&deliveries, &asked()),
            (of(&[("k", 1), ("c", 1), ("b", 1), ("a", 2)]), false)
        );
        let (mut page, mut seen) = (Asked { limit: 1, ascending: true, ..asked() }, Vec::new());
        loop {
            let (groups, more) = deliveries.page(&page);
            let last = groups.last().unwrap();
            page.after = Some((last[0].at, last[0].event.clone()));
            seen.extend(groups.iter().map(|group| group[0].event.clone()));
            if !more {
                break;
            }
        }
        assert_eq!(seen, ["a", "b", "c", "k"]);
        let failed = Asked { failed: Some(true), ..asked() };
        assert_eq!(names(&deliveries, &failed).0, of(&[("k", 1), ("a", 1)]));
        let kinds = Asked { kinds: vec!["killed".into()], ..asked() };
        assert_eq!(names(&deliveries, &kinds).0, of(&[("k", 1)]));
        let at = |second| Some(DateTime::from_timestamp(second, 0).unwrap());
        let between = Asked { start: at(2), end: at(4), ..asked() };
        assert_eq!(names(&deliveries, &between).0, of(&[("a", 1), ("b", 1)]));
    }

    #[test]
    fn only_the_last_are_kept_and_all_of_a_week_are_counted() {
        let mut deliveries = Deliveries::default();
        for n in 0..3 * MOST as i64 {
            deliveries.note(attempt(&n.to_string(), 3600 * 10 + n, n % 3 == 0));
        }
        let (groups, more) = deliveries.page(&Asked { limit: 1000, ..asked() });
        assert_eq!((groups.len(), more), (MOST, false));
        let at = |hour: i64| DateTime::from_timestamp(3600 * hour, 0).unwrap();
        let stats = deliveries.stats(at(0), at(20));
        assert_eq!((stats.all.total, stats.all.failed, stats.hours.len()), (300, 100, 1));
        assert_eq!(stats.hours[0].from, at(10));
        assert_eq!(stats.all.durations(), [36_000.0, 36_149.5, 36_299.0]);
        assert_eq!(deliveries.stats(at(11), at(20)).all.durations(), [0.0; 3]);
        for n in 0..500 {
            deliveries.note(attempt("x", 3600 * (20 + n), false));
        }
        assert_eq!(deliveries.stats(at(0), at(1000)).all.total, HOURS as u64);
    }
}
