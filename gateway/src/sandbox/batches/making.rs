//! How the sandboxes of a batch come about and go.
//!
//! A few at a time: what a pool has is theirs at once, and what is made anew has its turn among all
//! that are (`sandbox/making.rs`). Where there is no room the rest waits for some.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::Utc;
use futures_util::{StreamExt, stream};
use tokio::time::{sleep, timeout};

use super::{Batch, BatchId, MOST, NewBatch, REMEMBERED, State, keeping, keeping::Asked};
use crate::sandbox::{
    Error, Reason, Sandbox, Sandboxes, Tenant, making::Asked as HowAsked, steps::CREATE,
};

/// Under way of one batch.
const AT_ONCE: usize = 16;
/// Until it is tried again, where there was no room.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// Times that nothing but failures came of trying, after which the rest is given up.
const TRIES: u32 = 3;
/// Between looks at what can be forgotten.
const LOOK: Duration = Duration::from_secs(60);

/// What came of trying to make some.
#[derive(Default)]
struct Pass {
    made: AtomicUsize,
    failed: AtomicUsize,
    /// There is no room: the rest need not try.
    full: AtomicBool,
}

impl Sandboxes {
    /// Makes a batch, and returns when there is one: its sandboxes are made after that. The same
    /// `key` again gives the same batch, as long as there is that.
    ///
    /// # Errors
    /// When none of its sandboxes could ever be made.
    pub async fn make_batch(&self, new: NewBatch, key: Option<&str>) -> Result<BatchId, Error> {
        let NewBatch { wanted, replicas, task } = new;
        let template = self.template(&wanted.owner.tenant, &wanted.template)?;
        self.shape(template, &wanted.policy, &wanted.limits, &wanted.owner.quota)?;
        let sandboxes = self.clone();
        let key = key.map(|key| {
            let said = format!("{replicas} {task:?} {wanted:?}");
            (key.to_owned(), blake3::hash(said.as_bytes()).to_hex().to_string())
        });
        self.in_task(async move {
            let batches = &sandboxes.0.batches;
            let _turn = batches.changing.lock().await;
            let tenant = &wanted.owner.tenant;
            if let Some((key, said)) = &key {
                let first = batches.of(tenant).into_iter().find_map(|batch| {
                    let (known, before) = batch.asked.key.as_ref()?;
                    (known == key).then(|| (batch.id, before == said))
                });
                match first {
                    Some((id, true)) => return Ok(id),
                    Some((_, false)) => return Err(Error::KeyReused),
                    None => {}
                }
            }
            if sandboxes.0.stopping.load(Ordering::Acquire) {
                return Err(Error::Stopping);
            }
            sandboxes.make_room_for_one(tenant).await?;
            sandboxes.is_not_too_often(&wanted.owner, replicas)?;
            let asked = Asked { key, ..Asked::new(&wanted, replicas, task, Utc::now()) };
            let id = BatchId::random();
            let batch = Batch::new(id, asked, State::default());
            let (saved, dir) = (batch.clone(), batches.dir.clone());
            sandboxes.blocking(move || saved.save(&dir)).await?;
            batches.all.write().insert(id, batch.clone());
            let template = &batch.asked.template;
            tracing::info!(batch = %id, template, replicas, "batch: begun");
            tokio::spawn(sandboxes.clone().drive(batch.clone()));
            Ok(id)
        })
        .await
    }

    /// Among a tenant's batches, if need be by forgetting the oldest of which nothing is left.
    async fn make_room_for_one(&self, tenant: &Tenant) -> Result<(), Error> {
        let mut all = self.0.batches.of(tenant);
        if all.len() < MOST {
            return Ok(());
        }
        all.sort_by_key(|batch| batch.asked.created_at);
        let oldest =
            all.into_iter().find(|batch| batch.is_settled() && self.members_of(batch).is_empty());
        match oldest {
            Some(oldest) => self.forget_batch(&oldest).await,
            None => Err(Error::TooManyBatches { tenant: tenant.clone(), most: MOST }),
        }
    }

    async fn forget_batch(&self, batch: &Arc<Batch>) -> Result<(), Error> {
        let (forgotten, dir) = (batch.clone(), self.0.batches.dir.clone());
        self.0.batches.all.write().remove(&batch.id);
        // So that nobody writes it any more.
        self.blocking(move || {
            forgotten.put_aside(&dir)?;
            keeping::forget(&dir, forgotten.id)
        })
        .await
    }

    /// Makes what lacks of a batch, until nothing does.
    async fn drive(self, batch: Arc<Batch>) {
        let closed = self.0.pool.closed();
        let (mut pause, mut bad) = (FIRST_PAUSE, 0);
        while !closed.is_cancelled() {
            let lacking = batch.lacking();
            if lacking == 0 {
                break;
            }
            let pass = Arc::new(Pass::default());
            stream::iter(0..lacking)
                .for_each_concurrent(AT_ONCE, |_| self.make_member(&batch, &pass))
                .await;
            if pass.made.load(Ordering::Relaxed) > 0 {
                (pause, bad) = (FIRST_PAUSE, 0);
            } else if pass.failed.load(Ordering::Relaxed) > 0 {
                bad += 1;
            }
            let lacking = batch.lacking();
            if bad == TRIES && lacking > 0 {
                tracing::warn!(batch = %batch.id, lacking, "batch: given up after {TRIES} tries");
                self.note(&batch, |state| state.failed += lacking);
            }
            if batch.lacking() == 0 {
                break;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = batch.over.cancelled() => {}
                () = closed.cancelled() => {}
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
        batch.changed.notify_waiters();
    }

    /// In a task of its own: what was begun is brought to its end.
    async fn make_member(&self, batch: &Arc<Batch>, pass: &Arc<Pass>) {
        if pass.full.load(Ordering::Relaxed)
            || batch.over.is_cancelled()
            || batch.has_expired()
            || self.0.pool.closed().is_cancelled()
        {
            return;
        }
        batch.state.lock().making += 1;
        let (sandboxes, batch, pass) = (self.clone(), batch.clone(), pass.clone());
        let making = self.0.tasks.spawn(async move {
            let asked = HowAsked { began: Instant::now(), forked_from: None };
            let made = sandboxes.make(batch.asked.wanted(batch.id), asked).await;
            match made {
                Ok(sandbox) => {
                    pass.made.fetch_add(1, Ordering::Relaxed);
                    let joined = batch.join(sandbox.id());
                    sandboxes.note(&batch, |state| state.making -= 1);
                    if joined {
                        sandboxes.begin_task(&batch, sandbox, false);
                    } else {
                        drop(sandboxes.end(&sandbox, Reason::User));
                    }
                }
                Err(error) => {
                    let why = error.reason();
                    let room = why == Reason::Capacity || matches!(error, Error::Template { .. });
                    // What waits for room is tried over and over, and has not failed.
                    if !room {
                        let tenant = batch.asked.tenant.clone();
                        sandboxes.tell_not_made(tenant, &batch.asked.template, &error);
                    }
                    tracing::debug!(batch = %batch.id, "batch: {error}");
                    pass.full.fetch_or(room, Ordering::Relaxed);
                    pass.failed.fetch_add(usize::from(!room), Ordering::Relaxed);
                    sandboxes.note(&batch, |state| {
                        state.making -= 1;
                        state.why = Some(why);
                    });
                }
            }
        });
        // Empty only when the runtime goes.
        let _ = making.await;
    }

    /// Ends all of one that was deleted, also what is just being made.
    pub(super) async fn end_batch(&self, batch: &Batch) {
        self.end_all_of(batch.id, &batch.asked.tenant).await;
        let made = async {
            loop {
                let changed = batch.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if batch.state.lock().making == 0 {
                    return;
                }
                changed.await;
            }
        };
        // What takes longer is ended when it is made.
        if timeout(CREATE, made).await.is_ok() {
            self.end_all_of(batch.id, &batch.asked.tenant).await;
        }
    }

    async fn end_all_of(&self, id: BatchId, tenant: &Tenant) {
        let all = self.0.registry.all_present();
        let of_it = |sandbox: &Arc<Sandbox>| {
            sandbox.facts().batch == Some(id) && sandbox.facts().tenant == *tenant
        };
        let all: Vec<_> = all.into_iter().filter(of_it).collect();
        stream::iter(all)
            .for_each_concurrent(AT_ONCE, |sandbox| async move {
                // It may have ended meanwhile.
                let _ = self.kill(sandbox.id()).await;
            })
            .await;
    }

    /// Reads the batches of the gateway before. To be called before any sandbox is adopted.
    pub(in crate::sandbox) fn load_batches(&self) -> Result<(), Error> {
        let (found, deleted) = keeping::load(&self.0.batches.dir)?;
        self.0.batches.all.write().extend(found.into_iter().map(|batch| (batch.id, batch)));
        *self.0.batches.deleted.lock() = deleted;
        Ok(())
    }

    /// Ends what is left of batches that the gateway before was deleting, and takes those in that
    /// it had made for others. To be called when all sandboxes are adopted, before anybody asks.
    pub(in crate::sandbox) fn adopt_batches(&self) {
        let deleted = std::mem::take(&mut *self.0.batches.deleted.lock());
        for sandbox in self.0.registry.all_present() {
            let Some(id) = sandbox.facts().batch else { continue };
            if deleted.contains(&id) {
                drop(self.end(&sandbox, Reason::User));
            } else if let Ok(batch) = self.0.batches.find(&sandbox.facts().tenant, id)
                && !batch.state.lock().members.contains_key(&sandbox.id())
            {
                batch.join(sandbox.id());
            }
        }
        let dir = self.0.batches.dir.clone();
        self.0.tasks.spawn_blocking(move || {
            for id in deleted {
                if let Err(error) = keeping::forget(&dir, id) {
                    tracing::error!(batch = %id, "{error}");
                }
            }
        });
    }

    /// All batches are gone, with their files. For when no gateway runs.
    pub(in crate::sandbox) fn forget_batches(&self) -> Result<(), Error> {
        let dir = &self.0.batches.dir;
        let (found, deleted) = keeping::load(dir)?;
        let ids = found.iter().map(|batch| batch.id).chain(deleted);
        ids.into_iter().try_for_each(|id| keeping::forget(dir, id))
    }

    /// Goes on with the batches of the gateway before, and forgets those that are long over; never
    /// returns.
    pub(in crate::sandbox) async fn keep_batches(&self) {
        let found: Vec<Arc<Batch>> = self.0.batches.all.read().values().cloned().collect();
        for batch in found {
            self.go_on_with(&batch);
        }
        loop {
            sleep(LOOK).await;
            let all: Vec<Arc<Batch>> = self.0.batches.all.read().values().cloned().collect();
            for batch in all {
                let old = batch.asked.expires_at + REMEMBERED < Utc::now();
                if old
                    && self.members_of(&batch).is_empty()
                    && let Err(error) = self.forget_batch(&batch).await
                {
                    tracing::error!(batch = %batch.id, "{error}");
                }
            }
        }
    }

    fn go_on_with(&self, batch: &Arc<Batch>) {
        let members: Vec<_> = batch.state.lock().members.clone().into_iter().collect();
        for (id, member) in members {
            let Some(task) = member.task.filter(|task| !task.is_over()) else { continue };
            match self.0.registry.present(id) {
                Some(sandbox) => self.begin_task(batch, sandbox, true),
                None => self.note(batch, |state| {
                    if let Some(member) = state.members.get_mut(&id) {
                        member.task = Some(task.of_one_that_ended());
                    }
                }),
            }
        }
        if batch.lacking() > 0 {
            tokio::spawn(self.clone().drive(batch.clone()));
        }
    }
}
