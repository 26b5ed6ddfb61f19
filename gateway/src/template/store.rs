//! The templates of a data directory, and the one build there is: `base`.
//!
//! Finding a template is a look into memory. A build works in `build-*`, which nobody looks into,
//! and becomes visible by two renames, layer first; a gateway that dies on the way leaves only a
//! `build-*` for the next to remove. The directory may be shared by gateways (as a symbolic link):
//! who builds or cleans holds the lock file.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use chrono::Utc;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    Available, BASE, Template, debootstrap,
    record::{self, Record},
    tool,
    tree::{self, failed},
};
use crate::backend::Limits;

const LIMITS: Limits = Limits { cpus: 2, memory_bytes: 1 << 30, processes: 1024 };

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] tree::Error),
    #[error("template base: {0}")]
    Build(#[from] debootstrap::Error),
    #[error(transparent)]
    Record(#[from] record::Error),
    #[error("the template build ended unexpectedly")]
    Lost,
}

/// Why a template cannot be had now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    #[error("there is no such template")]
    Unknown,
    /// The step the build is at.
    #[error("the template base is being built: {0}")]
    Building(String),
    #[error("the template base could not be built: {0}")]
    Failed(String),
}

enum Build {
    Waiting,
    At(String),
    Failed(String),
}

#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    /// Canonical.
    dir: PathBuf,
    found: RwLock<BTreeMap<String, Available>>,
    build: Mutex<Build>,
}

impl Store {
    /// Reads the templates of a data directory, and removes what an interrupted build left.
    pub fn open(data_dir: &Path) -> Result<Arc<Self>, Error> {
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

        let shared = Shared { dir, found: RwLock::default(), build: Mutex::new(Build::Waiting) };
        // Whoever holds the lock is building, and removes leftovers itself.
        if let Some(_lock) = shared.try_lock()? {
            shared.remove_leftovers()?;
        }
        shared.load()?;
        Ok(Arc::new(Self { shared: Arc::new(shared) }))
    }

    /// The template a name means at present.
    pub fn find(&self, name: &str) -> Result<Arc<Template>, FindError> {
        if let Some(found) = self.shared.found.read().get(name) {
            return Ok(found.template.clone());
        }
        if name != BASE {
            return Err(FindError::Unknown);
        }
        Err(match &*self.shared.build.lock() {
            Build::Waiting => FindError::Building("not started yet".to_owned()),
            Build::At(step) => FindError::Building(step.clone()),
            Build::Failed(why) => FindError::Failed(why.clone()),
        })
    }

    /// All templates that are there, in the order of their names.
    pub fn available(&self) -> Vec<Available> {
        self.shared.found.read().values().cloned().collect()
    }

    /// Builds `base` if it is missing or its recipe has changed; a minute or so. Dropping the
    /// future ends the build. An older `base` stays in use meanwhile, and when the build fails.
    pub async fn ensure_base(&self) -> Result<(), Error> {
        if self.shared.base_is_current() {
            return Ok(());
        }
        let stop = CancellationToken::new();
        let _stop_when_dropped = stop.clone().drop_guard();
        let (done, ended) = oneshot::channel();
        let shared = self.shared.clone();
        // A thread of its own: see `Tool::run`.
        thread::Builder::new()
            .name("template".to_owned())
            .spawn(move || {
                let _ = done.send(shared.build_base(&stop));
            })
            .map_err(failed("start a thread for", &self.shared.dir))?;

        let result = ended.await.unwrap_or(Err(Error::Lost));
        let Err(error) = result else { return Ok(()) };
        *self.shared.build.lock() = Build::Failed(error.to_string());
        if self.shared.found.read().contains_key(BASE) {
            tracing::warn!(%error, "template base: staying with the older one");
            return Ok(());
        }
        Err(error)
    }
}

impl Shared {
    fn load(&self) -> Result<(), Error> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = entry.map_err(failed("list", &self.dir))?.path();
            if path.extension().is_some_and(|ext| ext == "json")
                && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
            {
                let record = Record::read(&path)?;
                let built_at = record.built_at;
                if let Some(template) = record.template(name, |digest| self.layer(digest)) {
                    let template = Arc::new(template);
                    found.insert(name.to_owned(), Available { template, built_at });
                }
            }
        }
        *self.found.write() = found;
        Ok(())
    }

    fn layer(&self, digest: &str) -> PathBuf {
        self.dir.join("layers").join(digest)
    }

    fn base_is_current(&self) -> bool {
        self.found.read().contains_key(BASE)
            && Record::read(&self.dir.join("base.json"))
                .is_ok_and(|record| record.recipe == debootstrap::fingerprint())
    }

    fn build_base(&self, stop: &CancellationToken) -> Result<(), Error> {
        let _lock = loop {
            if let Some(lock) = self.try_lock()? {
                break lock;
            }
            self.at("waiting for another gateway that builds it");
            if stop.is_cancelled() {
                return Err(debootstrap::Error::Tool(tool::Error::Stopped).into());
            }
            thread::sleep(Duration::from_millis(200));
        };
        self.load()?;
        if self.base_is_current() {
            return Ok(());
        }
        self.remove_leftovers()?;

        let dir = self.dir.join(format!("build-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(failed("make", &dir))?;
        let built = debootstrap::build(&dir, stop, &|step| self.at(step))
            .map_err(Error::from)
            .and_then(|built| self.publish(&dir, built));
        let removed = tree::remove(&dir);
        built?;
        removed?;
        self.load()
    }

    /// Gives a finished root its name and makes `base` mean it.
    fn publish(&self, dir: &Path, built: debootstrap::Built) -> Result<(), Error> {
        self.at("naming it by its content");
        let digest = tree::digest(&built.root)?;
        // Bytes before names: a power cut must not leave a name for a hollow tree.
        nix::unistd::sync();
        let layer = self.layer(&digest);
        if !layer.exists() {
            fs::rename(&built.root, &layer).map_err(failed("rename", &built.root))?;
        }
        let record = Record {
            layers: vec![digest],
            limits: LIMITS,
            env: BTreeMap::new(),
            user: "user".to_owned(),
            workdir: None,
            recipe: debootstrap::fingerprint(),
            node: built.node,
            built_at: Utc::now(),
        };
        let (draft, path) = (dir.join("base.json"), self.dir.join("base.json"));
        record.write(&draft)?;
        fs::rename(&draft, &path).map_err(failed("rename", &draft))?;
        tracing::info!(layer = %layer.display(), "template base: built");
        Ok(())
    }

    fn at(&self, step: &str) {
        let mut build = self.build.lock();
        if !matches!(&*build, Build::At(current) if current == step) {
            tracing::info!("template base: {step}");
            *build = Build::At(step.to_owned());
        }
    }

    /// Held until the file is dropped; the kernel lets go of it when the process dies.
    fn try_lock(&self) -> Result<Option<File>, Error> {
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

    fn remove_leftovers(&self) -> Result<(), Error> {
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
    use super::*;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn put_base(templates: &Path, layer: &str, recipe: &str) {
        fs::create_dir_all(templates.join("layers").join(DIGEST)).unwrap();
        let record = serde_json::json!({
            "layers": [layer], "limits": LIMITS, "user": "user", "recipe": recipe,
            "node": null, "builtAt": "2026-01-01T00:00:00Z",
        });
        fs::write(templates.join("base.json"), record.to_string()).unwrap();
    }

    #[test]
    fn a_template_is_found_by_name_with_its_layers_and_limits() {
        let data = tempfile::tempdir().unwrap();
        put_base(&data.path().join("templates"), DIGEST, "any");
        let store = Store::open(data.path()).unwrap();
        let base = store.find("base").unwrap();
        assert_eq!(base.layers.len(), 1);
        assert!(base.layers[0].is_absolute() && base.layers[0].ends_with(DIGEST));
        assert_eq!((base.limits, base.user.as_str()), (LIMITS, "user"));
    }

    #[test]
    fn unknown_names_are_unknown_whatever_they_look_like() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).unwrap();
        for name in ["", "nope", "../base", "layers", "/etc/passwd"] {
            assert_eq!(store.find(name).unwrap_err(), FindError::Unknown, "{name}");
        }
    }

    #[test]
    fn base_says_how_far_its_build_is_and_why_it_failed() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).unwrap();
        assert!(matches!(store.find("base"), Err(FindError::Building(_))));
        store.shared.at("installing Debian");
        assert_eq!(
            store.find("base").unwrap_err(),
            FindError::Building("installing Debian".to_owned())
        );
        *store.shared.build.lock() = Build::Failed("no network".to_owned());
        assert_eq!(store.find("base").unwrap_err(), FindError::Failed("no network".to_owned()));
    }

    #[test]
    fn an_interrupted_build_is_removed_unless_someone_is_at_it() {
        let data = tempfile::tempdir().unwrap();
        let left = data.path().join("templates/build-1/root");
        fs::create_dir_all(&left).unwrap();
        let other = Store::open(data.path()).unwrap();
        assert!(!left.exists());

        fs::create_dir_all(&left).unwrap();
        let lock = other.shared.try_lock().unwrap().unwrap();
        Store::open(data.path()).unwrap();
        assert!(left.exists());
        drop(lock);
        Store::open(data.path()).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn a_record_without_its_layer_counts_as_no_template() {
        let data = tempfile::tempdir().unwrap();
        for layer in [&"f".repeat(64), "../../etc"] {
            put_base(&data.path().join("templates"), layer, &debootstrap::fingerprint());
            let store = Store::open(data.path()).unwrap();
            assert!(store.find("base").is_err());
            assert!(!store.shared.base_is_current());
        }
    }

    #[test]
    fn a_directory_of_templates_may_be_a_link() {
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put_base(elsewhere.path(), DIGEST, "any");
        std::os::unix::fs::symlink(elsewhere.path(), data.path().join("templates")).unwrap();
        assert!(Store::open(data.path()).unwrap().find("base").is_ok());
    }

    #[test]
    fn only_the_present_recipe_counts_as_current() {
        let data = tempfile::tempdir().unwrap();
        put_base(&data.path().join("templates"), DIGEST, "older");
        assert!(!Store::open(data.path()).unwrap().shared.base_is_current());
        put_base(&data.path().join("templates"), DIGEST, &debootstrap::fingerprint());
        assert!(Store::open(data.path()).unwrap().shared.base_is_current());
    }

    #[tokio::test]
    async fn a_current_base_needs_no_build() {
        let data = tempfile::tempdir().unwrap();
        put_base(&data.path().join("templates"), DIGEST, &debootstrap::fingerprint());
        let store = Store::open(data.path()).unwrap();
        store.ensure_base().await.unwrap();
        assert!(store.find("base").is_ok());
    }
}
