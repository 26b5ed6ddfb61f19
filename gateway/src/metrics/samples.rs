//! What sandboxes use, as the sampler has found it: the last look at each, and its history.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use tokio::sync::{Mutex, watch};

use super::history::{History, Sample};
use crate::{backend::Usage, sandbox::SandboxId};

/// As it is now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Latest {
    pub(crate) usage: Usage,
    /// Of one core; `None` before the second look.
    pub(crate) cpu_percent: Option<f64>,
}

#[derive(Debug, Default)]
pub(crate) struct Samples {
    all: RwLock<HashMap<SandboxId, Tracked>>,
    /// When all were last looked at; told to whoever waits for the next look.
    swept: watch::Sender<Option<Instant>>,
    /// Held by whoever looks out of turn.
    pub(crate) turn: Mutex<()>,
}

#[derive(Debug, Default)]
struct Tracked {
    latest: Option<Latest>,
    /// From when, and from how much CPU time on, the next sample of the history counts.
    from: Option<(Instant, Duration)>,
    history: History,
    unsaved: bool,
}

/// How the registry has a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Time passes for it, and its history goes on.
    Running,
    /// It stands still.
    Still,
    /// It is nobody's, in the pool, or not known.
    Nobodys,
}

impl Samples {
    /// Takes note of a sweep at `wall`, in seconds since the epoch. What is neither in it nor anybody's
    /// is forgotten.
    pub(crate) fn take(
        &self,
        sweep: &BTreeMap<SandboxId, Usage>,
        wall: u32,
        standing: impl Fn(SandboxId) -> Standing,
    ) {
        let mut all = self.all.write();
        all.retain(|id, tracked| {
            let swept = sweep.contains_key(id);
            if !swept {
                (tracked.latest, tracked.from) = (None, None);
            }
            swept || standing(*id) != Standing::Nobodys
        });
        for (id, usage) in sweep {
            all.entry(*id).or_default().take(*usage, wall, standing(*id));
        }
        drop(all);
        self.swept.send_replace(Some(Instant::now()));
    }

    /// When all were last looked at, from now on.
    pub(crate) fn swept(&self) -> watch::Receiver<Option<Instant>> {
        self.swept.subscribe()
    }

    pub(crate) fn latest(&self, id: SandboxId) -> Option<Latest> {
        self.all.read().get(&id)?.latest
    }

    /// For each of many, without a lock for each.
    pub(crate) fn latest_of<T>(
        &self,
        those: impl Iterator<Item = (SandboxId, T)>,
        mut each: impl FnMut(T, &Latest),
    ) {
        let all = self.all.read();
        for (id, what) in those {
            if let Some(latest) = all.get(&id).and_then(|tracked| tracked.latest.as_ref()) {
                each(what, latest);
            }
        }
    }

    /// The newest of a sandbox's history.
    pub(crate) fn newest(&self, id: SandboxId) -> Option<Sample> {
        self.all.read().get(&id)?.history.latest().copied()
    }

    /// A sandbox's history within these seconds since the epoch, the oldest first.
    pub(crate) fn between(&self, id: SandboxId, start: u64, end: u64) -> Vec<Sample> {
        let all = self.all.read();
        all.get(&id).map(|tracked| tracked.history.between(start, end)).unwrap_or_default()
    }

    /// Goes on with a history of before.
    pub(crate) fn restore(&self, id: SandboxId, history: History) {
        self.all.write().entry(id).or_default().history = history;
    }

    /// What is to be written for those of `which` that have changed since they were last asked for.
    pub(crate) fn unsaved(&self, which: &impl Fn(SandboxId) -> bool) -> Vec<(SandboxId, Vec<u8>)> {
        let mut all = self.all.write();
        let changed = all.iter_mut().filter(|(id, tracked)| tracked.unsaved && which(**id));
        changed
            .map(|(id, tracked)| {
                tracked.unsaved = false;
                (*id, tracked.history.bytes())
            })
            .collect()
    }
}

impl Tracked {
    fn take(&mut self, usage: Usage, wall: u32, standing: Standing) {
        let now = usage.at;
        let before = self.latest.map(|latest| (latest.usage.at, latest.usage.cpu));
        let percent = usage.cpu_percent.or_else(|| before.and_then(|from| share(from, &usage)));
        self.latest = Some(Latest { usage, cpu_percent: percent });
        let from = *self.from.get_or_insert((now, usage.cpu));
        if standing != Standing::Running {
            self.from = Some((now, usage.cpu));
            return;
        }
        // The first one as soon as there is one to be had.
        let due = self.history.is_empty() || now.duration_since(from.0) >= History::STEP;
        let over_all = || share(from, &usage);
        let Some(percent) = due.then(|| usage.cpu_percent.or_else(over_all)).flatten() else {
            return;
        };
        self.from = Some((now, usage.cpu));
        self.history.add(Sample {
            at: wall,
            cpu_percent: percent as f32,
            memory_kib: kib(usage.memory_bytes.saturating_sub(usage.cache_bytes)),
            cache_kib: kib(usage.cache_bytes),
            disk_kib: kib(usage.disk_bytes.unwrap_or(0)),
        });
        self.unsaved = true;
    }
}

/// Percent of one core since then; `None` where no time has passed, or what is counted is another
/// one's, which has begun anew.
fn share((at, cpu): (Instant, Duration), usage: &Usage) -> Option<f64> {
    let passed = usage.at.duration_since(at).as_secs_f64();
    let spent = usage.cpu.checked_sub(cpu)?.as_secs_f64();
    (passed > 0.0).then(|| spent / passed * 100.0)
}

fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(cpu_millis: u64) -> Usage {
        Usage {
            at: Instant::now(),
            cpu: Duration::from_millis(cpu_millis),
            cpu_percent: None,
            memory_bytes: 10 << 20,
            cache_bytes: 4 << 20,
            disk_bytes: Some(3 << 20),
            processes: 2,
            network: None,
            block: None,
        }
    }

    struct Bed {
        samples: Samples,
        id: SandboxId,
        began: Instant,
    }

    impl Bed {
        fn new() -> Self {
            let id = SandboxId::random();
            Self { samples: Samples::default(), id, began: Instant::now() }
        }

        fn look(&self, second: u64, usage: Usage, standing: Standing) {
            let at = self.began + Duration::from_secs(second);
            let sweep = BTreeMap::from([(self.id, Usage { at, ..usage })]);
            self.samples.take(&sweep, 1000 + second as u32, |_| standing);
        }

        fn percent(&self) -> Option<f64> {
            self.samples.latest(self.id).unwrap().cpu_percent
        }

        fn history(&self) -> Vec<(u32, f32)> {
            let all = self.samples.between(self.id, 0, u64::MAX);
            all.iter().map(|sample| (sample.at, sample.cpu_percent)).collect()
        }
    }

    #[test]
    fn a_busy_core_is_a_hundred_and_the_history_has_each_fifth_second() {
        let bed = Bed::new();
        bed.look(0, usage(500), Standing::Running);
        assert_eq!((bed.percent(), bed.history().len()), (None, 0));
        for second in 1..=12 {
            bed.look(second, usage(500 + second * 1000), Standing::Running);
            assert_eq!(bed.percent(), Some(100.0));
        }
        assert_eq!(bed.history(), [(1001, 100.0), (1006, 100.0), (1011, 100.0)]);
        let newest = bed.samples.newest(bed.id).unwrap();
        let kib = (newest.memory_kib, newest.cache_kib, newest.disk_kib);
        assert_eq!(kib, (6 << 10, 4 << 10, 3 << 10));
    }

    #[test]
    fn while_it_stands_still_there_is_no_history_and_none_of_that_time_counts_later() {
        let bed = Bed::new();
        bed.look(0, usage(0), Standing::Running);
        bed.look(1, usage(1000), Standing::Running);
        for second in 2..100 {
            bed.look(second, usage(1000), Standing::Still);
            assert_eq!(bed.percent(), Some(0.0));
        }
        bed.look(104, usage(6000), Standing::Running);
        assert_eq!(bed.history(), [(1001, 100.0), (1104, 100.0)]);
    }

    #[test]
    fn what_the_kernel_says_of_the_share_is_taken_and_a_count_that_begins_anew_is_no_share() {
        let bed = Bed::new();
        let told = Usage { cpu_percent: Some(7.0), ..usage(0) };
        bed.look(0, told, Standing::Running);
        assert_eq!((bed.percent(), bed.history()), (Some(7.0), vec![(1000, 7.0)]));
        let bed = Bed::new();
        bed.look(0, usage(5000), Standing::Running);
        bed.look(1, usage(10), Standing::Running);
        assert_eq!((bed.percent(), bed.history()), (None, vec![]));
    }

    #[test]
    fn a_history_outlives_its_gateway_and_is_written_once_for_each_change() {
        let bed = Bed::new();
        bed.look(0, usage(0), Standing::Running);
        bed.look(1, usage(10), Standing::Running);
        let [(id, bytes)] = bed.samples.unsaved(&|_| true).try_into().unwrap();
        assert!(id == bed.id && bed.samples.unsaved(&|_| true).is_empty());
        let later = Bed { samples: Samples::default(), ..bed };
        later.samples.restore(id, History::read(&bytes).unwrap());
        later.look(20, usage(100), Standing::Running);
        assert_eq!(later.history().len(), 1);
        later.look(25, usage(5100), Standing::Running);
        assert_eq!(later.history()[1..], [(1025, 100.0)]);
    }

    #[test]
    fn what_is_gone_is_forgotten_and_what_only_has_no_process_is_not() {
        let bed = Bed::new();
        bed.look(0, usage(0), Standing::Running);
        bed.look(1, usage(10), Standing::Running);
        let none = BTreeMap::new();
        bed.samples.take(&none, 0, |_| Standing::Still);
        assert!(bed.samples.latest(bed.id).is_none() && bed.history().len() == 1);
        bed.samples.take(&none, 0, |_| Standing::Nobodys);
        assert!(bed.history().is_empty());
    }
}
