//! Agents that may have so many sandboxes at once: when one too many was made, the one that was used
//! least lately gives way.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration};

use chrono::Utc;

use super::{Agent, Agents, WhenFull};
use crate::{
    events::{Kind, Room, Types},
    sandbox::{AGENT, Phase, Sandbox, SandboxId, Sandboxes, Shelf, Tenant},
};

/// Of those that were made, looked at together, and how long the first of them waits.
const BATCH: usize = 1024;
const GATHER: Duration = Duration::from_millis(100);

impl Agents {
    /// After `made` was: until its agent has no more running than it may. What cannot be paused
    /// runs on.
    pub(crate) async fn make_room(&self, sandboxes: &Sandboxes, made: &Arc<Sandbox>) {
        // A create that was repeated may have found one that is paused or over.
        if made.phase() != Phase::Running {
            return;
        }
        if let Some(agent) = self.of(made) {
            give_way(sandboxes, agent, &made.facts().tenant, Some(made.id())).await;
        }
    }

    /// How many may run at once of those with such metadata, if that is said.
    pub(crate) fn most(&self, metadata: &BTreeMap<String, String>) -> Option<usize> {
        self.get(metadata.get(AGENT)?)?.max_containers
    }
}

/// Makes room after those that nobody waits for, which batches make; to be polled for as long as the
/// gateway runs.
pub async fn keep_room(agents: Agents, sandboxes: Sandboxes) {
    if agents.0.values().all(|agent| agent.max_containers.is_none()) {
        return;
    }
    let Ok(started) = Types::of([Kind::SandboxStarted.name()]) else { return };
    let mut told = sandboxes.events().subscribe("agents", started, Room::default());
    loop {
        let batch = told.batch(BATCH, GATHER).await;
        if batch.closed {
            return;
        }
        let made: Vec<Arc<Sandbox>> = if batch.lost > 0 {
            sandboxes.registry().all_running()
        } else {
            let ids = batch.events.iter().map(|event| event.sandbox);
            ids.filter_map(|id| sandboxes.registry().present(id)).collect()
        };
        let mut whose: Vec<(Tenant, &Agent)> = made
            .iter()
            .filter_map(|sandbox| Some((sandbox.facts().tenant.clone(), agents.of(sandbox)?)))
            .collect();
        whose.sort_by(|a, b| (&a.0, &a.1.id).cmp(&(&b.0, &b.1.id)));
        whose.dedup();
        for (tenant, agent) in whose {
            // There may be later ones than those by now: none of them is kept for being the last.
            give_way(&sandboxes, agent, &tenant, None).await;
        }
    }
}

/// Until that agent has no more running of that tenant's than it may. `made` stays in any case.
async fn give_way(sandboxes: &Sandboxes, agent: &Agent, tenant: &Tenant, made: Option<SandboxId>) {
    if let Some(most) = agent.max_containers {
        for sandbox in over(sandboxes, agent, tenant, most, made) {
            tracing::info!(
                sandbox = %sandbox.id(), agent = agent.id,
                "gives way to another: its agent may have {most} at once"
            );
            match agent.when_full {
                WhenFull::End => sandboxes.evict(&sandbox).await,
                WhenFull::Pause => {
                    if let Err(error) = sandboxes.stand_aside(&sandbox).await {
                        tracing::warn!(sandbox = %sandbox.id(), "cannot give way: {error}");
                    }
                }
            }
        }
    }
}

/// Those that are too many, used least lately; `made` is none of them.
fn over(
    sandboxes: &Sandboxes,
    agent: &Agent,
    tenant: &Tenant,
    most: usize,
    made: Option<SandboxId>,
) -> Vec<Arc<Sandbox>> {
    let mut others = Vec::new();
    let running = Shelf::Running(tenant.clone());
    sandboxes.registry().visit(&running, false, None, |sandbox| {
        if Some(sandbox.id()) != made && sandbox.metadata().get(AGENT) == Some(&agent.id) {
            others.push(sandbox.clone());
        }
        ControlFlow::Continue(())
    });
    let too_many = (others.len() + usize::from(made.is_some())).saturating_sub(most);
    let now = Utc::now();
    others.sort_by_key(|sandbox| sandbox.used(now));
    others.truncate(too_many);
    others
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agents::tests::agent,
        sandbox::{
            Reason, Wanted,
            testing::{self, Bed, bed},
        },
    };

    async fn make(bed: &Bed, agents: &Agents, of: &str) -> Arc<Sandbox> {
        let metadata = [(AGENT.to_owned(), of.to_owned())].into();
        let wanted = Wanted { metadata, ..testing::wanted() };
        let made = bed.sandboxes.create(wanted, None).await.unwrap();
        agents.make_room(&bed.sandboxes, &made).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        made
    }

    #[tokio::test]
    async fn the_one_used_least_lately_gives_way_and_nobody_else_s() {
        let bed = bed(testing::rules());
        let ending = Agent { max_containers: Some(2), ..agent("a") };
        let agents = Agents::new(vec![ending, agent("b")]).unwrap();
        let other = make(&bed, &agents, "b").await;
        let nobodys = make(&bed, &agents, "c").await;
        let (first, second) = (make(&bed, &agents, "a").await, make(&bed, &agents, "a").await);
        drop(first.busy());
        let third = make(&bed, &agents, "a").await;
        assert_eq!(second.status().reason, Some(Reason::Evicted));
        for kept in [&first, &third, &other, &nobodys] {
            assert_eq!(kept.phase(), Phase::Running);
        }
        let held = third.busy();
        drop(first.busy());
        make(&bed, &agents, "a").await;
        assert!(first.phase().is_over() && third.phase() == Phase::Running);
        drop(held);
    }

    #[tokio::test]
    async fn room_is_made_too_after_those_that_nobody_waits_for() {
        let bed = bed(testing::rules());
        let agents = Agents::new(vec![Agent { max_containers: Some(2), ..agent("a") }]).unwrap();
        let kept = tokio::spawn(keep_room(agents, bed.sandboxes.clone()));
        tokio::task::yield_now().await;
        let mut made = Vec::new();
        for _ in 0..4 {
            made.push(make(&bed, &Agents::default(), "a").await);
        }
        testing::until(|| made[..2].iter().all(|one| one.phase().is_over())).await;
        assert!(made[2..].iter().all(|one| one.phase() == Phase::Running));
        kept.abort();
    }

    #[tokio::test]
    async fn one_that_does_not_run_takes_nobody_s_place() {
        let bed = bed(testing::rules());
        let agents = Agents::new(vec![Agent { max_containers: Some(1), ..agent("a") }]).unwrap();
        let (first, second) = (make(&bed, &agents, "a").await, make(&bed, &agents, "a").await);
        assert!(first.phase().is_over());
        agents.make_room(&bed.sandboxes, &first).await;
        assert_eq!(second.phase(), Phase::Running);
    }

    #[tokio::test]
    async fn it_is_paused_where_that_is_said() {
        let bed = bed(testing::rules());
        let pausing = Agent { max_containers: Some(1), when_full: WhenFull::Pause, ..agent("a") };
        let agents = Agents::new(vec![pausing]).unwrap();
        let first = make(&bed, &agents, "a").await;
        let second = make(&bed, &agents, "a").await;
        assert_eq!((first.phase(), second.phase()), (Phase::Paused, Phase::Running));
    }
}
