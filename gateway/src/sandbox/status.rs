//! What can be said of a sandbox, one that is being made or has ended too.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{Error, Phase, SandboxId, Sandboxes, Status, Tenant, ended::Remembered};
use crate::limits::Limits;

/// A sandbox as it stands, or as it stood.
#[derive(Clone, Debug)]
pub struct Seen {
    pub id: SandboxId,
    pub status: Status,
    pub metadata: BTreeMap<String, String>,
    pub created_at: DateTime<Utc>,
    /// `None` of one that is being made.
    pub limits: Option<Limits>,
    /// When it ends or is paused by itself, or would have; `None` while no time runs for it.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Seen {
    fn new(id: SandboxId, one: Remembered) -> Self {
        let now = one.life.now();
        let timed = now.phase.is_over() || now.phase == Phase::Running;
        Self {
            id,
            status: now.status(),
            metadata: one.metadata,
            created_at: one.created_at,
            limits: one.limits,
            expires_at: timed.then_some(now.deadline),
        }
    }
}

impl Sandboxes {
    /// Whose the sandbox of that id is, or was as long as it is remembered.
    pub fn tenant(&self, id: SandboxId) -> Option<Tenant> {
        self.0.registry.tenant(id).or_else(|| self.0.ended.tenant(id))
    }

    /// A sandbox in whatever phase, as long as it is remembered.
    pub fn see(&self, id: SandboxId) -> Result<Seen, Error> {
        // In the order in which it comes to each: what leaves one place is in the next already.
        let one = if let Some((life, tenant)) = self.0.registry.pending(id) {
            Some(Remembered::unborn(&life, tenant))
        } else if let Some(sandbox) = self.0.registry.any(id) {
            Some(Remembered::of(&sandbox))
        } else {
            self.0.ended.get(id)
        };
        one.map(|one| Seen::new(id, one)).ok_or(Error::NotFound(id))
    }

    /// As [`Self::present`], but tells one that is being ended from one that is not there.
    pub(super) fn not_ending(
        &self,
        id: SandboxId,
    ) -> Result<std::sync::Arc<super::Sandbox>, Error> {
        let life = match self.0.registry.any(id) {
            Some(sandbox) if !sandbox.life.is_over() => return Ok(sandbox),
            Some(sandbox) => Some(sandbox.life.clone()),
            None => self.0.ended.get(id).map(|one| one.life),
        };
        let stopping = life.is_some_and(|life| life.phase() == Phase::Stopping);
        Err(if stopping { Error::NotNow(id, Phase::Stopping) } else { Error::NotFound(id) })
    }
}
