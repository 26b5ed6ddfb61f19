//! Pools that operators make while the gateway runs, beside those of its settings.
//!
//! Each has a file, `<data-dir>/pools/<id>.json`, which is on the disk before anybody is told: the
//! next gateway fills the same pools again. What is deleted has no file any more before its entries
//! are ended. Sandboxes that were taken go on, whatever becomes of their pool.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io,
    ops::ControlFlow,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Capacity, Entries, Pool, PoolCount, Shape};
use crate::{
    limits::Bounds,
    network::NetworkPolicy,
    sandbox::{Error, Facts, Phase, Quota, SandboxId, Sandboxes, Shelf, Tenant, record},
    template::FindError,
};

/// Of a pool; one of the settings has the same in every run.
pub type PoolId = SandboxId;

/// That operators may make.
const MOST: usize = 100;
/// A larger file is none of ours.
const MAX_BYTES: u64 = 1 << 16;
const VERSION: u32 = 1;

/// What a pool is to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSpec {
    pub id: PoolId,
    pub name: String,
    /// Its name.
    pub template: String,
    /// What each of its sandboxes may use at most, as [`Bounds::parse`] reads it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub limits: String,
    /// Without it, what the gateway is configured for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_internet_access: Option<bool>,
    pub capacity: Capacity,
    pub created_at: DateTime<Utc>,
    /// It is the gateway's settings that say so.
    #[serde(skip)]
    pub of_settings: bool,
}

/// What an operator asks for.
#[derive(Clone, Debug)]
pub struct NewPool {
    pub name: String,
    pub template: String,
    pub limits: String,
    pub allow_internet_access: Option<bool>,
    pub capacity: Capacity,
}

/// A pool as it stands.
#[derive(Clone, Debug)]
pub struct SeenPool {
    pub spec: Arc<PoolSpec>,
    pub count: PoolCount,
    /// How many of all are of the version of the template that entries are made from now.
    pub updated: usize,
    /// Tells that version from others; `None` while there is no such template.
    pub revision: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    #[serde(flatten)]
    spec: PoolSpec,
}

impl PoolSpec {
    /// One of the settings.
    fn of_settings(template: &str, size: usize, began: DateTime<Utc>) -> Self {
        let digest = blake3::hash(format!("pool of the settings: {template}").as_bytes());
        let id = hex::encode(&digest.as_bytes()[..16]).parse();
        Self {
            id: id.expect("so many digits are an id"),
            name: template.to_owned(),
            template: template.to_owned(),
            limits: String::new(),
            allow_internet_access: None,
            capacity: Capacity::waiting(size),
            created_at: began,
            of_settings: true,
        }
    }

    /// Whether that sandbox was taken from it.
    fn gave(&self, facts: &Facts) -> bool {
        match facts.pool {
            Some(pool) => pool == self.id,
            // One of a gateway that knew those of settings alone.
            None => facts.from_pool && self.of_settings && facts.template.id == self.template,
        }
    }
}

impl Pool {
    /// With those of the settings; `dir` holds the others.
    pub(in crate::sandbox) fn new(dir: PathBuf, sizes: &BTreeMap<String, usize>) -> Self {
        let began = Utc::now();
        let sized = sizes.iter().filter(|(_, size)| **size > 0);
        let specs = sized.map(|(name, size)| PoolSpec::of_settings(name, *size, began));
        let specs = specs.map(|spec| (spec.id, Arc::new(spec))).collect();
        let entries = Entries { specs, ..Entries::default() };
        Self { dir, entries: entries.into(), ..Self::default() }
    }

    pub(super) fn specs(&self) -> Vec<Arc<PoolSpec>> {
        self.entries.lock().specs.values().cloned().collect()
    }

    /// By its name or its id; of two of a name that of the settings.
    fn named(&self, name: &str) -> Option<Arc<PoolSpec>> {
        let specs = self.specs();
        let by_id = name.parse::<PoolId>().ok();
        let by_id = by_id.and_then(|id| specs.iter().find(|spec| spec.id == id));
        let mut named = specs.iter().filter(|spec| spec.name == name);
        let named = || named.clone().find(|spec| spec.of_settings).or_else(|| named.next());
        by_id.or_else(named).cloned()
    }

    fn path(&self, id: PoolId) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

impl Sandboxes {
    /// Goes on with the pools of the gateway before. To be called once, before the pool is kept.
    pub(in crate::sandbox) fn load_pools(&self) -> Result<(), Error> {
        let pool = &self.0.pool;
        let failed = |source| Error::io("cannot read", &pool.dir, source);
        let found = match fs::read_dir(&pool.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(failed)?,
        };
        for entry in found {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(spec) => drop(pool.entries.lock().specs.insert(spec.id, Arc::new(spec))),
                Err(error) => tracing::error!("pool: {} is left alone: {error}", path.display()),
            }
        }
        Ok(())
    }

    /// All there are, by their names.
    pub fn pools(&self) -> Vec<SeenPool> {
        let mut specs = self.0.pool.specs();
        specs.sort_by(|a, b| (&a.name, !a.of_settings).cmp(&(&b.name, !b.of_settings)));
        self.see_pools(specs)
    }

    /// The one of that name or id.
    pub fn see_pool(&self, name: &str) -> Result<SeenPool, Error> {
        let spec = self.0.pool.named(name).ok_or_else(|| Error::NoPool(name.to_owned()))?;
        self.see_pools(vec![spec]).pop().ok_or_else(|| Error::NoPool(name.to_owned()))
    }

    /// When it returns, the next gateway would fill it too.
    pub async fn make_pool(&self, new: NewPool) -> Result<SeenPool, Error> {
        let NewPool { name, template, limits, allow_internet_access, capacity } = new;
        let (id, created_at) = (PoolId::random(), Utc::now());
        let spec = PoolSpec {
            id,
            name,
            template,
            limits,
            allow_internet_access,
            capacity,
            created_at,
            of_settings: false,
        };
        match self.shape_of(&spec) {
            // It is filled when there is its template.
            Err(Error::Template { source, .. }) if !matches!(source, FindError::Unknown) => {}
            found => drop(found?),
        }
        let sandboxes = self.clone();
        self.in_task(async move {
            let pool = &sandboxes.0.pool;
            let _turn = pool.changing.lock().await;
            let specs = pool.specs();
            if specs.iter().any(|known| known.name == spec.name) {
                return Err(Error::PoolNameTaken(spec.name));
            }
            if specs.iter().filter(|known| !known.of_settings).count() >= MOST {
                return Err(Error::TooManyPools(MOST));
            }
            sandboxes.put_pool(spec).await?;
            tracing::info!(pool = %id, "pool: made");
            sandboxes.see_pool(&id.to_string())
        })
        .await
    }

    /// Has a pool be as large as that from now on.
    pub async fn set_pool(&self, name: &str, capacity: Capacity) -> Result<SeenPool, Error> {
        let (sandboxes, name) = (self.clone(), name.to_owned());
        self.in_task(async move {
            let _turn = sandboxes.0.pool.changing.lock().await;
            let before = sandboxes.changeable(&name)?;
            let id = before.id;
            sandboxes.put_pool(PoolSpec { capacity, ..PoolSpec::clone(&before) }).await?;
            tracing::info!(pool = %id, ?capacity, "pool: changed");
            sandboxes.see_pool(&id.to_string())
        })
        .await
    }

    /// From when it returns nothing is made for it, and what waited in it is ending.
    pub async fn remove_pool(&self, name: &str) -> Result<(), Error> {
        let (sandboxes, name) = (self.clone(), name.to_owned());
        self.in_task(async move {
            let pool = &sandboxes.0.pool;
            let _turn = pool.changing.lock().await;
            let spec = sandboxes.changeable(&name)?;
            let (path, dir) = (pool.path(spec.id), pool.dir.clone());
            sandboxes.blocking(move || remove(&path, &dir)).await?;
            let entries = pool.take_pool(spec.id);
            tracing::info!(pool = %spec.id, entries = entries.len(), "pool: deleted");
            sandboxes.end_entries(entries);
            Ok(())
        })
        .await
    }

    fn changeable(&self, name: &str) -> Result<Arc<PoolSpec>, Error> {
        let spec = self.0.pool.named(name).ok_or_else(|| Error::NoPool(name.to_owned()))?;
        if spec.of_settings {
            return Err(Error::PoolOfSettings(spec.name.clone()));
        }
        Ok(spec)
    }

    async fn put_pool(&self, spec: PoolSpec) -> Result<(), Error> {
        let (path, dir) = (self.0.pool.path(spec.id), self.0.pool.dir.clone());
        let kept = Kept { version: VERSION, spec: spec.clone() };
        self.blocking(move || write(&path, &dir, &kept)).await?;
        self.0.pool.entries.lock().specs.insert(spec.id, Arc::new(spec));
        self.0.pool.stir();
        Ok(())
    }

    pub(in crate::sandbox) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.0.tasks.spawn_blocking(work).await;
        done.map_err(|error| Error::BrokenOff(error.to_string()))?
    }

    /// What its entries are at present.
    pub(super) fn shape_of(&self, spec: &PoolSpec) -> Result<Shape, Error> {
        let template = self.template(&Tenant::default(), &spec.template)?;
        let policy = NetworkPolicy::of_access(spec.allow_internet_access);
        let limits = Bounds::parse(&spec.limits).unwrap_or_default();
        self.shape(template, &policy, &limits, &Quota::default())
    }

    /// How many that were taken from each of them run.
    pub(super) fn allocated(&self, specs: &[Arc<PoolSpec>]) -> Vec<usize> {
        self.taken(specs, |_, _| {})
    }

    fn taken(&self, specs: &[Arc<PoolSpec>], mut each: impl FnMut(usize, &Facts)) -> Vec<usize> {
        let mut allocated = vec![0; specs.len()];
        self.0.registry.visit(&Shelf::All, false, None, |sandbox| {
            let facts = sandbox.facts();
            if facts.from_pool
                && sandbox.phase() == Phase::Running
                && let Some(of) = specs.iter().position(|spec| spec.gave(facts))
            {
                allocated[of] += 1;
                each(of, facts);
            }
            ControlFlow::Continue(())
        });
        allocated
    }

    fn see_pools(&self, specs: Vec<Arc<PoolSpec>>) -> Vec<SeenPool> {
        let shapes: Vec<Option<Shape>> =
            specs.iter().map(|spec| self.shape_of(spec).ok()).collect();
        let mut updated = vec![0; specs.len()];
        let allocated = self.taken(&specs, |of, facts| {
            let current = shapes[of].as_ref().is_some_and(|it| *it.template == facts.template);
            updated[of] += usize::from(current);
        });
        let entries = self.0.pool.entries.lock();
        let each = specs.into_iter().enumerate().map(|(of, spec)| {
            let living = entries.available.iter().filter(|it| it.pool == spec.id && it.lives());
            let (mut available, mut updated) = (0, updated[of]);
            for entry in living {
                available += 1;
                updated += usize::from(shapes[of].as_ref() == Some(&entry.shape));
            }
            let making = usize::from(entries.making.as_ref().is_some_and(|it| it.0 == spec.id));
            let allocated = allocated[of];
            let count = PoolCount { total: available + allocated + making, allocated, available };
            SeenPool { spec, count, updated, revision: shapes[of].as_ref().map(revision) }
        });
        each.collect()
    }
}

/// As OpenSandbox's: eight bytes of a digest of what entries are.
fn revision(shape: &Shape) -> String {
    let Shape { template, limits, network } = shape;
    let said = format!("{:?} {limits:?} {network:?}", template.layers);
    hex::encode(&blake3::hash(said.as_bytes()).as_bytes()[..8])
}

fn write(path: &Path, dir: &Path, kept: &Kept) -> Result<(), Error> {
    let failed = |source| Error::io("cannot write", path, source);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let text = serde_json::to_vec(kept).map_err(|error| failed(error.into()))?;
    record::put(path, &text, true)?;
    sync(dir)
}

fn remove(path: &Path, dir: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("cannot delete", path, error))
        }
        _ => sync(dir),
    }
}

/// Brings the names in it to the disk.
fn sync(dir: &Path) -> Result<(), Error> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| Error::io("cannot flush", dir, source))
}

fn read(path: &Path) -> Result<PoolSpec, Error> {
    let failed = |source| Error::io("cannot read", path, source);
    let refused = |text: String| failed(io::Error::new(io::ErrorKind::InvalidData, text));
    let size = fs::symlink_metadata(path).map_err(failed)?.len();
    if size > MAX_BYTES {
        return Err(refused(format!("{size} bytes are too many")));
    }
    let text = fs::read(path).map_err(failed)?;
    let kept: Kept = serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    if kept.version != VERSION {
        return Err(refused(format!("written as version {}", kept.version)));
    }
    kept.spec.capacity.check().map_err(refused)?;
    Bounds::parse(&kept.spec.limits).map_err(refused)?;
    Ok(kept.spec)
}
