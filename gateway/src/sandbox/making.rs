//! Making sandboxes, one after the other as fast as the host can; how they go on and end is in files
//! of their own.
//!
//! Each is made in a task of its own: a client that hangs up half-way changes nothing.

use std::{
    io,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use chrono::Utc;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time,
};

use super::{
    Error, Facts, Owner, Phase, Reason, Sandbox, SandboxId, Sandboxes, Wanted,
    pool::{PoolId, Shape},
    registry::{NoPlace, Reservation},
    renewal::after,
    repeats::{Ticket, Turn},
    steps::{CREATE, step},
};
use crate::{
    backend::{self, Cell, CellSpec},
    metrics::Denied,
    template::{FindError, Template},
};

/// Memory (bytes) a sandbox has taken by the time its envd answers, rounded up well: of those
/// that are being made the system's figure does not tell yet.
pub(super) const TAKEN_AT_FIRST: u64 = 16 << 20;

/// For a turn to be made. Clients give up after a minute, and are to hear of it before.
const TURN: Duration = Duration::from_secs(30);

/// What is left of an ended sandbox is normally removed in far less.
const ENDING: Duration = Duration::from_secs(1);

/// The kernel half of a sandbox that is about to be one.
pub(super) struct Made {
    pub(super) dir: PathBuf,
    pub(super) cell: Cell,
    pub(super) envd_token: String,
    /// Where it waited, if it did.
    pub(super) pool: Option<PoolId>,
}

/// How a sandbox came to be made.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// When it was asked for.
    pub(super) began: Instant,
    /// Whose files it has.
    pub(super) forked_from: Option<SandboxId>,
}

/// As many as there are cores: making one is all work and no waiting.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get)
}

/// To be made.
pub(super) fn turns() -> Semaphore {
    Semaphore::new(at_once())
}

impl Sandboxes {
    /// Makes a sandbox and returns when its envd answers. The same `key` again gives the same
    /// sandbox, or a new one when that has ended.
    pub async fn create(&self, wanted: Wanted, key: Option<&str>) -> Result<Arc<Sandbox>, Error> {
        let Some(key) = key else { return self.spawn_create(wanted, None).await };
        let tenant = wanted.owner.tenant.clone();
        loop {
            match self.0.repeats.turn(key, &wanted, Instant::now()) {
                Turn::First(ticket) => return self.spawn_create(wanted, Some(ticket)).await,
                Turn::Different => return Err(Error::KeyReused),
                Turn::Again(mut outcome) => {
                    // Without a sandbox the first one failed, and its key is free.
                    let made = outcome.wait_for(Option::is_some).await.ok().and_then(|id| *id);
                    if let Some(id) = made {
                        // It is to run, as if it had just been made.
                        match self.present(id) {
                            Ok(sandbox) if sandbox.phase() == Phase::Running => {
                                return Ok(sandbox);
                            }
                            Ok(_) => return Ok(self.connect(id, wanted.timeout, true).await?.0),
                            Err(_) => self.0.repeats.forget(&tenant, key, id),
                        }
                    }
                }
            }
        }
    }

    async fn spawn_create(
        &self,
        wanted: Wanted,
        ticket: Option<Ticket>,
    ) -> Result<Arc<Sandbox>, Error> {
        self.is_not_too_often(&wanted.owner, 1)?;
        let sandboxes = self.clone();
        let began = Instant::now();
        let task = self.0.tasks.spawn(async move {
            let (tenant, template) = (wanted.owner.tenant.clone(), wanted.template.clone());
            let made = sandboxes.make(wanted, Asked { began, forked_from: None }).await;
            if let Err(error) = &made {
                sandboxes.tell_not_made(tenant, &template, error);
            }
            let sandbox = made?;
            if let Some(ticket) = ticket {
                ticket.settle(sandbox.id());
            }
            Ok(sandbox)
        });
        task.await.map_err(|e| Error::BrokenOff(e.to_string()))?
    }

    pub(super) async fn make(&self, wanted: Wanted, asked: Asked) -> Result<Arc<Sandbox>, Error> {
        let template = self.template(&wanted.owner.tenant, &wanted.template)?;
        // Held until the sandbox holds them itself.
        let Some(_hold) = self.0.snapshots.hold(&template.layers) else {
            let source = FindError::Unknown;
            return Err(Error::Template { name: wanted.template, source });
        };
        let shape = self.shape(template, &wanted.policy, &wanted.limits, &wanted.owner.quota)?;
        if let Some(sandbox) = self.take(&shape, &wanted, asked).await? {
            return Ok(sandbox);
        }
        self.make_of(&shape, &wanted, asked).await
    }

    /// Makes a sandbox of that shape, of which the snapshots are held.
    pub(super) async fn make_of(
        &self,
        shape: &Shape,
        wanted: &Wanted,
        asked: Asked,
    ) -> Result<Arc<Sandbox>, Error> {
        let id = SandboxId::random();
        let place = self.admit(id, &wanted.owner).await?;
        let envd_token = token()?;
        let dir = self.0.home.join(id.to_string());
        let init = shape.init(wanted.env_vars.clone(), envd_token.clone());
        let filter = wanted.policy.filter(self.0.rules.network);
        let spec = CellSpec { filter, ..shape.spec(id, init) };
        let cell = match self.make_cell(&dir, spec).await {
            Ok(cell) => cell,
            Err(error) => {
                self.discard(place, dir, error.reason());
                return Err(error);
            }
        };
        let made = Made { dir, cell, envd_token, pool: None };
        self.finish(place, shape, wanted, made, asked).await
    }

    pub(super) async fn turn_to_make(&self) -> Result<SemaphorePermit<'_>, Error> {
        let turn = time::timeout(TURN, self.0.making.acquire()).await;
        Ok(turn.map_err(|_| Error::Busy(TURN))?.expect("is never closed"))
    }

    /// Makes a sandbox's directory and its kernel half.
    pub(super) async fn make_cell(&self, dir: &Path, spec: CellSpec) -> Result<Cell, Error> {
        let _turn = self.turn_to_make().await?;
        tokio::fs::DirBuilder::new()
            .mode(0o700)
            .create(dir)
            .await
            .map_err(|e| Error::io("cannot make", dir, e))?;
        step("the making of a sandbox", CREATE, self.0.backend.create(spec)).await
    }

    /// From here on it is a sandbox: its record is written and it is visible.
    pub(super) async fn finish(
        &self,
        place: Reservation,
        shape: &Shape,
        wanted: &Wanted,
        made: Made,
        asked: Asked,
    ) -> Result<Arc<Sandbox>, Error> {
        let id = place.id();
        let started_at = Utc::now();
        let facts = Facts {
            id,
            tenant: wanted.owner.tenant.clone(),
            template: Template::clone(&shape.template),
            limits: shape.limits,
            network: self.0.rules.network,
            ingress: wanted.ingress.clone(),
            traffic_token: if wanted.ingress.public { None } else { Some(token()?) },
            metadata: wanted.metadata.clone(),
            env_vars: wanted.env_vars.clone(),
            started_at,
            envd_token: made.envd_token,
            from_pool: made.pool.is_some(),
            pool: made.pool,
            batch: wanted.batch,
            auto_pause: wanted.auto_pause,
            auto_resume: wanted.auto_resume,
            auto_pause_filesystem: wanted.auto_pause_filesystem,
            timeout: wanted.timeout.as_secs().max(1),
            tariff: self.0.rules.tariff,
        };
        place.life().plan(started_at, after(started_at, wanted.timeout));
        let sandbox = Sandbox::planned(facts, made.dir, place.life());
        let sandbox = Arc::new(sandbox.under(wanted.policy.clone()));
        self.settle(&sandbox);
        if let Err(error) = self.record(&sandbox).await {
            self.discard(place, sandbox.dir().to_owned(), error.reason());
            return Err(error);
        }
        // What was deleted gets no more sandboxes.
        let unwanted = wanted.batch.is_some_and(|batch| !self.0.batches.goes_on(batch));
        if unwanted {
            self.discard(place, sandbox.dir().to_owned(), Reason::User);
            return Err(Error::EndedInCreation(id));
        }
        self.tell_created(&sandbox, asked);
        let tell = || self.tell_started(&sandbox, asked);
        if let Err(place) = place.fill(&sandbox, tell) {
            self.discard(place, sandbox.dir().to_owned(), Reason::User);
            return Err(Error::EndedInCreation(id));
        }
        self.begin(&sandbox, Some(&made.cell));
        let template = &shape.template.id;
        tracing::info!(sandbox = %id, template, pooled = made.pool.is_some(), "created");
        Ok(sandbox)
    }

    async fn admit(&self, id: SandboxId, owner: &Owner) -> Result<Reservation, Error> {
        let place = self.place(id, owner).await?;
        // With its place taken: of many that come at once, each sees the others.
        if self.check_memory().is_err() {
            self.give_way().await;
            self.check_memory()?;
        }
        Ok(place)
    }

    /// Takes note that so many are wanted at once.
    pub(super) fn is_not_too_often(&self, owner: &Owner, count: usize) -> Result<(), Error> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.0.rates.take(owner, count, Instant::now())
    }

    /// A place among as many as may be. What is in the pool takes none.
    pub(super) async fn place(&self, id: SandboxId, owner: &Owner) -> Result<Reservation, Error> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(Error::Stopping);
        }
        let most = self.0.rules.max_sandboxes;
        let place = self.0.registry.reserve_soon(id, owner, most, ENDING).await;
        place.map_err(|refused| match refused {
            NoPlace::Full => Error::Full(format!("there are {most}, as many as may be")),
            NoPlace::Quota => {
                self.0.metrics.denied(Denied::Limit);
                let most = owner.quota.max_sandboxes.unwrap_or_default();
                Error::Quota { tenant: owner.tenant.clone(), most }
            }
        })
    }

    pub(super) fn check_memory(&self) -> Result<(), Error> {
        let headroom = self.0.rules.memory_headroom;
        let needed = needed_memory(headroom, self.0.registry.being_made());
        match backend::available_memory() {
            Some(available) if available < needed => Err(Error::Full(format!(
                "{} MiB of memory are available, {} MiB are needed for those being made and what \
                 is kept free",
                available >> 20,
                needed >> 20
            ))),
            _ => Ok(()),
        }
    }

    /// What every sandbox that has just become visible needs.
    pub(super) fn begin(&self, sandbox: &Arc<Sandbox>, cell: Option<&Cell>) {
        self.watch(sandbox);
        if let Some(cell) = cell {
            self.end_with_its_cell(sandbox.clone(), cell.ended.clone());
        }
        self.0.inside.follow(sandbox.clone(), &self.0.metrics, &self.0.events);
        self.0.pool.stir();
    }
}

/// What has to be available for `being_made` sandboxes to be made.
fn needed_memory(headroom: u64, being_made: usize) -> u64 {
    headroom.saturating_add(TAKEN_AT_FIRST.saturating_mul(being_made as u64))
}

/// What only the sandbox's owner knows.
pub(super) fn token() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|e| {
        Error::io("cannot read", "the random number generator", io::Error::other(e))
    })?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::{
        backend::NetworkMode,
        network::NetworkPolicy,
        sandbox::{
            Rules,
            testing::{self, bed},
        },
    };

    #[tokio::test]
    async fn a_sandbox_is_made_with_its_record_and_killed_without_a_trace() {
        let bed = bed(testing::rules());
        let mut wanted = testing::wanted();
        wanted.env_vars.insert("LANG".into(), "de".into());
        wanted.policy = NetworkPolicy::of_access(Some(false));
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        let spec = bed.backend.specs.lock()[0].clone();
        assert_eq!(spec.network, NetworkMode::None);
        assert_eq!(spec.init.env_vars.unwrap()["LANG"], "de");
        assert_eq!(spec.init.access_token.as_deref(), Some(sandbox.envd_token()));
        assert_eq!(sandbox.envd_token().len(), 64);
        assert!(sandbox.dir().join("sandbox.json").exists());
        std::fs::write(sandbox.dir().join("layer"), "x").unwrap();

        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        assert!(sandbox.cut().is_cancelled() && sandbox.ends_at().is_none());
        let again = bed.sandboxes.kill(sandbox.id()).await;
        assert!(matches!(again, Err(Error::NotFound(_))), "{again:?}");
        bed.until_nothing_is_left().await;
    }

    #[tokio::test]
    async fn no_more_are_made_at_once_than_there_are_cores_and_each_has_its_turn() {
        let many = at_once() + 3;
        let bed = bed(Rules { max_sandboxes: many, ..testing::rules() });
        *bed.backend.create_takes.lock() = Duration::from_millis(50);
        let creates = (0..many).map(|_| bed.sandboxes.create(testing::wanted(), None));
        let made = futures_util::future::join_all(creates).await;
        assert!(made.iter().all(Result::is_ok));
        assert_eq!(bed.backend.most_creating.load(SeqCst), at_once());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_no_turn_in_time_is_told_and_nothing_of_it_was_made() {
        let many = at_once();
        let bed = bed(Rules { max_sandboxes: many + 1, ..testing::rules() });
        *bed.backend.create_takes.lock() = TURN * 3 / 2;
        let creates = (0..many).map(|_| bed.sandboxes.create(testing::wanted(), None));
        let began = time::Instant::now();
        let late = async {
            time::sleep(Duration::from_secs(1)).await;
            let late = bed.sandboxes.create(testing::wanted(), Some("k")).await;
            assert!(matches!(late, Err(Error::Busy(_))), "{:?}", late.map(|it| it.id()));
            assert!(began.elapsed() < TURN * 3 / 2, "{:?}", began.elapsed());
            assert_eq!(bed.left("sandboxes"), many);
        };
        let (made, ()) = tokio::join!(futures_util::future::join_all(creates), late);
        assert!(made.iter().all(Result::is_ok));
        assert_eq!(bed.backend.specs.lock().len(), many);
        // It gave its place back.
        bed.sandboxes.create(testing::wanted(), Some("k")).await.unwrap();
    }

    #[tokio::test]
    async fn a_create_that_fails_leaves_nothing_and_gives_its_place_back() {
        let bed = bed(Rules { max_sandboxes: 1, ..testing::rules() });
        bed.backend.failing_creates.store(1, SeqCst);
        let failed = bed.sandboxes.create(testing::wanted(), Some("k")).await;
        assert!(matches!(failed, Err(Error::Backend(_))));
        bed.until_nothing_is_left().await;
        bed.sandboxes.create(testing::wanted(), Some("k")).await.unwrap();
        let full = bed.sandboxes.create(testing::wanted(), None).await;
        assert!(matches!(full, Err(Error::Full(_))));
    }

    #[tokio::test]
    async fn a_create_that_cannot_be_undone_is_answered_at_once_and_keeps_its_place_till_it_is() {
        let bed = bed(Rules { max_sandboxes: 1, ..testing::rules() });
        bed.backend.failing_creates.store(1, SeqCst);
        // So many that trying again for ever would not be over within the test.
        bed.backend.failing_destroys.store(1000, SeqCst);
        let create = bed.sandboxes.create(testing::wanted(), None);
        let failed = tokio::time::timeout(Duration::from_secs(5), create).await.unwrap();
        assert!(matches!(failed, Err(Error::Backend(_))));
        let full = bed.sandboxes.create(testing::wanted(), None).await;
        assert!(matches!(full, Err(Error::Full(_))));
        assert_eq!(
            bed.left("sandboxes"),
            1,
            "its directory is there until its kernel half is gone"
        );
        bed.backend.failing_destroys.store(0, SeqCst);
        bed.until_nothing_is_left().await;
        bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    }

    #[tokio::test]
    async fn a_create_whose_record_cannot_be_written_is_answered_at_once() {
        let bed = bed(testing::rules());
        *bed.backend.create_takes.lock() = Duration::from_millis(200);
        let create = bed.sandboxes.create(testing::wanted(), None);
        let in_the_way = async {
            testing::until(|| bed.left("sandboxes") == 1).await;
            let home = bed.dir.path().join("sandboxes");
            let dir = std::fs::read_dir(home).unwrap().next().unwrap().unwrap().path();
            std::fs::create_dir(dir.join(".sandbox.json")).unwrap();
            bed.backend.failing_destroys.store(1000, SeqCst);
        };
        let both = async { tokio::join!(create, in_the_way) };
        let (failed, ()) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
        assert!(matches!(failed, Err(Error::Io { .. })));
        assert_eq!(bed.backend.cells.lock().len(), 1);
        bed.backend.failing_destroys.store(0, SeqCst);
        bed.until_nothing_is_left().await;
    }

    #[tokio::test]
    async fn a_repeat_whose_sandbox_has_ended_gets_a_new_one() {
        let bed = bed(testing::rules());
        let first = bed.sandboxes.create(testing::wanted(), Some("k")).await.unwrap().id();
        bed.sandboxes.kill(first).await.unwrap();
        let (a, b) = tokio::join!(
            bed.sandboxes.create(testing::wanted(), Some("k")),
            bed.sandboxes.create(testing::wanted(), Some("k"))
        );
        let (a, b) = (a.unwrap().id(), b.unwrap().id());
        assert_eq!(a, b);
        assert_ne!(a, first);
    }

    #[test]
    fn each_sandbox_being_made_asks_for_memory_that_the_host_still_shows_as_available() {
        let headroom = 256 << 20;
        assert_eq!(needed_memory(headroom, 1), headroom + (16 << 20));
        assert_eq!(needed_memory(headroom, 10), headroom + (160 << 20));
        assert_eq!(needed_memory(u64::MAX, 1), u64::MAX);
    }

    #[tokio::test]
    async fn a_host_short_of_memory_admits_nobody() {
        let bed = bed(Rules { memory_headroom: u64::MAX, ..testing::rules() });
        let full = bed.sandboxes.create(testing::wanted(), None).await;
        assert!(matches!(full, Err(Error::Full(_))));
        assert!(bed.backend.specs.lock().is_empty());
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_and_comes_again_finds_the_sandbox_of_the_first_time() {
        let bed = bed(testing::rules());
        *bed.backend.create_takes.lock() = Duration::from_millis(100);
        let create = bed.sandboxes.create(testing::wanted(), Some("k"));
        let hung_up = tokio::time::timeout(Duration::from_millis(20), create).await;
        assert!(hung_up.is_err());
        let (a, b) = tokio::join!(
            bed.sandboxes.create(testing::wanted(), Some("k")),
            bed.sandboxes.create(testing::wanted(), Some("k"))
        );
        assert_eq!(a.unwrap().id(), b.unwrap().id());
        assert_eq!(bed.backend.specs.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_kill_wins_over_a_create_under_way() {
        let bed = bed(testing::rules());
        let id = SandboxId::random();
        let place = bed.sandboxes.admit(id, &Owner::default()).await.unwrap();
        let kill = tokio::spawn({
            let sandboxes = bed.sandboxes.clone();
            async move { sandboxes.kill(id).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!kill.is_finished());
        let facts = Facts { id, ..testing::facts() };
        let sandbox = Sandbox::planned(facts, bed.dir.path().join("x"), place.life());
        let sandbox = Arc::new(sandbox);
        assert!(place.fill(&sandbox, || {}).is_err());
        kill.await.unwrap().unwrap();
        assert!(bed.sandboxes.running(id).is_err());
    }
}
