//! Roots that are clones of a template's layer, where the data directory is on ZFS.
//!
//! A layer is copied into a dataset and snapshotted the first time a sandbox is made of it, which
//! takes as long as it takes; until then its sandboxes have thin roots. Of a layer that is
//! ready some clones are ready too, so that a create runs no program; one that finds none runs
//! `zfs clone` once. All else is done behind, by one thread (`work`).
//!
//! A sandbox that is shut down keeps its clone, until it goes on or its directory is gone. A copy
//! of one is a layer as well: see `zfs_names`. Whose is what, `claims` says.

mod claims;
mod work;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::CStr,
    fs::{self, File},
    io::Read,
    os::unix::fs::OpenOptionsExt,
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

use self::claims::{Claim, Claims, Of};
use super::{
    copying,
    error::{Call, Kernel},
    pf::Tag,
    program,
    zfs_names::{self, Arguments, Found, InTheWay, Layer, Names},
};
use crate::{
    backend::{Error, Settings},
    sandbox::SandboxId,
};

/// For one change of a dataset, on a pool that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a pool to write out what it has, others' data included.
const SYNC: Duration = Duration::from_secs(600);
/// Clones of a layer that are kept ready.
const READY: usize = 2;
/// In the directory that stands for a copy: which layer that is, wherever the directory is moved.
const MARK: &str = ".coppice-dataset";
/// The same, for whoever copies a tree: it is somebody's who may have put anything there.
pub(super) const MARK_NAME: &CStr = c".coppice-dataset";

/// The datasets of one data directory. All of it blocks.
pub(super) struct Zfs {
    shared: Arc<Shared>,
    work: Sender<Work>,
    /// Until `prepare`.
    todo: Mutex<Option<Receiver<Work>>>,
}

struct Shared {
    names: Names,
    /// Where templates' layers are, and sandboxes.
    layers: PathBuf,
    sandboxes: PathBuf,
    claims: Claims,
    tools: Tools,
    state: Mutex<State>,
}

/// What clones are ready for: they are told apart by how much they may have in them, too, as a
/// bound that is set later takes a program more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    layer: Layer,
    most: Option<u64>,
}

#[derive(Default)]
struct State {
    /// And what is in each of them (bytes).
    ready: BTreeMap<Layer, u64>,
    /// Those that the thread was told to make, or that it could not.
    tried: HashSet<Layer>,
    clones: HashMap<Kind, Vec<String>>,
    /// Clones that were ready and have become somebody's just now.
    taken: HashSet<String>,
    /// Layers that nobody needs but what is still made of them.
    forgotten: HashSet<Layer>,
}

enum Work {
    /// To be filled for this when it is there.
    Layer(Layer, PathBuf, Option<u64>),
    Fill(Kind),
    Destroy(String),
    /// A layer whose template is gone, or that was the copy of a sandbox.
    Forget(Layer),
    /// A snapshot of a sandbox's root that a copy was to be made of, and was not.
    Moment(String, String),
    /// What is kept for sandboxes that are gone.
    Sweep,
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

/// One byte more than a layer's name has.
const LONGEST_MARK: u64 = 65;

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
            sandboxes: data_dir.join("sandboxes"),
            claims: Claims::new(data_dir.join("clones")),
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
            let work = move || shared.work_through(&todo);
            thread::Builder::new().name("zfs".into()).spawn(work).call("spawn", "thread")?;
        }
        Ok(())
    }

    /// Whether a layer has a snapshot to clone; a thin root is made of it otherwise, and the
    /// snapshot behind, with clones for sandboxes that may have so many bytes of their own.
    ///
    /// # Errors
    /// Where it is the copy of a sandbox whose dataset is gone: there is nothing to be thin of.
    pub(super) fn has(&self, layer: &Path, disk: Option<u64>) -> Result<bool, Error> {
        let name = layer_of(layer);
        if self.shared.state.lock().ready.contains_key(&name) {
            return Ok(true);
        }
        check_is_tree(layer)?;
        if self.shared.state.lock().tried.insert(name.clone()) {
            let _ = self.work.send(Work::Layer(name, layer.to_owned(), disk));
        }
        Ok(false)
    }

    /// The dataset that a sandbox's root is to be, one that is ready or one to be made, in which it
    /// may have so many bytes of its own.
    pub(super) fn dataset(
        &self,
        layer: &Path,
        id: SandboxId,
        disk: Option<u64>,
    ) -> Result<String, Error> {
        let kind = self.shared.kind(layer_of(layer), disk);
        let leaf = self.shared.take_ready(&kind);
        let leaf = leaf.unwrap_or_else(|| SandboxId::random().to_string());
        let base = self.shared.size(&kind.layer);
        // One that was ready is again at the next start, if this fails.
        self.shared.claims.write(&Of::Sandbox(id), &Claim { leaf: leaf.clone(), base })?;
        Ok(self.shared.names.clone(&leaf))
    }

    /// Sees to it that [`Zfs::dataset`] of `id` is a clone of a layer's snapshot; it is mounted by
    /// the caller with nmount(2).
    pub(super) fn clone_layer(
        &self,
        layer: &Path,
        id: SandboxId,
        disk: Option<u64>,
    ) -> Result<(), Error> {
        let kind = self.shared.kind(layer_of(layer), disk);
        let claim = self.shared.claims.read(&Of::Sandbox(id))?;
        let Claim { leaf, .. } = claim.ok_or_else(|| self.shared.unclaimed(id))?;
        let was_ready = self.shared.state.lock().taken.remove(&leaf);
        if !was_ready {
            self.shared.zfs(&self.shared.names.clone_of(&kind.layer, &leaf, kind.most))?;
        }
        let _ = self.work.send(Work::Fill(kind));
        Ok(())
    }

    /// Of a dataset that is not mounted any more: keeps it for the sandbox to go on with. Says
    /// whether there is one. Idempotent.
    pub(super) fn keep(&self, id: SandboxId) -> Result<bool, Error> {
        if self.shared.claims.read(&Of::Sandbox(id))?.is_some() {
            self.shared.claims.rename(&Of::Sandbox(id), &Of::Kept(id))?;
            return Ok(true);
        }
        Ok(self.shared.claims.read(&Of::Kept(id))?.is_some())
    }

    /// The dataset that was kept for a sandbox, if one was.
    pub(super) fn kept(&self, id: SandboxId) -> Result<Option<String>, Error> {
        let claim = self.shared.claims.read(&Of::Kept(id))?;
        Ok(claim.map(|claim| self.shared.names.clone(&claim.leaf)))
    }

    /// It goes on with it.
    pub(super) fn take_up(&self, id: SandboxId) -> Result<(), Error> {
        self.shared.claims.rename(&Of::Kept(id), &Of::Sandbox(id))
    }

    /// Gives up a sandbox's dataset, which is not mounted any more. It goes behind: at once, or,
    /// where it was kept, with the sandbox's directory, as whoever clears up after a gateway that
    /// died may have it go on. Idempotent.
    pub(super) fn destroy(&self, id: SandboxId) -> Result<(), Error> {
        if let Some(Claim { leaf, .. }) = self.shared.claims.read(&Of::Sandbox(id))? {
            self.shared.state.lock().taken.remove(&leaf);
            self.shared.claims.rename(&Of::Sandbox(id), &Of::Gone(leaf.clone()))?;
            let _ = self.work.send(Work::Destroy(leaf));
        } else if self.shared.claims.read(&Of::Kept(id))?.is_some() {
            let _ = self.work.send(Work::Sweep);
        }
        Ok(())
    }

    /// Of the bytes in a sandbox's root, those that it began with.
    pub(super) fn base(&self, id: SandboxId) -> Result<Option<u64>, Error> {
        Ok(self.shared.claims.read(&Of::Sandbox(id))?.map(|claim| claim.base))
    }

    /// Makes the layer that `to` stands for of a running sandbox's root, as it is at one moment;
    /// false where that is no dataset. What a process has mapped and not written yet (msync(2)) may
    /// be missing in it.
    pub(super) fn copy(
        &self,
        from: SandboxId,
        to: &Path,
        is_enough: &dyn Fn() -> bool,
    ) -> Result<bool, Error> {
        let Some(claim) = self.shared.claims.read(&Of::Sandbox(from))? else { return Ok(false) };
        let layer = Layer::random();
        stand_for(&layer, to)?;
        let made = self.shared.claims.write_copy(&layer, to);
        let at = SandboxId::random().to_string();
        let copy = |()| self.shared.copy_clone(&claim.leaf, &layer, &at, is_enough);
        let made = made.and_then(copy);
        if made.is_err() {
            // The layer first, which is made of that moment or has it.
            self.release_copy(to)?;
            let _ = self.work.send(Work::Moment(claim.leaf, at));
            fs::remove_dir_all(to).call("remove", to.display())?;
        }
        made.map(|()| true)
    }

    /// Whether `copy` stands for a dataset.
    pub(super) fn is_copy(&self, copy: &Path) -> Result<bool, Error> {
        Ok(self.shared.claims.copy(&layer_of(copy))?.is_some())
    }

    /// Gives up a copy. It goes behind, when nothing is made of it any more. Idempotent.
    pub(super) fn release_copy(&self, copy: &Path) -> Result<(), Error> {
        if self.is_copy(copy)? {
            let layer = layer_of(copy);
            self.shared.state.lock().ready.remove(&layer);
            self.shared.claims.remove(&Of::Copy(layer.clone()))?;
            let _ = self.work.send(Work::Forget(layer));
        }
        Ok(())
    }

    /// Writes all of the pool to its disks. Blocks for long.
    pub(super) fn flush(&self) -> Result<(), Error> {
        self.shared.zfs(&self.shared.names.sync()).map(drop)
    }

    /// The sandboxes that have a dataset, but those that it is kept for.
    pub(super) fn list(&self) -> Result<Vec<SandboxId>, Error> {
        let all = self.shared.claims.all()?.into_iter();
        Ok(all.filter_map(|of| if let Of::Sandbox(id) = of { Some(id) } else { None }).collect())
    }
}

/// The layer that a directory is or stands for.
fn layer_of(path: &Path) -> Layer {
    let is_of_template = path.file_name().and_then(|name| Layer::named(name.to_str()?)).is_some();
    let mark = || Layer::named(&read_mark(&path.join(MARK))?);
    let marked = if is_of_template { None } else { mark() };
    marked.unwrap_or_else(|| Layer::of(path))
}

/// What a mark says, if it is one: its directory may be a tree of somebody's.
fn read_mark(mark: &Path) -> Option<String> {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(mark).ok().filter(|it| it.metadata().is_ok_and(|it| it.is_file()))?;
    let mut text = String::new();
    file.take(LONGEST_MARK).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A directory that stands for a dataset has nothing else in it.
pub(super) fn check_is_tree(layer: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(layer.join(MARK)) {
        Err(_) => Ok(()),
        Ok(_) => Err(Error::Unsupported(format!(
            "the dataset that {} stands for is not there",
            layer.display()
        ))),
    }
}

fn stand_for(layer: &Layer, to: &Path) -> Result<(), Error> {
    fs::create_dir(to).call("mkdir", to.display())?;
    let mark = to.join(MARK);
    fs::write(&mark, layer.as_str()).call("write", mark.display())
}

fn copy(layer: &Path, dataset: &str, staging: &Path) -> Result<(), Error> {
    fs::create_dir_all(staging).call("mkdir", staging.display())?;
    nmount(&Mount::new("zfs", staging).option("from", dataset)).to("mount", dataset)?;
    let copied = copying::copy_into(layer, staging, &|| false);
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

fn run(arguments: &Arguments) -> Result<String, Error> {
    let is_sync = arguments.get(1).is_some_and(|command| command == "sync");
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    program::run(&words, "", if is_sync { SYNC } else { PATIENCE })
}

#[cfg(test)]
mod tests;
