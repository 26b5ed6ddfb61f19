//! What sandboxes use, held against what their agents are to be told of.
//!
//! A threshold is crossed when it was reached for some looks in a row, and crossed back when what is
//! used was well below it for as many: whoever comes and goes around it is told of once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{Agent, Agents};
use crate::{
    metrics::Latest,
    sandbox::{Sandbox, SandboxId, Sandboxes},
};

/// Looks in a row, of which there is one a second.
const HOLDS: u8 = 5;
/// One second, but for what the sampler is late.
const LEAST_APART: Duration = Duration::from_millis(850);
/// Below a threshold is below so much of it.
const BACK: f64 = 0.9;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Resource {
    Cpu,
    Memory,
}

impl Resource {
    const ALL: [Self; 2] = [Self::Cpu, Self::Memory];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }

    /// In percent.
    fn threshold(self, agent: &Agent) -> Option<f64> {
        match self {
            Self::Cpu => agent.cpu_threshold,
            Self::Memory => agent.memory_threshold,
        }
    }

    /// In percent, as the threshold is.
    fn used(self, sandbox: &Sandbox, latest: &Latest) -> f64 {
        match self {
            Self::Cpu => latest.cpu_percent.unwrap_or(0.0),
            Self::Memory => memory_percent(sandbox, latest),
        }
    }
}

/// Of what it may have; without copies of files.
fn memory_percent(sandbox: &Sandbox, latest: &Latest) -> f64 {
    let used = latest.usage.memory_bytes.saturating_sub(latest.usage.cache_bytes);
    let most = sandbox.facts().limits.memory_bytes.max(1);
    used as f64 / most as f64 * 100.0
}

/// Where one thing stands with its threshold.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    above: bool,
    /// Looks in a row that said otherwise.
    other: u8,
}

impl Level {
    /// Whether it was crossed now, and which way.
    fn look(&mut self, used: f64, threshold: f64) -> Option<bool> {
        let other = if self.above { used < threshold * BACK } else { used >= threshold };
        self.other = if other { self.other + 1 } else { 0 };
        if self.other < HOLDS {
            return None;
        }
        *self = Self { above: !self.above, other: 0 };
        Some(self.above)
    }
}

/// Of all sandboxes that have thresholds.
#[derive(Debug, Default)]
struct Levels(HashMap<(SandboxId, Resource), Level>);

impl Levels {
    fn look(&mut self, sandboxes: &Sandboxes, agents: &Agents) {
        let mut before = std::mem::take(&mut self.0);
        for sandbox in sandboxes.registry().all_running() {
            let Some(agent) = agents.of(&sandbox) else { continue };
            let Some(latest) = sandboxes.samples().latest(sandbox.id()) else { continue };
            for resource in Resource::ALL {
                let Some(threshold) = resource.threshold(agent) else { continue };
                let key = (sandbox.id(), resource);
                let mut level = before.remove(&key).unwrap_or_default();
                let used = resource.used(&sandbox, &latest);
                if let Some(above) = level.look(used, threshold) {
                    tracing::info!(
                        sandbox = %sandbox.id(), agent = agent.id, above, threshold,
                        "{} at {used:.1} %", resource.name()
                    );
                    sandboxes.crossed(&sandbox, &agent.id, resource.name(), above, used, threshold);
                }
                self.0.insert(key, level);
            }
        }
    }
}

/// Looks whenever the sampler has; to be polled for as long as the gateway runs.
pub async fn keep_watch(agents: Agents, sandboxes: Sandboxes) {
    let said = |agent: &Agent| Resource::ALL.iter().any(|one| one.threshold(agent).is_some());
    if !agents.0.values().any(said) {
        return;
    }
    let (mut levels, mut swept) = (Levels::default(), sandboxes.samples().swept());
    let mut looked: Option<Instant> = None;
    while swept.changed().await.is_ok() {
        // Whoever asks for fresh figures has the sampler look too.
        if looked.is_some_and(|at| at.elapsed() < LEAST_APART) {
            continue;
        }
        looked = Some(Instant::now());
        levels.look(&sandboxes, &agents);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agents::tests::agent,
        sandbox::{
            AGENT, Wanted,
            testing::{self, bed},
        },
    };

    #[test]
    fn what_comes_and_goes_around_a_threshold_is_told_of_once() {
        let mut level = Level::default();
        let mut told = |used: &[f64]| -> Vec<bool> {
            used.iter().filter_map(|used| level.look(*used, 80.0)).collect()
        };
        assert!(told(&[90.0, 90.0, 90.0, 90.0, 10.0]).is_empty());
        assert_eq!(told(&[80.0; 6]), [true]);
        assert!(told(&[79.0, 81.0, 73.0, 72.0, 75.0, 79.0]).is_empty());
        assert_eq!(told(&[71.0, 0.0, 0.0, 0.0, 71.9]), [false]);
        assert!(told(&[0.0; 9]).is_empty());
    }

    #[tokio::test]
    async fn a_sandbox_that_stays_above_has_it_in_its_log() {
        let bed = bed(testing::rules());
        let memory = [(AGENT.to_owned(), "a".to_owned())].into();
        let wanted = Wanted { metadata: memory, ..testing::wanted() };
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        let agents = Agents::new(vec![Agent { memory_threshold: Some(50.0), ..agent("a") }]);
        let agents = agents.unwrap();
        let most = usize::try_from(sandbox.facts().limits.memory_bytes).unwrap();
        let mut levels = Levels::default();
        let mut look = async |bytes: usize| {
            bed.backend.memory_used.store(bytes, std::sync::atomic::Ordering::SeqCst);
            bed.sandboxes.sample_if_older(std::time::Duration::ZERO).await;
            levels.look(&bed.sandboxes, &agents);
        };
        for _ in 0..9 {
            look(most / 4 * 3).await;
        }
        for _ in 0..9 {
            look(most / 4).await;
        }
        let entries = sandbox.journal().entries();
        let told: Vec<_> =
            entries.iter().filter(|entry| entry.message.contains("threshold")).collect();
        assert_eq!(told.len(), 2, "{entries:?}");
        assert_eq!((&*told[0].fields["resource"], &*told[0].fields["percent"]), ("memory", "75.0"));
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        levels.look(&bed.sandboxes, &agents);
        assert!(levels.0.is_empty());
    }
}
