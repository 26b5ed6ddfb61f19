//! Agents that may have so many sandboxes at once: when one too many was made, the one that was used
//! least lately gives way.

use std::{ops::ControlFlow, sync::Arc};

use chrono::Utc;

use super::{Agent, Agents, WhenFull};
use crate::sandbox::{AGENT, Sandbox, Sandboxes, Shelf};

impl Agents {
    /// After `made` was: until its agent has no more running than it may. What cannot be paused
    /// runs on.
    pub(crate) async fn make_room(&self, sandboxes: &Sandboxes, made: &Arc<Sandbox>) {
        let Some(agent) = self.of(made) else { return };
        let Some(most) = agent.max_containers else { return };
        for sandbox in over(sandboxes, agent, most, made) {
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

/// Those that are too many, of that tenant's; `made` is none of them.
fn over(
    sandboxes: &Sandboxes,
    agent: &Agent,
    most: usize,
    made: &Arc<Sandbox>,
) -> Vec<Arc<Sandbox>> {
    let mut others = Vec::new();
    let running = Shelf::Running(made.facts().tenant.clone());
    sandboxes.registry().visit(&running, false, None, |sandbox| {
        if sandbox.id() != made.id() && sandbox.metadata().get(AGENT) == Some(&agent.id) {
            others.push(sandbox.clone());
        }
        ControlFlow::Continue(())
    });
    let too_many = (others.len() + 1).saturating_sub(most);
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
            Phase, Reason, Wanted,
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
    async fn it_is_paused_where_that_is_said() {
        let bed = bed(testing::rules());
        let pausing = Agent { max_containers: Some(1), when_full: WhenFull::Pause, ..agent("a") };
        let agents = Agents::new(vec![pausing]).unwrap();
        let first = make(&bed, &agents, "a").await;
        let second = make(&bed, &agents, "a").await;
        assert_eq!((first.phase(), second.phase()), (Phase::Paused, Phase::Running));
    }
}
