//! Forks: sandboxes made from the files of one that runs, and from what it was made with.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future;

use crate::{events::What, limits::Bounds};

use super::{
    Error, Owner, Sandbox, SandboxId, Sandboxes, Wanted, making::Asked, pool::Shape,
    snapshotting::Copy,
};

impl Sandboxes {
    /// Makes `count` sandboxes, each of which runs for `timeout`, over a copy of the files of one
    /// that runs: with its settings, and an id and a token of their own. Each is made or not.
    ///
    /// # Errors
    /// When there is no copy to make them from.
    pub async fn fork(
        &self,
        owner: Owner,
        id: SandboxId,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<Result<Arc<Sandbox>, Error>>, Error> {
        let source = self.not_ending(id)?;
        self.is_not_too_often(&owner, count)?;
        let sandboxes = self.clone();
        self.in_task(async move {
            let Copy { template, hold, .. } = sandboxes.copy(id).await?;
            let facts = source.facts();
            let wanted = Wanted {
                owner,
                template: template.id.clone(),
                timeout,
                policy: source.policy(),
                ingress: facts.ingress.clone(),
                // What it has it has of its source.
                limits: Bounds::default(),
                metadata: (*source.metadata()).clone(),
                env_vars: facts.env_vars.clone(),
                auto_pause: facts.auto_pause,
                auto_pause_filesystem: facts.auto_pause_filesystem,
                auto_resume: facts.auto_resume,
                batch: None,
            };
            let network = wanted.policy.mode(sandboxes.0.rules.network);
            let limits = sandboxes.0.rules.limits.bound(facts.limits);
            let limits = wanted.owner.quota.limits.bound(limits);
            let shape = Shape { template: Arc::new(template), limits, network };
            let forks = (0..count).map(|_| sandboxes.make_fork(id, &shape, &wanted));
            let forks = future::join_all(forks).await;
            drop(hold);
            let made = forks.iter().filter(|fork| fork.is_ok()).count();
            sandboxes
                .tell_of(&source, What::SandboxForked { asked: count as u64, made: made as u64 });
            tracing::info!(sandbox = %id, count, made, "forked");
            Ok(forks)
        })
        .await
    }

    async fn make_fork(
        &self,
        source: SandboxId,
        shape: &Shape,
        wanted: &Wanted,
    ) -> Result<Arc<Sandbox>, Error> {
        let asked = Asked { began: Instant::now(), forked_from: Some(source) };
        let made = self.make_of(shape, wanted, asked).await;
        if let Err(error) = &made {
            self.tell_not_made(wanted.owner.tenant.clone(), &wanted.template, error);
        }
        made
    }
}
