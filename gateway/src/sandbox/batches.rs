//! Batches: many sandboxes that are alike, asked for at once and ended at once.
//!
//! ```text
//!   asked for ──▶ its file is written, the client is told ──▶ sandboxes are made: of a pool first
//!                                                              │ each: its task is run
//!   deleted, at any time ──▶ none is made any more, all end ◀──┘
//! ```
//!
//! A batch is there before its sandboxes are, as OpenSandbox's is. What there is no room for now is
//! made as soon as there is, until the batch expires; what has ended is not made again, since what
//! it knew is gone. A sandbox's record names its batch, so that the next gateway finds them; the
//! batch's own file has what nobody else knows: what was asked for, which sandboxes there ever
//! were, and how their tasks ended. [`making`] has how they are made, [`tasks`] what runs in them.

mod keeping;
mod making;
mod tasks;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use tasks::{NotRun, Ran, Task, TaskState, end_of};

use super::{Error, Phase, Reason, Sandbox, SandboxId, Sandboxes, Tenant, Wanted};
use keeping::Asked;

/// Of a batch.
pub type BatchId = SandboxId;

/// Of each tenant.
const MOST: usize = 100;
/// Sandboxes of one.
pub const MOST_REPLICAS: usize = 1000;
/// How long one is remembered that has expired, and of which nothing is left.
const REMEMBERED: chrono::Duration = chrono::Duration::hours(1);

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// Of each sandbox; all of them expire at one instant.
    pub wanted: Wanted,
    pub replicas: usize,
    pub task: Option<Task>,
}

pub(super) struct Batch {
    id: BatchId,
    asked: Asked,
    state: Mutex<State>,
    /// Cancelled when it is deleted.
    over: CancellationToken,
    /// Told of whatever changes.
    changed: Notify,
    /// A write of its file is to come.
    unsaved: AtomicBool,
    /// Held while its file is written or taken away.
    saving: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    members: BTreeMap<SandboxId, Member>,
    making: usize,
    /// Given up.
    failed: usize,
    /// Why one could not be made last.
    why: Option<Reason>,
    task_error: Option<String>,
}

/// A sandbox that was made for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    /// The how-manieth it was.
    index: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task: Option<TaskState>,
}

/// What a batch is at, as OpenSandbox has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchState {
    /// Some of its sandboxes are still to be made.
    Provisioning,
    /// All were made.
    Running,
    /// Some could not be,
    PartialFailed,
    /// or none.
    Failed,
    /// It has expired, or all of its sandboxes have ended.
    Terminated,
}

/// A batch as it stands.
#[derive(Clone, Debug)]
pub struct SeenBatch {
    pub id: BatchId,
    pub template: String,
    pub metadata: BTreeMap<String, String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub state: BatchState,
    /// Why a sandbox could not be made last.
    pub why: Option<Reason>,
    pub desired: usize,
    /// That are there, or being made.
    pub total: usize,
    /// That are there.
    pub allocated: usize,
    /// That run.
    pub ready: usize,
    /// That were there and have ended.
    pub ended: usize,
    /// That could not be made.
    pub failed: usize,
    /// Of what is run in each; `None` where nothing is.
    pub tasks: Option<Tasks>,
    pub members: Vec<SeenMember>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    pub pending: usize,
    pub running: usize,
    pub succeeded: usize,
    pub failed: usize,
    pub unknown: usize,
    /// What one that failed said last.
    pub last_error: Option<String>,
}

#[derive(Clone, Debug)]
pub struct SeenMember {
    pub id: SandboxId,
    pub index: usize,
    /// `None` once it has ended.
    pub phase: Option<Phase>,
    pub task: Option<TaskState>,
}

#[derive(Default)]
pub(super) struct Batches {
    dir: PathBuf,
    /// Held by whoever makes one.
    changing: tokio::sync::Mutex<()>,
    all: RwLock<BTreeMap<BatchId, Arc<Batch>>>,
    /// Of the gateway before: told as gone, with sandboxes that may be left.
    deleted: Mutex<Vec<BatchId>>,
}

impl Batches {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, ..Self::default() }
    }

    /// Whether sandboxes are still made for it.
    pub(super) fn goes_on(&self, id: BatchId) -> bool {
        self.all.read().get(&id).is_some_and(|batch| !batch.over.is_cancelled())
    }

    fn find(&self, tenant: &Tenant, id: BatchId) -> Result<Arc<Batch>, Error> {
        let found = self.all.read().get(&id).cloned();
        found.filter(|batch| batch.asked.tenant == *tenant).ok_or(Error::NoBatch(id))
    }

    fn of(&self, tenant: &Tenant) -> Vec<Arc<Batch>> {
        let all = self.all.read();
        all.values().filter(|batch| batch.asked.tenant == *tenant).cloned().collect()
    }
}

impl Batch {
    fn new(id: BatchId, asked: Asked, state: State) -> Arc<Self> {
        Arc::new(Self {
            id,
            asked,
            state: Mutex::new(state),
            over: CancellationToken::new(),
            changed: Notify::new(),
            unsaved: AtomicBool::new(false),
            saving: Mutex::new(()),
        })
    }

    fn has_expired(&self) -> bool {
        self.asked.expires_at <= Utc::now()
    }

    /// How many are to be made now.
    fn lacking(&self) -> usize {
        if self.over.is_cancelled() || self.has_expired() {
            return 0;
        }
        let state = self.state.lock();
        let accounted = state.members.len() + state.making + state.failed;
        self.asked.replicas.saturating_sub(accounted)
    }

    /// Whether nothing more is to come of it, but for tasks.
    fn is_settled(&self) -> bool {
        self.lacking() == 0 && self.state.lock().making == 0
    }

    /// Takes a sandbox in; `false` when the batch was deleted meanwhile.
    fn join(&self, id: SandboxId) -> bool {
        let mut state = self.state.lock();
        // Under the lock that a deletion looks at the members under.
        if self.over.is_cancelled() {
            return false;
        }
        let index = state.members.len();
        let task = self.asked.task.as_ref().map(|_| TaskState::Pending);
        state.members.insert(id, Member { index, task });
        true
    }

    fn see(&self, sandboxes: &Sandboxes) -> SeenBatch {
        let phase = |id| sandboxes.0.registry.present(id).map(|sandbox| sandbox.phase());
        let state = self.state.lock();
        let members = state.members.iter().map(|(id, member)| {
            let phase = phase(*id).filter(|phase| phase.is_present());
            let task = member.task.clone().map(|task| match phase {
                None => task.of_one_that_ended(),
                Some(_) => task,
            });
            SeenMember { id: *id, index: member.index, phase, task }
        });
        let mut members: Vec<SeenMember> = members.collect();
        members.sort_by_key(|member| member.index);
        let (making, failed, why) = (state.making, state.failed, state.why);
        let task_error = state.task_error.clone();
        drop(state);
        let allocated = members.iter().filter(|member| member.phase.is_some()).count();
        let running = |member: &&SeenMember| member.phase == Some(Phase::Running);
        let ready = members.iter().filter(running).count();
        let tasks = self.asked.task.as_ref().map(|_| Tasks::of(&members, task_error));
        let ended = members.len() - allocated;
        let lacking = self.lacking() + making;
        let at = match () {
            () if lacking > 0 => BatchState::Provisioning,
            () if allocated == 0 && failed == self.asked.replicas => BatchState::Failed,
            () if allocated == 0 => BatchState::Terminated,
            () if failed > 0 => BatchState::PartialFailed,
            () => BatchState::Running,
        };
        SeenBatch {
            id: self.id,
            template: self.asked.template.clone(),
            metadata: self.asked.metadata.clone(),
            created_at: self.asked.created_at,
            expires_at: self.asked.expires_at,
            state: at,
            why: why.filter(|_| lacking > 0 || failed > 0),
            desired: self.asked.replicas,
            total: allocated + making,
            allocated,
            ready,
            ended,
            failed,
            tasks,
            members,
        }
    }
}

impl Tasks {
    fn of(members: &[SeenMember], last_error: Option<String>) -> Self {
        let mut tasks = Self { last_error, ..Self::default() };
        for task in members.iter().filter_map(|member| member.task.as_ref()) {
            *match task {
                TaskState::Pending => &mut tasks.pending,
                TaskState::Running => &mut tasks.running,
                TaskState::Succeeded => &mut tasks.succeeded,
                TaskState::Failed { .. } => &mut tasks.failed,
                TaskState::Unknown => &mut tasks.unknown,
            } += 1;
        }
        tasks
    }
}

impl Sandboxes {
    /// All of a tenant's, the oldest first.
    pub fn batches(&self, tenant: &Tenant) -> Vec<SeenBatch> {
        let mut all: Vec<_> =
            self.0.batches.of(tenant).iter().map(|batch| batch.see(self)).collect();
        all.sort_by_key(|batch| (batch.created_at, batch.id));
        all
    }

    pub fn see_batch(&self, tenant: &Tenant, id: BatchId) -> Result<SeenBatch, Error> {
        Ok(self.0.batches.find(tenant, id)?.see(self))
    }

    /// Returns when all of its sandboxes were made that will be, or after so long.
    pub async fn await_batch(&self, tenant: &Tenant, id: BatchId, patience: Duration) {
        let Ok(batch) = self.0.batches.find(tenant, id) else { return };
        let settled = async {
            loop {
                let changed = batch.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if batch.is_settled() || batch.over.is_cancelled() {
                    return;
                }
                changed.await;
            }
        };
        let _ = tokio::time::timeout(patience, settled).await;
    }

    /// From here on there is no such batch, and none of its sandboxes when this returns, whatever
    /// is being made.
    pub async fn remove_batch(&self, tenant: &Tenant, id: BatchId) -> Result<(), Error> {
        let batch = self.0.batches.find(tenant, id)?;
        let sandboxes = self.clone();
        self.in_task(async move {
            let dir = sandboxes.0.batches.dir.clone();
            let (ending, told) = (batch.clone(), dir.clone());
            let first = sandboxes.blocking(move || ending.put_aside(&told)).await?;
            if !first {
                return Err(Error::NoBatch(id));
            }
            sandboxes.0.batches.all.write().remove(&id);
            batch.changed.notify_waiters();
            tracing::info!(batch = %id, "batch: deleted");
            sandboxes.end_batch(&batch).await;
            sandboxes.blocking(move || keeping::forget(&dir, id)).await
        })
        .await
    }

    /// Changes what is known of it, and has that written.
    fn note(&self, batch: &Arc<Batch>, change: impl FnOnce(&mut State)) {
        change(&mut batch.state.lock());
        batch.changed.notify_waiters();
        self.save_soon(batch);
    }

    /// Writes its file within a moment: what changes meanwhile is written at once.
    fn save_soon(&self, batch: &Arc<Batch>) {
        if batch.unsaved.swap(true, Ordering::AcqRel) {
            return;
        }
        let (sandboxes, batch) = (self.clone(), batch.clone());
        self.0.tasks.spawn(async move {
            let closed = sandboxes.0.pool.closed();
            closed.run_until_cancelled(tokio::time::sleep(keeping::SOON)).await;
            batch.unsaved.store(false, Ordering::Release);
            let (id, dir) = (batch.id, sandboxes.0.batches.dir.clone());
            if let Err(error) = sandboxes.blocking(move || batch.save(&dir)).await {
                tracing::error!(batch = %id, "the next gateway would not know of it: {error}");
            }
        });
    }

    /// Those that are there.
    fn members_of(&self, batch: &Batch) -> Vec<Arc<Sandbox>> {
        let ids: Vec<SandboxId> = batch.state.lock().members.keys().copied().collect();
        ids.into_iter().filter_map(|id| self.0.registry.present(id)).collect()
    }
}
