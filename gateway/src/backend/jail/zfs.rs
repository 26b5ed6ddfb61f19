//! Roots that are clones of a template's layer, where the data directory is on ZFS.
//!
//! A layer is copied into a dataset and snapshotted the first time a sandbox is made of it, which
//! takes as long as it takes; until then its sandboxes have thin roots. Of a layer that is
//! ready some clones are ready too, so that a create runs no program; one that finds none runs
//! `zfs clone` once. All else is done behind, by one thread.
//!
//! Whose a clone is says a file, `<data-dir>/clones/<id>`, with the clone's name in it: it is there
//! before the clone is used, and becomes `.gone-<leaf>` when it is not used any more, until
//! that is destroyed. A clone without either is ready.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rctl_sys::mount::{Mount, nmount, unmount};
use tracing::{info, warn};

use super::{
    error::{Call, Kernel},
    pf::Tag,
    program,
    zfs_names::{self, Arguments, Layer, Names},
};
use crate::{
    backend::{Error, Settings},
    sandbox::SandboxId,
};

/// For one change of a dataset, on a pool that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// For the copy of a layer.
const COPY: Duration = Duration::from_secs(3600);
/// Clones of a layer that are kept ready.
const READY: usize = 2;
const GONE: &str = ".gone-";

/// The datasets of one data directory. All of it blocks.
pub(super) struct Zfs {
    shared: Arc<Shared>,
    work: Sender<Work>,
    /// Until `prepare`.
    todo: Mutex<Option<Receiver<Work>>>,
}

struct Shared {
    names: Names,
    /// Where templates' layers are.
    layers: PathBuf,
    claims: PathBuf,
    tools: Tools,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ready: HashSet<Layer>,
    /// Those that the thread was told to make, or that it could not.
    tried: HashSet<Layer>,
    clones: HashMap<Layer, Vec<String>>,
    /// Clones that were ready and have become somebody's just now.
    taken: HashSet<String>,
}

enum Work {
    Layer(Layer, PathBuf),
    Fill(Layer),
    Destroy(String),
    /// A layer whose template is gone.
    Forget(Layer),
}

/// zfs(8), and what it said.
type Run = dyn Fn(&Arguments) -> Result<String, Error> + Send + Sync;

/// What is run.
struct Tools {
    zfs: Box<Run>,
    /// Copies a layer's directory into a dataset, which it mounts meanwhile.
    copy: fn(&Path, &str, &Path) -> Result<(), Error>,
    /// Undoes one that was broken off.
    clear: fn(&Path),
}

impl Zfs {
    /// `None` where the data directory is not on ZFS.
    pub(super) fn detect(settings: &Settings) -> Result<Option<Self>, Error> {
        let path = &settings.data_dir;
        let found = rctl_sys::mount::statfs(path).to("look at", path.display())?;
        if found.fstype != "zfs" {
            return Ok(None);
        }
        let tools = Tools { zfs: Box::new(run), copy, clear };
        Ok(Some(Self::new(path, &found.from.to_string_lossy(), tools)))
    }

    fn new(data_dir: &Path, dataset: &str, tools: Tools) -> Self {
        let (work, todo) = channel();
        let shared = Shared {
            names: Names::new(dataset, &Tag::of(data_dir)),
            layers: data_dir.join("templates/layers"),
            claims: data_dir.join("clones"),
            tools,
            state: Mutex::default(),
        };
        Self { shared: Arc::new(shared), work, todo: Mutex::new(Some(todo)) }
    }

    /// Makes what all else is below, finds what is there, and begins to work behind. Idempotent.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        for work in self.shared.prepare()? {
            let _ = self.work.send(work);
        }
        if let Some(todo) = self.todo.lock().take() {
            let shared = Arc::clone(&self.shared);
            let work = move || todo.into_iter().for_each(|work| shared.work(work));
            thread::Builder::new().name("zfs".into()).spawn(work).call("spawn", "thread")?;
        }
        Ok(())
    }

    /// Whether a template's layer has a snapshot to clone; a thin root is made of it otherwise, and
    /// the snapshot behind.
    pub(super) fn has(&self, layer: &Path) -> bool {
        let name = Layer::of(layer);
        let mut state = self.shared.state.lock();
        if state.ready.contains(&name) {
            return true;
        }
        if state.tried.insert(name.clone()) {
            let _ = self.work.send(Work::Layer(name, layer.to_owned()));
        }
        false
    }

    /// The dataset that a sandbox's root is to be: one that is ready, or one to be made.
    pub(super) fn dataset(&self, layer: &Path, id: SandboxId) -> Result<String, Error> {
        let leaf = self.shared.take_ready(&Layer::of(layer));
        let leaf = leaf.unwrap_or_else(|| SandboxId::random().to_string());
        let path = self.shared.claim(id);
        // One that was ready is again at the next start, if this fails.
        fs::write(&path, &leaf).call("write", path.display())?;
        Ok(self.shared.names.clone(&leaf))
    }

    /// Sees to it that [`Zfs::dataset`] of `id` is a clone of a layer's snapshot; it is mounted by
    /// the caller with nmount(2).
    pub(super) fn clone_layer(&self, layer: &Path, id: SandboxId) -> Result<(), Error> {
        let layer = Layer::of(layer);
        let leaf = self.shared.leaf(id)?.ok_or_else(|| {
            Error::Unsupported(format!(
                "sandbox {id} has no file in {}",
                self.shared.claims.display()
            ))
        })?;
        let was_ready = self.shared.state.lock().taken.remove(&leaf);
        if !was_ready {
            self.shared.zfs(&self.shared.names.clone_of(&layer, &leaf))?;
        }
        let _ = self.work.send(Work::Fill(layer));
        Ok(())
    }

    /// Gives up a sandbox's dataset, which is not mounted any more. It goes behind. Idempotent.
    pub(super) fn destroy(&self, id: SandboxId) -> Result<(), Error> {
        let Some(leaf) = self.shared.leaf(id)? else { return Ok(()) };
        self.shared.state.lock().taken.remove(&leaf);
        let (from, to) = (self.shared.claim(id), self.shared.claims.join(format!("{GONE}{leaf}")));
        fs::rename(&from, &to).call("rename", format!("{} to {}", from.display(), to.display()))?;
        let _ = self.work.send(Work::Destroy(leaf));
        Ok(())
    }

    /// The sandboxes that have a dataset.
    pub(super) fn list(&self) -> Result<Vec<SandboxId>, Error> {
        Ok(self.shared.files()?.iter().filter_map(|name| name.parse().ok()).collect())
    }
}

impl Shared {
    /// Returns what is left to do of what was begun.
    fn prepare(&self) -> Result<Vec<Work>, Error> {
        fs::create_dir_all(&self.claims).call("mkdir", self.claims.display())?;
        for arguments in self.names.create_home() {
            match self.zfs(&arguments) {
                Err(error) if zfs_names::says_exists(&error.to_string()) => {}
                result => drop(result?),
            }
        }
        let found = self.names.read_list(&self.zfs(&self.names.list())?);
        let mut used = HashSet::new();
        let mut work = Vec::new();
        for name in self.files()? {
            if let Some(leaf) = name.strip_prefix(GONE) {
                used.insert(leaf.to_owned());
                work.push(Work::Destroy(leaf.to_owned()));
            } else if let Ok(id) = name.parse::<SandboxId>() {
                used.extend(self.leaf(id)?);
            }
        }
        let is_there = |layer: &Layer| self.layers.join(layer.as_str()).exists();
        let mut state = State::default();
        state.ready.extend(found.ready.iter().filter(|layer| is_there(layer)).cloned());
        for (leaf, layer) in &found.clones {
            match layer.as_ref().filter(|layer| state.ready.contains(layer)) {
                _ if used.contains(leaf) => {}
                Some(layer) => state.clones.entry(layer.clone()).or_default().push(leaf.clone()),
                None => work.push(Work::Destroy(leaf.clone())),
            }
        }
        let gone = found.layers.into_iter().filter(|layer| !is_there(layer));
        work.extend(gone.map(Work::Forget));
        work.extend(state.ready.iter().cloned().map(Work::Fill));
        *self.state.lock() = state;
        Ok(work)
    }

    fn work(&self, work: Work) {
        let done = match &work {
            Work::Layer(layer, path) => self.make_layer(layer, path),
            Work::Fill(layer) => self.fill(layer),
            Work::Destroy(leaf) => self.destroy(leaf),
            Work::Forget(layer) => self.forget(layer),
        };
        if let Err(error) = done {
            let what = match work {
                Work::Layer(..) => "its sandboxes have thin roots",
                Work::Fill(_) => "creates run zfs",
                Work::Destroy(_) | Work::Forget(_) => "it is tried again at the next start",
            };
            warn!(%error, "a dataset could not be seen to: {what}");
        }
    }

    fn make_layer(&self, layer: &Layer, path: &Path) -> Result<(), Error> {
        let staging = self.staging(layer);
        (self.tools.clear)(&staging);
        self.destroy_if_there(&self.names.destroy_layer(layer))?;
        self.zfs(&self.names.create_layer(layer))?;
        (self.tools.copy)(path, &self.names.layer(layer), &staging)?;
        self.zfs(&self.names.snapshot(layer))?;
        self.state.lock().ready.insert(layer.clone());
        info!("roots of {} are clones from now on", path.display());
        self.fill(layer)
    }

    /// Kept while sandboxes are made of it: only they are clones then, as those that were ready
    /// have been destroyed before. It is tried again at the next start.
    fn forget(&self, layer: &Layer) -> Result<(), Error> {
        let found = self.names.read_list(&self.zfs(&self.names.list())?);
        if found.is_cloned(layer) {
            info!("dataset {} is kept for sandboxes made of it", self.names.layer(layer));
            return Ok(());
        }
        (self.tools.clear)(&self.staging(layer));
        self.destroy_if_there(&self.names.destroy_layer(layer))
    }

    fn fill(&self, layer: &Layer) -> Result<(), Error> {
        while self.state.lock().clones.get(layer).map_or(0, Vec::len) < READY {
            let leaf = SandboxId::random().to_string();
            self.zfs(&self.names.clone_of(layer, &leaf))?;
            self.state.lock().clones.entry(layer.clone()).or_default().push(leaf);
        }
        Ok(())
    }

    fn destroy(&self, leaf: &str) -> Result<(), Error> {
        self.destroy_if_there(&self.names.destroy_clone(leaf))?;
        let path = self.claims.join(format!("{GONE}{leaf}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.call("unlink", path.display()),
        }
    }

    fn destroy_if_there(&self, arguments: &Arguments) -> Result<(), Error> {
        match self.zfs(arguments) {
            Err(error) if zfs_names::says_missing(&error.to_string()) => Ok(()),
            result => result.map(drop),
        }
    }

    fn take_ready(&self, layer: &Layer) -> Option<String> {
        let mut state = self.state.lock();
        let leaf = state.clones.get_mut(layer)?.pop()?;
        state.taken.insert(leaf.clone());
        Some(leaf)
    }

    fn leaf(&self, id: SandboxId) -> Result<Option<String>, Error> {
        let path = self.claim(id);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some).call("read", path.display()),
        }
    }

    fn files(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.claims) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.call("read", self.claims.display())?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.collect())
    }

    fn staging(&self, layer: &Layer) -> PathBuf {
        self.claims.join(format!(".layer-{}", layer.as_str()))
    }

    fn claim(&self, id: SandboxId) -> PathBuf {
        self.claims.join(id.to_string())
    }

    fn zfs(&self, arguments: &Arguments) -> Result<String, Error> {
        (self.tools.zfs)(arguments)
    }
}

fn run(arguments: &Arguments) -> Result<String, Error> {
    program::run(&texts(arguments), "", PATIENCE)
}

fn copy(layer: &Path, dataset: &str, staging: &Path) -> Result<(), Error> {
    let path = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            Error::Unsupported(format!("the path of a layer is text: {}", path.display()))
        })
    };
    let (read, write) = zfs_names::copy(&path(layer)?, &path(staging)?);
    fs::create_dir_all(staging).call("mkdir", staging.display())?;
    nmount(&Mount::new("zfs", staging).option("from", dataset)).to("mount", dataset)?;
    let copied = program::pipe(&texts(&read), &texts(&write), COPY);
    let unmounted = unmount(staging, false).to("unmount", staging.display());
    copied.and(unmounted)?;
    fs::remove_dir(staging).call("rmdir", staging.display())
}

fn clear(staging: &Path) {
    if staging.exists() {
        // Not mounted, where the copy had come no further; what is in the way is told by what
        // comes next.
        let _ = unmount(staging, true);
        let _ = fs::remove_dir(staging);
    }
}

fn texts(arguments: &Arguments) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests;
