//! Making sandboxes; how they are prolonged and end is in files of their own.
//!
//! Every transition runs in a task of its own: a client that hangs up half-way changes nothing.

use std::{
    collections::BTreeMap,
    io,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::Utc;
use tokio::{sync::Semaphore, time};
use tokio_util::task::TaskTracker;

use super::{
    Error, Facts, Inside, Phase, PoolRules, Registry, Sandbox, SandboxId,
    deadlines::Deadlines,
    pool::{Pool, Shape},
    registry::Reservation,
    renewal::after,
    repeats::{Repeats, Ticket, Turn},
    trash::Trash,
};
use crate::{
    backend::{self, Backend, Cell, CellSpec, NetworkMode},
    metrics::Metrics,
    template::{FindError, Template},
};

/// Memory (bytes) a sandbox has taken by the time its envd answers, rounded up well: of those
/// that are being made the system's figure does not tell yet.
pub(super) const TAKEN_AT_FIRST: u64 = 16 << 20;

/// For a turn to be made. Clients give up after a minute, and are to hear of it before.
const TURN: Duration = Duration::from_secs(30);

/// What is left of an ended sandbox is normally removed in far less.
const ENDING: Duration = Duration::from_secs(1);

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub template: String,
    pub timeout: Duration,
    pub allow_internet_access: Option<bool>,
    pub metadata: BTreeMap<String, String>,
    pub env_vars: BTreeMap<String, String>,
    /// To be paused at its deadline rather than ended.
    pub auto_pause: bool,
    /// To be woken, when it is paused, by whoever sends it something.
    pub auto_resume: bool,
}

/// What the operator allows.
#[derive(Clone, Debug)]
pub struct Rules {
    /// At once, from being made to being gone.
    pub max_sandboxes: usize,
    /// Memory (bytes) of the host that is left alone.
    pub memory_headroom: u64,
    /// The longest a sandbox may run without a pause.
    pub max_life: Duration,
    /// For sandboxes that do not say.
    pub network: NetworkMode,
    /// What is kept ready.
    pub pool: PoolRules,
}

/// Which template a name means at present.
pub type FindTemplate = Box<dyn Fn(&str) -> Result<Arc<Template>, FindError> + Send + Sync>;

/// The kernel half of a sandbox that is about to be one.
pub(super) struct Made {
    pub(super) dir: PathBuf,
    pub(super) cell: Cell,
    pub(super) envd_token: String,
    pub(super) from_pool: bool,
}

/// All a gateway does with sandboxes; cheap to clone.
#[derive(Clone)]
pub struct Sandboxes(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) registry: Arc<Registry>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) metrics: Arc<Metrics>,
    /// `<data-dir>/sandboxes`.
    pub(super) home: PathBuf,
    pub(super) deadlines: Deadlines,
    pub(super) trash: Trash,
    find_template: FindTemplate,
    pub(super) inside: Box<dyn Inside>,
    pub(super) rules: Rules,
    pub(super) pool: Pool,
    repeats: Arc<Repeats>,
    /// Turns to be made: more at once only get into each other's way in the kernel.
    making: Semaphore,
    /// Transitions and record writes under way.
    pub(super) tasks: TaskTracker,
    pub(super) stopping: AtomicBool,
}

/// As many as there are cores: making one is all work and no waiting.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(2, NonZero::get)
}

impl Sandboxes {
    /// Sandboxes under `data_dir`, whose `sandboxes/` and `trash/` exist. Nothing of before is
    /// there until [`Self::adopt_all`].
    pub fn new(
        data_dir: &Path,
        backend: Arc<dyn Backend>,
        rules: Rules,
        find_template: FindTemplate,
        inside: Box<dyn Inside>,
    ) -> Self {
        Self(Arc::new(Shared {
            registry: Arc::new(Registry::default()),
            backend,
            metrics: Arc::default(),
            home: data_dir.join("sandboxes"),
            deadlines: Deadlines::default(),
            trash: Trash::new(data_dir.join("trash")),
            find_template,
            inside,
            rules,
            pool: Pool::default(),
            repeats: Arc::default(),
            making: Semaphore::new(at_once()),
            tasks: TaskTracker::new(),
            stopping: AtomicBool::new(false),
        }))
    }

    pub fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }

    /// What happens to them is counted there.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    pub fn running(&self, id: SandboxId) -> Result<Arc<Sandbox>, Error> {
        self.0.registry.running(id).ok_or(Error::NotFound(id))
    }

    /// Running or paused.
    pub fn present(&self, id: SandboxId) -> Result<Arc<Sandbox>, Error> {
        self.0.registry.present(id).ok_or(Error::NotFound(id))
    }

    /// What a sandbox of that template would be made from now.
    pub fn template(&self, name: &str) -> Result<Arc<Template>, Error> {
        let found = (self.0.find_template)(name);
        found.map_err(|source| Error::Template { name: name.to_owned(), source })
    }

    /// Makes a sandbox and returns when its envd answers. The same `key` again gives the same
    /// sandbox, or a new one when that has ended.
    pub async fn create(&self, wanted: Wanted, key: Option<&str>) -> Result<Arc<Sandbox>, Error> {
        let Some(key) = key else { return self.spawn_create(wanted, None).await };
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
                            Ok(_) => return Ok(self.connect(id, wanted.timeout).await?.0),
                            Err(_) => self.0.repeats.forget(key, id),
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
        let sandboxes = self.clone();
        let began = Instant::now();
        let task = self.0.tasks.spawn(async move {
            let made = sandboxes.make(wanted).await;
            match &made {
                Ok(_) => sandboxes.0.metrics.create_succeeded(began.elapsed()),
                Err(error) => sandboxes.0.metrics.create_failed(error),
            }
            let sandbox = made?;
            if let Some(ticket) = ticket {
                ticket.settle(sandbox.id());
            }
            Ok(sandbox)
        });
        task.await.map_err(|e| Error::BrokenOff(e.to_string()))?
    }

    async fn make(&self, wanted: Wanted) -> Result<Arc<Sandbox>, Error> {
        let template = self.template(&wanted.template)?;
        let shape = self.shape(template, wanted.allow_internet_access);
        if let Some(sandbox) = self.take(&shape, &wanted).await? {
            return Ok(sandbox);
        }
        let id = SandboxId::random();
        let place = self.admit(id).await?;
        let envd_token = token()?;
        let dir = self.0.home.join(id.to_string());
        let init = shape.init(wanted.env_vars.clone(), envd_token.clone());
        let cell = match self.make_cell(&dir, shape.spec(id, init)).await {
            Ok(cell) => cell,
            Err(error) => {
                self.discard(place, dir);
                return Err(error);
            }
        };
        let made = Made { dir, cell, envd_token, from_pool: false };
        self.finish(place, &shape, &wanted, made).await
    }

    /// Makes a sandbox's directory and its kernel half.
    pub(super) async fn make_cell(&self, dir: &Path, spec: CellSpec) -> Result<Cell, Error> {
        let turn = time::timeout(TURN, self.0.making.acquire()).await;
        let _turn = turn.map_err(|_| Error::Busy(TURN))?.expect("is never closed");
        tokio::fs::DirBuilder::new()
            .mode(0o700)
            .create(dir)
            .await
            .map_err(|e| Error::io("cannot make", dir, e))?;
        Ok(self.0.backend.create(spec).await?)
    }

    /// From here on it is a sandbox: its record is written and it is visible.
    pub(super) async fn finish(
        &self,
        place: Reservation,
        shape: &Shape,
        wanted: &Wanted,
        made: Made,
    ) -> Result<Arc<Sandbox>, Error> {
        let id = place.id();
        let started_at = Utc::now();
        let facts = Facts {
            id,
            template: Template::clone(&shape.template),
            limits: shape.limits,
            network: shape.network,
            allow_internet_access: wanted.allow_internet_access,
            metadata: wanted.metadata.clone(),
            env_vars: wanted.env_vars.clone(),
            started_at,
            envd_token: made.envd_token,
            from_pool: made.from_pool,
            auto_pause: wanted.auto_pause,
            auto_resume: wanted.auto_resume,
            timeout: wanted.timeout.as_secs().max(1),
        };
        let sandbox = Arc::new(Sandbox::new(facts, made.dir, after(started_at, wanted.timeout)));
        if let Err(error) = self.record(&sandbox).await {
            self.discard(place, sandbox.dir().to_owned());
            return Err(error);
        }
        if let Err(place) = place.fill(&sandbox) {
            self.discard(place, sandbox.dir().to_owned());
            return Err(Error::EndedInCreation(id));
        }
        self.begin(&sandbox, &made.cell);
        let template = &shape.template.id;
        tracing::info!(sandbox = %id, template, pooled = made.from_pool, "created");
        Ok(sandbox)
    }

    async fn admit(&self, id: SandboxId) -> Result<Reservation, Error> {
        let place = self.place(id).await?;
        // With its place taken: of many that come at once, each sees the others.
        if self.check_memory().is_err() {
            self.give_way().await;
            self.check_memory()?;
        }
        Ok(place)
    }

    /// A place among as many as may be. What is in the pool takes none.
    pub(super) async fn place(&self, id: SandboxId) -> Result<Reservation, Error> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(Error::Stopping);
        }
        let most = self.0.rules.max_sandboxes;
        let place = self.0.registry.reserve_soon(id, most, ENDING).await;
        place.ok_or_else(|| Error::Full(format!("there are {most}, as many as may be")))
    }

    fn check_memory(&self) -> Result<(), Error> {
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

    pub(super) fn shape(
        &self,
        template: Arc<Template>,
        allow_internet_access: Option<bool>,
    ) -> Shape {
        Shape {
            limits: template.limits,
            template,
            network: match allow_internet_access {
                Some(false) => NetworkMode::None,
                Some(true) if self.0.rules.network == NetworkMode::None => NetworkMode::Nat,
                Some(true) | None => self.0.rules.network,
            },
        }
    }

    /// What every sandbox that has just become visible needs.
    pub(super) fn begin(&self, sandbox: &Arc<Sandbox>, cell: &Cell) {
        self.0.deadlines.watch(sandbox.id(), &sandbox.life);
        self.end_with_its_cell(sandbox.clone(), cell.ended.clone());
        self.0.inside.follow(sandbox.clone(), &self.0.metrics);
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
    use crate::sandbox::testing::{self, bed};

    #[tokio::test]
    async fn a_sandbox_is_made_with_its_record_and_killed_without_a_trace() {
        let bed = bed(testing::rules());
        let mut wanted = testing::wanted();
        wanted.env_vars.insert("LANG".into(), "de".into());
        wanted.allow_internet_access = Some(false);
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
        *bed.backend.create_takes.lock() = TURN * 2;
        let creates = (0..many).map(|_| bed.sandboxes.create(testing::wanted(), None));
        let began = time::Instant::now();
        let late = async {
            time::sleep(Duration::from_secs(1)).await;
            let late = bed.sandboxes.create(testing::wanted(), Some("k")).await;
            assert!(matches!(late, Err(Error::Busy(_))), "{:?}", late.map(|it| it.id()));
            assert!(began.elapsed() < TURN * 2, "{:?}", began.elapsed());
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
            tokio::time::sleep(Duration::from_millis(50)).await;
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
        let place = bed.sandboxes.admit(id).await.unwrap();
        let kill = tokio::spawn({
            let sandboxes = bed.sandboxes.clone();
            async move { sandboxes.kill(id).await }
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!kill.is_finished());
        let facts = Facts { id, ..testing::facts() };
        let sandbox = Arc::new(Sandbox::new(facts, bed.dir.path().join("x"), Utc::now()));
        assert!(place.fill(&sandbox).is_err());
        kill.await.unwrap().unwrap();
        assert!(bed.sandboxes.running(id).is_err());
    }
}
