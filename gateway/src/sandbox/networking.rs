//! What sandboxes may reach, while they live.

use tokio::time::timeout;

use super::{
    Error, Phase, SandboxId, Sandboxes,
    life::Refused,
    pausing::{TURN, refused},
    steps::{STEP, step},
};
use crate::{backend::NetworkMode, limits::Limits, network::NetworkPolicy};

impl Sandboxes {
    /// Has a running sandbox reach what the policy leaves open, in the place of all that was said
    /// before. When it returns, so it is, and a gateway that starts anew will keep to it.
    ///
    /// # Errors
    /// [`Error::NotNow`] when it does not run. Otherwise it may reach what it could before.
    pub async fn set_network(&self, id: SandboxId, policy: NetworkPolicy) -> Result<(), Error> {
        let sandbox = self.not_ending(id)?;
        if sandbox.phase() == Phase::Paused {
            return Err(Error::NotNow(id, Phase::Paused));
        }
        let sandboxes = self.clone();
        self.in_task(async move {
            let turn = timeout(TURN, sandbox.turn.lock()).await;
            let _turn = turn.map_err(|_| sandboxes.no_turn(&sandbox))?;
            match sandbox.phase() {
                Phase::Running => {}
                phase => return Err(refused(id)(Refused(phase))),
            }
            let default = sandbox.facts().network;
            let before = sandbox.change_policy(policy.clone());
            // Written first: should this gateway die in between, the next one enforces it.
            let mut done = sandboxes.record(&sandbox).await;
            if done.is_ok() {
                done = sandboxes.fence(id, &policy, default, sandbox.facts().limits).await;
            }
            if done.is_err() {
                sandbox.change_policy(before);
                sandboxes.record_soon(&sandbox);
            }
            let done = sandboxes.ended_if_stuck(&sandbox, done);
            if done.is_ok() {
                sandboxes.tell_updated(&sandbox, "network", None);
            }
            tracing::info!(sandbox = %id, done = done.is_ok(), "network changed");
            done
        })
        .await
    }

    /// Puts into force what one that has processes may reach.
    pub(super) async fn fence(
        &self,
        id: SandboxId,
        policy: &NetworkPolicy,
        default: NetworkMode,
        limits: Limits,
    ) -> Result<(), Error> {
        if policy.mode(default) == NetworkMode::Inherit {
            return Ok(());
        }
        let filter = policy.filter(default);
        let set = self.0.backend.set_network(id, &filter, limits);
        step("the fencing of a sandbox", STEP, set).await
    }
}
