//! The watched directories of one watch, and what the kernel's events about them mean. Blocking.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fs, io,
    ops::Bound,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    super::{
        entry::{Describe, text},
        error::Error,
    },
    Wanted,
    network::Mounts,
    source::{Raw, Sender},
};
use crate::{
    connect::proto::filesystem::{EventType, FilesystemEvent},
    files,
    os::{Change, Directories, Unwatched},
};

/// Directories of one watch.
const MAX_DIRECTORIES: usize = 50_000;
/// Events one batch may become, new directories being listed.
const MAX_EVENTS: usize = 10_000;
/// How long the kernel's own word of something that was already told may lag behind.
const LAG: Duration = Duration::from_secs(2);
/// Names remembered as already told.
const MAX_TOLD: usize = 20_000;

pub(super) struct Tree {
    watcher: Directories,
    root: PathBuf,
    want: Wanted,
    directories: BTreeSet<PathBuf>,
    created: Told,
    removed: Told,
    /// Cookies of names that left, so that their arrival is known as a rename within.
    left: VecDeque<usize>,
    describe: Describe,
}

/// What clients know already from a listing or from a directory's parent.
#[derive(Default)]
struct Told(HashMap<PathBuf, Instant>);

impl Told {
    fn add(&mut self, path: &Path) {
        if self.0.len() >= MAX_TOLD {
            self.0.retain(|_, at| at.elapsed() < LAG);
        }
        if self.0.len() < MAX_TOLD {
            self.0.insert(path.to_owned(), Instant::now());
        }
    }

    fn take(&mut self, path: &Path) -> bool {
        self.0.remove(path).is_some_and(|at| at.elapsed() < LAG)
    }
}

/// A batch of events, and why there will be no more after it.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) events: Vec<FilesystemEvent>,
    pub(super) end: Option<Error>,
}

impl Tree {
    pub(super) fn open(root: PathBuf, want: Wanted, mut sender: Sender) -> Result<Self, Error> {
        let shown = root.display();
        let resolved = fs::canonicalize(&root).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound(format!("path {shown} not found")),
            _ => Error::io(format!("resolving '{shown}'"), error),
        })?;
        if !resolved.is_dir() {
            return Err(Error::Invalid(format!("path {shown} not a directory")));
        }
        if !want.network_mounts && Mounts::read().is_network(&resolved) {
            let text = format!("cannot watch path on network filesystem: {shown}");
            return Err(Error::Invalid(text));
        }
        let watcher = Directories::new(move |told| sender.tell(told))
            .map_err(|unwatched| failed(unwatched, &root))?;
        let mut tree = Self {
            watcher,
            root: root.clone(),
            want,
            directories: BTreeSet::new(),
            created: Told::default(),
            removed: Told::default(),
            left: VecDeque::new(),
            describe: Describe::new(),
        };
        tree.adopt(&root, None)?;
        if tree.directories.is_empty() {
            return Err(Error::NotFound(format!("path {} not found", root.display())));
        }
        Ok(tree)
    }

    pub(super) fn translate(&mut self, raw: Vec<Raw>) -> Batch {
        // Users may have come since the last time.
        self.describe = Describe::new();
        let mut batch = Batch::default();
        for (path, change) in raw {
            if files::is_partial(&path) {
                continue;
            }
            if let Err(end) = self.apply(&path, change, &mut batch.events) {
                batch.end = Some(end);
                break;
            }
        }
        batch
    }

    fn apply(
        &mut self,
        path: &Path,
        change: Change,
        events: &mut Vec<FilesystemEvent>,
    ) -> Result<(), Error> {
        match change {
            Change::Created => {
                self.removed.take(path);
                if !self.created.take(path) {
                    self.tell(path, EventType::EVENT_TYPE_CREATE, events)?;
                    self.adopt_new(path, Some(events))?;
                }
            }
            Change::Arrived(cookie) => {
                self.removed.take(path);
                self.tell(path, EventType::EVENT_TYPE_CREATE, events)?;
                let known = cookie.is_some_and(|cookie| self.left.contains(&cookie));
                // What a directory brings along is news only when it comes from elsewhere.
                self.adopt_new(path, if known { None } else { Some(events) })?;
            }
            Change::Left(cookie) => {
                self.forget(path);
                self.left.extend(cookie);
                if self.left.len() > 64 {
                    self.left.pop_front();
                }
                self.tell(path, EventType::EVENT_TYPE_RENAME, events)?;
            }
            Change::Moved if path == self.root => {
                self.tell(path, EventType::EVENT_TYPE_RENAME, events)?;
                let text = format!("watched directory {} was moved", self.root.display());
                return Err(Error::NotFound(text));
            }
            Change::Moved => {}
            Change::Removed if path == self.root => {
                self.tell(path, EventType::EVENT_TYPE_REMOVE, events)?;
                let text = format!("watched directory {} was removed", self.root.display());
                return Err(Error::NotFound(text));
            }
            Change::Removed => {
                self.created.take(path);
                // Of a watched directory both itself and its parent say so.
                let told = self.removed.take(path);
                if self.forget(path) {
                    self.removed.add(path);
                }
                if !told {
                    self.tell(path, EventType::EVENT_TYPE_REMOVE, events)?;
                }
            }
            Change::Attributes => {
                let repeated = self.directories.contains(path)
                    && events.last().is_some_and(|last| {
                        last.r#type == EventType::EVENT_TYPE_CHMOD && last.name == self.name(path)
                    });
                if !repeated {
                    self.tell(path, EventType::EVENT_TYPE_CHMOD, events)?;
                }
            }
            Change::Written => self.tell(path, EventType::EVENT_TYPE_WRITE, events)?,
        }
        Ok(())
    }

    fn tell(
        &mut self,
        path: &Path,
        kind: EventType,
        events: &mut Vec<FilesystemEvent>,
    ) -> Result<(), Error> {
        if events.len() >= MAX_EVENTS {
            return Err(Error::Exhausted("events were lost: too many at once".into()));
        }
        let describes = matches!(
            kind,
            EventType::EVENT_TYPE_CREATE
                | EventType::EVENT_TYPE_WRITE
                | EventType::EVENT_TYPE_CHMOD
        );
        let entry = (describes && self.want.entries)
            .then(|| self.describe.entry(path, path).ok())
            .flatten();
        events.push(FilesystemEvent {
            name: self.name(path),
            r#type: kind.into(),
            entry: entry.map_or_else(buffa::MessageField::none, buffa::MessageField::some),
            ..Default::default()
        });
        Ok(())
    }

    fn name(&self, path: &Path) -> String {
        match path.strip_prefix(&self.root) {
            Ok(relative) if relative.as_os_str().is_empty() => ".".into(),
            Ok(relative) => text(relative),
            Err(_) => text(path),
        }
    }

    fn adopt_new(
        &mut self,
        path: &Path,
        events: Option<&mut Vec<FilesystemEvent>>,
    ) -> Result<(), Error> {
        let is_directory = || fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        if self.want.recursive && is_directory() { self.adopt(path, events) } else { Ok(()) }
    }

    /// Watches `top`, and when recursive all below it. What is there by then is told to `events`,
    /// since the kernel was not yet asked when it came.
    fn adopt(
        &mut self,
        top: &Path,
        mut events: Option<&mut Vec<FilesystemEvent>>,
    ) -> Result<(), Error> {
        let mut pending = vec![top.to_owned()];
        while let Some(directory) = pending.pop() {
            if self.directories.len() >= MAX_DIRECTORIES {
                let root = self.root.display();
                let text = format!("more than {MAX_DIRECTORIES} directories to watch at '{root}'");
                return Err(Error::Exhausted(text));
            }
            match self.watcher.watch(&directory) {
                Ok(()) => {}
                // Gone again.
                Err(Unwatched::Gone) => continue,
                Err(unwatched) => return Err(failed(unwatched, &directory)),
            }
            self.directories.insert(directory.clone());
            if !self.want.recursive {
                break;
            }
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if let Some(events) = events.as_deref_mut() {
                    self.tell(&path, EventType::EVENT_TYPE_CREATE, events)?;
                    self.created.add(&path);
                }
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if pending.len() >= MAX_DIRECTORIES {
                        let text = format!("more than {MAX_DIRECTORIES} directories to watch");
                        return Err(Error::Exhausted(text));
                    }
                    pending.push(path);
                }
            }
        }
        Ok(())
    }

    /// Says whether `path` was a watched directory.
    fn forget(&mut self, path: &Path) -> bool {
        if !self.directories.contains(path) {
            return false;
        }
        let below: Vec<_> = self
            .directories
            .range::<Path, _>((Bound::Included(path), Bound::Unbounded))
            .take_while(|directory| directory.starts_with(path))
            .cloned()
            .collect();
        for directory in below {
            self.directories.remove(&directory);
            self.watcher.unwatch(&directory);
        }
        true
    }
}

/// What there is too little of is the host's, so that the cure is not in the sandbox.
fn failed(unwatched: Unwatched, path: &Path) -> Error {
    let shown = path.display();
    match unwatched {
        Unwatched::OutOf(what) => Error::Exhausted(format!(
            "watching '{shown}': this sandbox is out of {what}; stop watches that are no longer \
             needed, or ask the operator to raise the host's limit"
        )),
        Unwatched::Gone => Error::NotFound(format!("path {shown} not found")),
        Unwatched::Io(error) => Error::io(format!("watching '{shown}'"), error),
    }
}
