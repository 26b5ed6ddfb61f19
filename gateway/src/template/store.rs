//! The templates of a data directory.
//!
//! Finding a template is a look into memory; one that is not there is looked for on the disk, where
//! `coppice template build` may have put it meanwhile. The directory may be shared by gateways (as a
//! symbolic link): who builds or cleans holds the lock file.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::limits::Bounds;

use super::{
    Available, BASE, Template,
    import::{self, Source},
    recipe::{self, Recipe},
    record::{self, IMPORTED, Record},
    tree::{self, failed},
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] tree::Error),
    #[error(transparent)]
    Build(#[from] recipe::Error),
    #[error(transparent)]
    Record(#[from] record::Error),
    #[error("the template build ended unexpectedly")]
    Lost,
    #[error(
        "{0:?} cannot be a template's name: small letters, digits, and . _ - between them, at most \
         64 in all"
    )]
    Name(String),
    #[error("there is no template {0}")]
    Unknown(String),
    #[error("template {name}: template {by} is built on it")]
    Below { name: String, by: String },
    #[error(
        "template {name}: {count} sandboxes were made from it; end them, or wait for their end"
    )]
    InUse { name: String, count: usize },
    #[error("templates are being built in {0}: wait for the end of that")]
    Building(PathBuf),
}

/// Why a template cannot be had now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("there is no such template")]
    Unknown,
    /// The step the build is at.
    #[error("the template is being built: {0}")]
    Building(String),
    #[error("the template could not be built: {0}")]
    Failed(String),
}

/// How far the build of a planned template is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Build {
    Waiting,
    At(String),
    Failed(String),
}

/// Hears of every step of a build: the template's name, and the step.
pub(super) type Tell = fn(&str, &str);

/// What is said of a template to its operator.
#[derive(Debug)]
pub struct Listed {
    pub template: Template,
    pub built_at: DateTime<Utc>,
    pub node: Option<String>,
    /// Whether a build would change nothing; `None`: it is of no recipe.
    pub current: Option<bool>,
}

#[derive(Clone)]
pub struct Store {
    pub(super) shared: Arc<Shared>,
    /// Those that are at work for it, with all they have started.
    threads: TaskTracker,
}

pub(super) struct Shared {
    /// Canonical.
    pub(super) dir: PathBuf,
    pub(super) found: RwLock<BTreeMap<String, Available>>,
    builds: Mutex<BTreeMap<String, Build>>,
    tell: Tell,
}

impl Store {
    /// Reads the templates of a data directory, and removes what an interrupted build left.
    pub fn open(data_dir: &Path, tell: Tell) -> Result<Arc<Self>, Error> {
        let dir = data_dir.join("templates");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(failed("make", &dir))?;
        let dir = dir.canonicalize().map_err(failed("resolve", &dir))?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir.join("layers"))
            .map_err(failed("make", dir.join("layers")))?;

        let builds = Mutex::new(BTreeMap::from([(BASE.to_owned(), Build::Waiting)]));
        let shared = Shared { dir, found: RwLock::default(), builds, tell };
        // Whoever holds the lock is building, and removes leftovers itself.
        if let Some(_lock) = shared.try_lock()? {
            shared.remove_leftovers()?;
        }
        shared.load()?;
        Ok(Arc::new(Self { shared: Arc::new(shared), threads: TaskTracker::new() }))
    }

    /// From now on a template that is missing is on its way, if it is one of these.
    pub fn plan(&self, recipes: &[Recipe]) {
        let mut builds = self.shared.builds.lock();
        for recipe in recipes {
            builds.entry(recipe.name().to_owned()).or_insert(Build::Waiting);
        }
    }

    /// The template a name means at present.
    pub fn find(&self, name: &str) -> Result<Arc<Template>, FindError> {
        if let Some(found) = self.shared.found.read().get(name) {
            return Ok(found.template.clone());
        }
        // Only what can be a name leads to the disk.
        if !import::is_name(name) {
            return Err(FindError::Unknown);
        }
        if let Ok(Some(found)) = self.shared.read(name) {
            self.shared.found.write().insert(name.to_owned(), found.clone());
            return Ok(found.template);
        }
        Err(match self.shared.builds.lock().get(name) {
            None => FindError::Unknown,
            Some(Build::Waiting) => FindError::Building("not started yet".to_owned()),
            Some(Build::At(step)) => FindError::Building(step.clone()),
            Some(Build::Failed(why)) => FindError::Failed(why.clone()),
        })
    }

    /// All templates that are there, in the order of their names.
    pub fn available(&self) -> Vec<Available> {
        self.shared.found.read().values().cloned().collect()
    }

    /// The same with what only the disk knows.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let mut listed = Vec::new();
        for found in self.available() {
            let name = &found.template.id;
            let record = Record::read(&self.shared.record(name))?;
            let (node, imported) = (record.node, record.recipe == IMPORTED);
            let recipe = Recipe::named(name).filter(|_| !imported);
            listed.push(Listed {
                template: Template::clone(&found.template),
                built_at: found.built_at,
                node,
                current: recipe.map(|recipe| self.shared.is_current(recipe)),
            });
        }
        Ok(listed)
    }

    /// Has a template built, and before it what it lies on, where they are missing or their recipes
    /// have changed; minutes. Dropping the future ends the build. An older one stays in use
    /// meanwhile, and when the build fails.
    pub async fn ensure(&self, recipe: Recipe) -> Result<(), Error> {
        self.plan(&[recipe]);
        let Err(error) = self.build(recipe).await else { return Ok(()) };
        self.shared.set(recipe.name(), Build::Failed(error.to_string()));
        if self.shared.found.read().contains_key(recipe.name()) {
            tracing::warn!(%error, "template {}: staying with the older one", recipe.name());
            return Ok(());
        }
        Err(error)
    }

    /// The same, and an older one is not good enough.
    pub async fn build(&self, recipe: Recipe) -> Result<(), Error> {
        if let Some(below) = recipe.below() {
            self.build_one(below).await?;
        }
        self.build_one(recipe).await
    }

    /// Makes a template of a root file system that is there already. One of that name is replaced
    /// when the new one is whole.
    pub async fn import(&self, name: &str, source: Source) -> Result<(), Error> {
        if !import::is_name(name) {
            return Err(Error::Name(name.to_owned()));
        }
        let name = name.to_owned();
        self.on_a_thread(move |shared, stop| shared.import(&name, &source, stop)).await
    }

    /// Has sandboxes of a template be bounded so, and otherwise as those of any; by a gateway from
    /// its next start on.
    pub fn limit(&self, name: &str, said: &Bounds) -> Result<(), Error> {
        self.shared.limit(name, said)
    }

    async fn build_one(&self, recipe: Recipe) -> Result<(), Error> {
        if self.shared.is_current(recipe) {
            return Ok(());
        }
        self.on_a_thread(move |shared, stop| shared.build(recipe, stop)).await
    }

    /// Ends when all that was begun is over, the programs of what was stopped included. Until then
    /// these end only some time after the gateway, each with the one above it.
    pub async fn settled(&self) {
        self.threads.close();
        self.threads.wait().await;
    }

    /// A thread of its own: see `Tool::run`. Dropping the future stops the work.
    async fn on_a_thread(
        &self,
        work: impl FnOnce(&Shared, &CancellationToken) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let stop = CancellationToken::new();
        let _stop_when_dropped = stop.clone().drop_guard();
        let (done, ended) = oneshot::channel();
        let shared = self.shared.clone();
        let at_work = self.threads.token();
        thread::Builder::new()
            .name("template".to_owned())
            .spawn(move || {
                let _ = done.send(work(&shared, &stop));
                drop(at_work);
            })
            .map_err(failed("start a thread for", &self.shared.dir))?;
        ended.await.unwrap_or(Err(Error::Lost))
    }
}

impl Shared {
    pub(super) fn load(&self) -> Result<(), Error> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = entry.map_err(failed("list", &self.dir))?.path();
            if path.extension().is_some_and(|ext| ext == "json")
                && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
                && let Some(available) = self.read(name)?
            {
                found.insert(name.to_owned(), available);
            }
        }
        *self.found.write() = found;
        Ok(())
    }

    /// What a name means on the disk; `None` where nothing, or something is missing.
    fn read(&self, name: &str) -> Result<Option<Available>, Error> {
        let path = self.record(name);
        if !path.try_exists().map_err(failed("stat", &path))? {
            return Ok(None);
        }
        let record = Record::read(&path)?;
        let built_at = record.built_at;
        let template = record.template(name, |digest| self.layer(digest));
        Ok(template.map(|template| Available { template: Arc::new(template), built_at }))
    }

    pub(super) fn record(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.json"))
    }

    pub(super) fn layer(&self, digest: &str) -> PathBuf {
        self.dir.join("layers").join(digest)
    }

    /// Whether it is there, by the present recipe and on what now lies below. What somebody made
    /// from a root of theirs stays until they make another.
    pub(super) fn is_current(&self, recipe: Recipe) -> bool {
        let read = |recipe: Recipe| Record::read(&self.record(recipe.name())).ok();
        let Some(record) = read(recipe) else { return false };
        let below = match recipe.below() {
            None => true,
            Some(below) => read(below).is_some_and(|below| record.foundation() == below.layers),
        };
        let wanted = record.recipe == IMPORTED || (record.recipe == recipe.fingerprint() && below);
        self.found.read().contains_key(recipe.name()) && wanted
    }

    pub(super) fn at(&self, name: &str, step: &str) {
        let now = Build::At(step.to_owned());
        if self.builds.lock().get(name) != Some(&now) {
            (self.tell)(name, step);
            self.set(name, now);
        }
    }

    fn set(&self, name: &str, build: Build) {
        self.builds.lock().insert(name.to_owned(), build);
    }

    /// Held until the file is dropped; the kernel lets go of it when the process dies.
    pub(super) fn try_lock(&self) -> Result<Option<File>, Error> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed("lock", path)(source).into()),
        }
    }

    pub(super) fn remove_leftovers(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let entry = entry.map_err(failed("list", &self.dir))?;
            if entry.file_name().as_encoded_bytes().starts_with(b"build-") {
                tracing::info!(dir = %entry.path().display(), "removing an interrupted build");
                tree::remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::{super::build::LIMITS, *};
    use crate::limits::Limits;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn put_base(templates: &Path, layer: &str, recipe: &str) {
        fs::create_dir_all(templates.join("layers").join(DIGEST)).unwrap();
        let record = serde_json::json!({
            "layers": [layer], "limits": LIMITS, "user": "user", "recipe": recipe,
            "node": null, "builtAt": "2026-01-01T00:00:00Z",
        });
        fs::write(templates.join("base.json"), record.to_string()).unwrap();
    }

    #[tokio::test]
    async fn what_was_stopped_is_over_once_the_store_has_settled() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path(), |_, _| {}).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let work = store.on_a_thread({
            let over = over.clone();
            move |_, stop| {
                while !stop.is_cancelled() {
                    thread::sleep(Duration::from_millis(1));
                }
                thread::sleep(Duration::from_millis(50));
                over.store(true, Ordering::Relaxed);
                Ok(())
            }
        });
        assert!(timeout(Duration::from_millis(10), work).await.is_err());
        timeout(Duration::from_secs(30), store.settled()).await.unwrap();
        assert!(over.load(Ordering::Relaxed));
    }

    #[test]
    fn a_template_is_found_by_name_with_its_layers_and_limits() {
        let data = tempfile::tempdir().unwrap();
        put_base(&data.path().join("templates"), DIGEST, "any");
        let store = Store::open(data.path(), |_, _| {}).unwrap();
        let base = store.find("base").unwrap();
        assert_eq!(base.layers.len(), 1);
        assert!(base.layers[0].is_absolute() && base.layers[0].ends_with(DIGEST));
        assert_eq!((base.limits, base.user.as_str()), (LIMITS, "user"));
    }

    #[test]
    fn what_is_said_of_a_templates_limits_stays_until_something_else_is() {
        let data = tempfile::tempdir().unwrap();
        put_base(&data.path().join("templates"), DIGEST, "any");
        let store = Store::open(data.path(), |_, _| {}).unwrap();
        let limit = |name, text| store.limit(name, &Bounds::parse(text).unwrap());
        limit("base", "memory=2048,net-out=100").unwrap();
        let said = Limits { memory_bytes: 2 << 30, net_out: Some(100 << 10), ..LIMITS };
        assert_eq!(store.find("base").unwrap().limits, said);
        let next = Store::open(data.path(), |_, _| {}).unwrap();
        assert_eq!(next.find("base").unwrap().limits, said);
        limit("base", "").unwrap();
        assert_eq!(store.find("base").unwrap().limits, LIMITS);
        assert!(matches!(limit("nope", ""), Err(Error::Unknown(_))));
    }

    #[test]
    fn unknown_names_are_unknown_whatever_they_look_like() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path(), |_, _| {}).unwrap();
        for name in ["", "nope", "../base", "layers", "/etc/passwd"] {
            assert_eq!(store.find(name).unwrap_err(), FindError::Unknown, "{name}");
        }
    }

    #[test]
    fn base_says_how_far_its_build_is_and_why_it_failed() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path(), |_, _| {}).unwrap();
        assert!(matches!(store.find("base"), Err(FindError::Building(_))));
        store.shared.at(BASE, "installing Debian");
        assert_eq!(
            store.find("base").unwrap_err(),
            FindError::Building("installing Debian".to_owned())
        );
        store.shared.set(BASE, Build::Failed("no network".to_owned()));
        assert_eq!(store.find("base").unwrap_err(), FindError::Failed("no network".to_owned()));
    }

    #[test]
    fn an_interrupted_build_is_removed_unless_someone_is_at_it() {
        let data = tempfile::tempdir().unwrap();
        let left = data.path().join("templates/build-1/root");
        fs::create_dir_all(&left).unwrap();
        let other = Store::open(data.path(), |_, _| {}).unwrap();
        assert!(!left.exists());

        fs::create_dir_all(&left).unwrap();
        let lock = other.shared.try_lock().unwrap().unwrap();
        Store::open(data.path(), |_, _| {}).unwrap();
        assert!(left.exists());
        drop(lock);
        Store::open(data.path(), |_, _| {}).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn a_record_without_its_layer_counts_as_no_template() {
        let data = tempfile::tempdir().unwrap();
        for layer in [&"f".repeat(64), "../../etc"] {
            put_base(&data.path().join("templates"), layer, &Recipe::Base.fingerprint());
            let store = Store::open(data.path(), |_, _| {}).unwrap();
            assert!(store.find("base").is_err());
            assert!(!store.shared.is_current(Recipe::Base));
        }
    }

    #[test]
    fn a_directory_of_templates_may_be_a_link() {
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put_base(elsewhere.path(), DIGEST, "any");
        std::os::unix::fs::symlink(elsewhere.path(), data.path().join("templates")).unwrap();
        assert!(Store::open(data.path(), |_, _| {}).unwrap().find("base").is_ok());
    }

    #[test]
    fn only_the_present_recipe_counts_as_current() {
        let data = tempfile::tempdir().unwrap();
        put_base(&data.path().join("templates"), DIGEST, "older");
        assert!(!Store::open(data.path(), |_, _| {}).unwrap().shared.is_current(Recipe::Base));
        put_base(&data.path().join("templates"), DIGEST, &Recipe::Base.fingerprint());
        assert!(Store::open(data.path(), |_, _| {}).unwrap().shared.is_current(Recipe::Base));
    }

    #[test]
    fn what_lies_on_another_template_is_current_only_on_its_present_layers() {
        let data = tempfile::tempdir().unwrap();
        let templates = data.path().join("templates");
        put_base(&templates, DIGEST, &Recipe::Base.fingerprint());
        for (below, current) in [(DIGEST.to_owned(), true), ("f".repeat(64), false)] {
            fs::create_dir_all(templates.join("layers").join(&below)).unwrap();
            let own = "e".repeat(64);
            fs::create_dir_all(templates.join("layers").join(&own)).unwrap();
            let record = serde_json::json!({
                "layers": [own, below], "limits": LIMITS, "user": "user", "node": null,
                "recipe": Recipe::Interpreter.fingerprint(), "builtAt": "2026-01-01T00:00:00Z",
            });
            fs::write(templates.join("code-interpreter-v1.json"), record.to_string()).unwrap();
            let store = Store::open(data.path(), |_, _| {}).unwrap();
            assert_eq!(store.shared.is_current(Recipe::Interpreter), current);
            assert_eq!(store.find("code-interpreter-v1").unwrap().layers.len(), 2);
        }
    }

    #[test]
    fn only_what_is_planned_is_on_its_way() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path(), |_, _| {}).unwrap();
        assert_eq!(store.find("code-interpreter-v1").unwrap_err(), FindError::Unknown);
        store.plan(&[Recipe::Base, Recipe::Interpreter]);
        assert!(matches!(store.find("code-interpreter-v1"), Err(FindError::Building(_))));
    }

    #[tokio::test]
    async fn a_current_base_needs_no_build() {
        let data = tempfile::tempdir().unwrap();
        put_base(&data.path().join("templates"), DIGEST, &Recipe::Base.fingerprint());
        let store = Store::open(data.path(), |_, _| {}).unwrap();
        store.ensure(Recipe::Base).await.unwrap();
        assert!(store.find("base").is_ok());
    }
}
