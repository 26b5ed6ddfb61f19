//! Events of what sandboxes use, from what the sampler finds.
//!
//! Each that runs has its turn once in as many sweeps as [`Rules`](super::Rules) say, each in a
//! sweep of its own as far as may be. Of one that does nothing only each tenth turn is told: a
//! thousand of them are ten events a second where a turn is each thirty.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Phase, Sandbox, SandboxId, Sandboxes, Shelf};
use crate::{
    backend::Usage,
    events::{Kind, What},
    limits::Limits,
};

/// Turns, of which one that does nothing has the last.
const QUIET: u32 = 10;
/// Below which it does nothing: percent of a core,
const LITTLE_CPU: f64 = 0.5;
/// and bytes more or less than were told.
const LITTLE: u64 = 1 << 20;

/// What was last told, by sandbox.
#[derive(Default)]
pub(super) struct Told(HashMap<SandboxId, Use>);

#[derive(Clone, Copy)]
struct Use {
    /// From when, and from how much CPU time on, the next share counts.
    at: Instant,
    cpu: Duration,
    memory_bytes: u64,
    disk_bytes: Option<u64>,
    /// Turns since, in which there was nothing to tell.
    quiet: u32,
}

impl Sandboxes {
    /// To be called after each sweep.
    pub(super) fn tell_consumption(&self, told: &mut Told, sweep: u64) {
        let every = u64::from(self.0.rules.resource_events);
        let wants = |kind: &Kind| self.0.events.wants(*kind);
        let kinds = [Kind::ResourceCpu, Kind::ResourceMemory, Kind::ResourceDisk];
        if every == 0 || !kinds.iter().any(wants) {
            return told.0.clear();
        }
        if sweep.is_multiple_of(every) {
            told.0.retain(|id, _| self.0.registry.present(*id).is_some());
        }
        let mut turns: Vec<Arc<Sandbox>> = Vec::new();
        self.0.registry.visit(&Shelf::All, false, None, |sandbox| {
            let turn = sandbox.id().spread() % every == sweep % every;
            if turn && sandbox.phase() == Phase::Running {
                turns.push(sandbox.clone());
            }
            ControlFlow::Continue(())
        });
        let mut found: Vec<(&Arc<Sandbox>, Usage, Option<f64>)> = Vec::new();
        let turns = turns.iter().map(|sandbox| (sandbox.id(), sandbox));
        self.samples().latest_of(turns, |sandbox, latest| {
            found.push((sandbox, latest.usage, latest.cpu_percent));
        });
        for (sandbox, usage, percent) in found {
            for what in told.next(sandbox.id(), &usage, percent, &sandbox.facts().limits) {
                self.tell_of(sandbox, what);
            }
        }
    }
}

impl Told {
    /// What there is to tell of one; `percent` is its share of the CPU now.
    fn next(
        &mut self,
        id: SandboxId,
        usage: &Usage,
        percent: Option<f64>,
        limits: &Limits,
    ) -> Vec<What> {
        let before = self.0.get(&id).copied();
        let percent = before.and_then(|before| share(&before, usage)).or(percent);
        let quiet = before.map_or(QUIET, |before| before.quiet + 1);
        let more = |a: u64, b: u64| a.abs_diff(b) >= LITTLE;
        let does_something = before.is_none_or(|before| {
            percent.is_some_and(|percent| percent >= LITTLE_CPU)
                || more(before.memory_bytes, usage.memory_bytes)
                || more(before.disk_bytes.unwrap_or(0), usage.disk_bytes.unwrap_or(0))
        });
        if let (false, Some(before)) = (does_something || quiet >= QUIET, before) {
            // The next share is over all that was not told.
            self.0.insert(id, Use { quiet, ..before });
            return Vec::new();
        }
        let now = Use {
            at: usage.at,
            cpu: usage.cpu,
            memory_bytes: usage.memory_bytes,
            disk_bytes: usage.disk_bytes,
            quiet: 0,
        };
        self.0.insert(id, now);
        let cpu = percent.map(|percent| What::ResourceCpu {
            cpu_percent: hundredths(percent),
            cores: limits.cpus,
        });
        let memory = What::ResourceMemory {
            memory_used_mb: mib(usage.memory_bytes),
            memory_limit_mb: limits.memory_bytes >> 20,
        };
        let disk = usage.disk_bytes.map(|bytes| What::ResourceDisk {
            disk_used_mb: mib(bytes),
            disk_limit_mb: limits.disk_bytes.map(|bytes| bytes >> 20),
        });
        cpu.into_iter().chain([memory]).chain(disk).collect()
    }
}

/// Percent of one core since then; `None` where what is counted has begun anew.
fn share(before: &Use, usage: &Usage) -> Option<f64> {
    let passed = usage.at.saturating_duration_since(before.at).as_secs_f64();
    let spent = usage.cpu.checked_sub(before.cpu)?.as_secs_f64();
    (passed > 0.0).then(|| spent / passed * 100.0)
}

fn mib(bytes: u64) -> f64 {
    hundredths(bytes as f64 / f64::from(1 << 20))
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        events::{Room, Types},
        sandbox::{Pausing, Rules, testing},
    };

    #[test]
    fn one_that_does_nothing_is_told_of_each_tenth_time() {
        let (mut told, id) = (Told::default(), SandboxId::random());
        let limits = testing::template().limits;
        let began = Instant::now();
        let mut next = |second: u64, cpu_millis: u64, memory: u64| {
            let usage = Usage {
                at: began + Duration::from_secs(second),
                cpu: Duration::from_millis(cpu_millis),
                cpu_percent: None,
                memory_bytes: memory,
                cache_bytes: 0,
                disk_bytes: Some(3 << 19),
                processes: 1,
                network: None,
                block: None,
            };
            told.next(id, &usage, None, &limits)
        };
        let of = |percent: f64, mib: f64| {
            [
                What::ResourceCpu { cpu_percent: percent, cores: 2 },
                What::ResourceMemory { memory_used_mb: mib, memory_limit_mb: 1024 },
                What::ResourceDisk { disk_used_mb: 1.5, disk_limit_mb: None },
            ]
        };
        // Of the first there is no share yet.
        assert_eq!(next(0, 0, 5 << 20), of(0.0, 5.0)[1..]);
        let turns: Vec<bool> = (1..=20).map(|n| !next(n, n, 5 << 20).is_empty()).collect();
        let told: Vec<usize> = (0..20).filter(|n| turns[*n]).collect();
        assert_eq!(told, [9, 19]);
        assert_eq!(next(21, 1020, 5 << 20), of(100.0, 5.0));
        assert_eq!(next(22, 1020, 6 << 20), of(0.0, 6.0));
        assert_eq!(next(23, 1020, 6 << 20), []);
    }

    #[tokio::test]
    async fn what_running_sandboxes_use_is_told_to_whoever_wants_it() {
        let bed = testing::bed(Rules { resource_events: 2, ..testing::rules() });
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let paused = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        bed.sandboxes.pause(paused.id(), Pausing::default()).await.unwrap();
        bed.sandboxes.begin_sampling().await;
        let (events, mut told) = (bed.sandboxes.events(), Told::default());
        bed.sandboxes.tell_consumption(&mut told, 0);
        let types: Types = "resource.*".parse().unwrap();
        let mut heard = events.subscribe("test", types, Room::default());
        for sweep in 0..2 {
            bed.sandboxes.tell_consumption(&mut told, sweep);
        }
        let batch = heard.batch(100, Duration::ZERO).await;
        let [memory] = &batch.events[..] else { panic!("{batch:?}") };
        assert_eq!(memory.what.kind(), "resource.memory");
        assert_eq!((memory.sandbox, memory.parent), (sandbox.id(), Some(sandbox.run_event())));
    }
}
