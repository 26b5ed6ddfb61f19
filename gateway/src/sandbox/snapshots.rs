//! Snapshots: copies of sandboxes' files that other sandboxes are made from.
//!
//! `<data-dir>/snapshots/<key>/` holds one copy and, where it has a name of its own,
//! `snapshot.json`; a fork's has none. A copy is there as long as something lies over it: it has a
//! name, or a sandbox or another snapshot [holds](Hold) it. What nothing holds goes to the trash.
//!
//! To clients a snapshot is a template: `<name>:<tag>`, or `<key>:default` where it was given none.
//! The same name and tag again is another snapshot under them; what was made from the one before
//! keeps that.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, DirBuilder},
    ops::ControlFlow,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    Error, SandboxId, Tenant, record,
    shelves::{Position, Shelves, visit},
};
use crate::template::Template;

const RECORD: &str = "snapshot.json";
/// Raised when an older gateway would misread what is written.
const VERSION: u32 = 3;
/// From when sandboxes had limits that a gateway of before would not read.
const LIMITS: u32 = 3;
/// From when there were tenants.
const TENANTS: u32 = 2;
const OLDEST: u32 = 1;
/// A larger file is none of ours.
const MAX_BYTES: u64 = 16 << 20;
/// Of a snapshot that was given no other.
pub(super) const TAG: &str = "default";
/// The copy itself, in its directory.
const COPY: &str = "copy";

/// A copy's directory.
pub(super) type Key = SandboxId;

/// What a client calls a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub name: String,
    pub tag: String,
}

/// Snapshots of a tenant's that are listed together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Among {
    All(Tenant),
    /// Copies of that sandbox's files.
    Of(Tenant, SandboxId),
    /// Of that name, whatever their tags.
    Named(Tenant, String),
}

/// One that sandboxes can be made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    version: u32,
    pub key: Key,
    /// To others it is not there.
    #[serde(default, skip_serializing_if = "Tenant::is_default")]
    pub tenant: Tenant,
    /// As its template is called: a name, or the key.
    pub name: String,
    pub tag: String,
    /// Whether somebody gave it that name.
    pub named: bool,
    /// The sandbox whose files these were.
    pub of: SandboxId,
    pub created_at: DateTime<Utc>,
    pub(super) template: Template,
    /// It is whole on the disk; before that only as long as this run of the kernel lasts.
    pub(super) durable: bool,
    pub(super) boot: Option<String>,
}

impl Snapshot {
    pub(super) fn new(
        key: Key,
        named: Option<Named>,
        of: SandboxId,
        tenant: Tenant,
        template: Template,
        boot: Option<String>,
    ) -> Self {
        let own = Named { name: key.to_string(), tag: TAG.to_owned() };
        let (named, Named { name, tag }) = (named.is_some(), named.unwrap_or(own));
        let template = Template { id: name.clone(), ..template };
        let created_at = Utc::now();
        let version = match tenant.is_default() {
            _ if template.limits.are_of_today() => LIMITS,
            false => TENANTS,
            true => OLDEST,
        };
        let durable = false;
        Self { version, key, tenant, name, tag, named, of, created_at, template, durable, boot }
    }

    fn place(&self) -> (Tenant, Named) {
        let named = Named { name: self.name.clone(), tag: self.tag.clone() };
        (self.tenant.clone(), named)
    }

    /// In the order of a list.
    pub fn position(&self) -> Position {
        (self.created_at, self.key)
    }

    fn among(&self) -> [Among; 3] {
        let tenant = || self.tenant.clone();
        let named = Among::Named(tenant(), self.name.clone());
        [Among::All(tenant()), Among::Of(tenant(), self.of), named]
    }

    /// As clients ask for it.
    pub fn reference(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }

    fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(RECORD);
        let failed = |source| Error::io("cannot write", &path, source);
        let json = serde_json::to_vec(self).map_err(|e| failed(e.into()))?;
        record::put(&path, &json, false).map(drop)
    }

    fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(RECORD);
        let failed = |source| Error::io("cannot read", &path, source);
        let refused = |text: String| failed(std::io::Error::other(text));
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
            Ok(found) if found.len() > MAX_BYTES => {
                return Err(refused(format!("{} bytes are too many", found.len())));
            }
            Ok(_) => {}
        }
        let json = fs::read(&path).map_err(failed)?;
        let read: Self = serde_json::from_slice(&json).map_err(|e| refused(e.to_string()))?;
        if !(OLDEST..=VERSION).contains(&read.version) {
            return Err(refused(format!("written as version {}", read.version)));
        }
        Ok(Some(read))
    }
}

/// The copies under a template's layers, kept until this is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    keys: Vec<Key>,
    snapshots: Weak<Snapshots>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(snapshots) = self.snapshots.upgrade() {
            snapshots.let_go(&self.keys);
        }
    }
}

/// A snapshot that its tenant may have, until this is dropped.
pub(super) struct Promise {
    tenant: Tenant,
    snapshots: Arc<Snapshots>,
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut all = self.snapshots.all.lock();
        if let Some(promised) = all.promised.get_mut(&self.tenant) {
            *promised -= 1;
            if *promised == 0 {
                all.promised.remove(&self.tenant);
            }
        }
    }
}

/// All of a data directory.
pub(super) struct Snapshots {
    dir: PathBuf,
    all: Mutex<All>,
    /// There may be something that nothing holds.
    stirred: Notify,
}

#[derive(Default)]
struct All {
    /// By whose they are, name and tag.
    named: BTreeMap<(Tenant, Named), (Arc<Snapshot>, Option<Hold>)>,
    /// The same, as they are listed.
    listed: Shelves<Among, Snapshot>,
    held: HashMap<Key, usize>,
    /// Being made.
    promised: HashMap<Tenant, usize>,
}

impl All {
    fn list(&mut self, snapshot: &Arc<Snapshot>) {
        for among in snapshot.among() {
            self.listed.put(among, snapshot.position(), snapshot);
        }
    }

    fn unlist(&mut self, snapshot: &Snapshot) {
        for among in snapshot.among() {
            self.listed.take(&among, snapshot.position());
        }
    }
}

impl Snapshots {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, all: Mutex::default(), stirred: Notify::new() }
    }

    /// Reads what there is; `boot` is the run of the kernel. Returns those that are to be flushed.
    pub(super) fn load(self: &Arc<Self>, boot: Option<&str>) -> Result<Vec<Arc<Snapshot>>, Error> {
        let failed = |source| Error::io("cannot read", &self.dir, source);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(failed)?;
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let dir = entry.map_err(failed)?.path();
            let snapshot = match Snapshot::read(&dir) {
                Ok(Some(snapshot)) if dir == self.dir.join(snapshot.key.to_string()) => snapshot,
                Ok(None) => continue,
                Ok(Some(other)) => {
                    tracing::error!(dir = %dir.display(), "its record is that of {}", other.key);
                    continue;
                }
                // Left alone: another gateway may know what to do with it.
                Err(error) => {
                    tracing::error!("{error}");
                    continue;
                }
            };
            if !snapshot.durable && (boot.is_none() || snapshot.boot.as_deref() != boot) {
                tracing::error!(
                    snapshot = snapshot.reference(),
                    "lost: the host ended before it was on the disk"
                );
                forget(&dir)?;
                continue;
            }
            let snapshot = Arc::new(snapshot);
            // Of two of one name the gateway before meant to take this one away.
            if let Some(other) = self.insert(snapshot) {
                forget(&self.dir.join(other.key.to_string()))?;
            }
        }
        Ok(self.all().into_iter().filter(|snapshot| !snapshot.durable).collect())
    }

    fn insert(self: &Arc<Self>, snapshot: Arc<Snapshot>) -> Option<Arc<Snapshot>> {
        let hold = self.hold(&snapshot.template.layers);
        if hold.is_none() {
            let snapshot = snapshot.reference();
            tracing::error!(snapshot, "one that it lies over is gone: no sandbox can be made");
        }
        let name = snapshot.place();
        let mut all = self.all.lock();
        // Of two, after a gateway that died between them, the later one.
        if all.named.get(&name).is_some_and(|(there, _)| there.created_at > snapshot.created_at) {
            return Some(snapshot);
        }
        let before = all.named.insert(name, (snapshot.clone(), hold));
        if let Some((before, _)) = &before {
            all.unlist(before);
        }
        all.list(&snapshot);
        drop(all);
        before.map(|(before, _)| before)
    }

    /// One that takes the place of another of its name is no more than there were.
    ///
    /// # Errors
    /// [`Error::TooManySnapshots`]
    pub(super) fn promise(
        self: &Arc<Self>,
        tenant: &Tenant,
        named: Option<&Named>,
        most: Option<usize>,
    ) -> Result<Promise, Error> {
        let mut all = self.all.lock();
        let replaces =
            named.is_some_and(|named| all.named.contains_key(&(tenant.clone(), named.clone())));
        let promised = all.promised.get(tenant).copied().unwrap_or_default();
        let count = all.listed.count(&Among::All(tenant.clone())) + promised;
        if let Some(most) = most.filter(|most| count >= *most && !replaces) {
            return Err(Error::TooManySnapshots { tenant: tenant.clone(), most });
        }
        *all.promised.entry(tenant.clone()).or_default() += 1;
        Ok(Promise { tenant: tenant.clone(), snapshots: self.clone() })
    }

    /// Where a copy is to be made, and what keeps it until it has a name or a sandbox.
    pub(super) fn place(self: &Arc<Self>) -> Result<(Key, PathBuf, Hold), Error> {
        let key = Key::random();
        let dir = self.dir.join(key.to_string());
        *self.all.lock().held.entry(key).or_default() += 1;
        let hold = Hold { keys: vec![key], snapshots: Arc::downgrade(self) };
        let failed = |source| Error::io("cannot make", &dir, source);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        Ok((key, dir.join(COPY), hold))
    }

    /// Makes a copy a snapshot: its record is written, and it can be found. Blocks.
    pub(super) fn add(self: &Arc<Self>, snapshot: Snapshot) -> Result<Arc<Snapshot>, Error> {
        snapshot.write(&self.dir.join(snapshot.key.to_string()))?;
        let snapshot = Arc::new(snapshot);
        if let Some(before) = self.insert(snapshot.clone()) {
            forget(&self.dir.join(before.key.to_string()))?;
        }
        Ok(snapshot)
    }

    /// A snapshot is whole on the disk from now on. Blocks.
    pub(super) fn is_durable(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let dir = self.dir.join(snapshot.key.to_string());
        let now = Snapshot { durable: true, ..snapshot.clone() };
        let failed = |source| Error::io("cannot flush", &dir, source);
        let json = serde_json::to_vec(&now).map_err(|e| failed(e.into()))?;
        // Deleted meanwhile, it is not to be there again.
        let all = self.all.lock();
        let name = snapshot.place();
        if all.named.get(&name).is_none_or(|(there, _)| there.key != snapshot.key) {
            return Ok(());
        }
        let file = record::put(&dir.join(RECORD), &json, false)?;
        drop(all);
        file.sync_all().map_err(failed)?;
        for path in [&dir, &self.dir] {
            fs::File::open(path).and_then(|it| it.sync_all()).map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn copy_of(&self, snapshot: &Snapshot) -> PathBuf {
        self.dir.join(snapshot.key.to_string()).join(COPY)
    }

    /// Those that are among these layers.
    pub(super) fn copies_among(&self, layers: &[PathBuf]) -> Vec<PathBuf> {
        let keys = layers.iter().filter_map(|layer| self.key_of(layer));
        keys.map(|key| self.dir.join(key.to_string()).join(COPY)).collect()
    }

    /// Shows those that come after `after`, or all, the newest first, until `each` has enough.
    pub(super) fn visit(
        &self,
        among: &Among,
        after: Option<Position>,
        each: impl FnMut(&Arc<Snapshot>) -> ControlFlow<()>,
    ) {
        visit(after, |after| self.all.lock().listed.next(among, true, after), each);
    }

    /// In the order of their names.
    pub(super) fn all(&self) -> Vec<Arc<Snapshot>> {
        self.all.lock().named.values().map(|(snapshot, _)| snapshot.clone()).collect()
    }

    /// `name` or `name:tag`, of that tenant's.
    pub(super) fn find(&self, tenant: &Tenant, reference: &str) -> Option<Arc<Snapshot>> {
        let (name, tag) = reference.split_once(':').unwrap_or((reference, TAG));
        let name = (tenant.clone(), Named { name: name.to_owned(), tag: tag.to_owned() });
        self.all.lock().named.get(&name).map(|(snapshot, _)| snapshot.clone())
    }

    pub(super) fn template(&self, tenant: &Tenant, reference: &str) -> Option<Arc<Template>> {
        self.find(tenant, reference).map(|snapshot| Arc::new(snapshot.template.clone()))
    }

    /// Takes a snapshot's name from it. Blocks.
    pub(super) fn remove(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let name = snapshot.place();
        let mut all = self.all.lock();
        if all.named.get(&name).is_none_or(|(there, _)| there.key != snapshot.key) {
            return Ok(());
        }
        let dir = self.dir.join(snapshot.key.to_string());
        forget(&dir)?;
        let removed = all.named.remove(&name);
        all.unlist(snapshot);
        drop(all);
        // Once that is told it is not to be there again after a power failure.
        let synced = fs::File::open(&dir).and_then(|it| it.sync_all());
        // Which lets go of what it holds.
        drop(removed);
        self.sweep();
        match synced {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("cannot flush", dir, error))
            }
            _ => Ok(()),
        }
    }

    /// Keeps all copies that are among these layers; `None` when one of them is on its way out.
    pub(super) fn hold(self: &Arc<Self>, layers: &[PathBuf]) -> Option<Hold> {
        let keys: Vec<Key> = layers.iter().filter_map(|layer| self.key_of(layer)).collect();
        let mut all = self.all.lock();
        for key in &keys {
            let dir = self.dir.join(key.to_string());
            // Under the lock that `take_unheld` looks under.
            if !all.held.contains_key(key) && !dir.is_dir() {
                return None;
            }
        }
        for key in &keys {
            *all.held.entry(*key).or_default() += 1;
        }
        drop(all);
        Some(Hold { keys, snapshots: Arc::downgrade(self) })
    }

    fn key_of(&self, layer: &Path) -> Option<Key> {
        let name = layer.strip_prefix(&self.dir).ok()?.components().next()?;
        name.as_os_str().to_str()?.parse().ok()
    }

    fn let_go(&self, keys: &[Key]) {
        let mut all = self.all.lock();
        for key in keys {
            if let Some(held) = all.held.get_mut(key) {
                *held -= 1;
                if *held == 0 {
                    all.held.remove(key);
                }
            }
        }
        drop(all);
        if !keys.is_empty() {
            self.sweep();
        }
    }

    /// Has what nothing holds looked for soon.
    pub(super) fn sweep(&self) {
        self.stirred.notify_one();
    }

    pub(super) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// Directories that nothing holds; each is then at the place that `aside` says. Blocks.
    pub(super) fn take_unheld(
        &self,
        aside: impl Fn(Key) -> PathBuf,
    ) -> Result<Vec<PathBuf>, Error> {
        let failed = |source| Error::io("cannot read", &self.dir, source);
        let mut taken = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(taken),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let dir = entry.map_err(failed)?.path();
            let Some(key) = self.key_of(&dir) else { continue };
            let all = self.all.lock();
            let free = !all.held.contains_key(&key) && !dir.join(RECORD).exists();
            if free {
                let aside = aside(key);
                fs::rename(&dir, &aside).map_err(|e| Error::io("cannot move", &dir, e))?;
                taken.push(aside.join(COPY));
            }
            drop(all);
        }
        Ok(taken)
    }
}

/// Without its record a copy is a snapshot no more.
fn forget(dir: &Path) -> Result<(), Error> {
    let path = dir.join(RECORD);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("cannot delete", path, error))
        }
        _ => Ok(()),
    }
}

/// The layers of each snapshot of a data directory. For when no gateway runs.
pub(super) fn layers_in_use(data_dir: &Path) -> Vec<Vec<PathBuf>> {
    let entries = fs::read_dir(data_dir.join("snapshots")).into_iter().flatten().flatten();
    let read = entries.filter_map(|entry| Snapshot::read(&entry.path()).ok().flatten());
    read.map(|snapshot| snapshot.template.layers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::Limits, sandbox::testing};

    #[test]
    fn a_gateway_of_before_refuses_what_it_would_read_without_its_limits() {
        let template = testing::facts().template;
        let limits = Limits { net_out: Some(1 << 20), ..template.limits };
        for (tenant, limits, version) in [
            (Tenant::default(), template.limits, 1),
            ("one".parse().unwrap(), template.limits, 2),
            (Tenant::default(), limits, 3),
            ("one".parse().unwrap(), limits, 3),
        ] {
            let (dir, template) =
                (tempfile::tempdir().unwrap(), Template { limits, ..template.clone() });
            let made =
                Snapshot::new(Key::random(), None, SandboxId::random(), tenant, template, None);
            made.write(dir.path()).unwrap();
            assert_eq!(made.version, version);
            assert_eq!(Snapshot::read(dir.path()).unwrap(), Some(made));
        }
    }

    #[test]
    fn whoever_lists_some_is_shown_no_others_and_no_more_than_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Arc::new(Snapshots::new(dir.path().to_owned()));
        let [one, other] = [SandboxId::random(), SandboxId::random()];
        let template = Template { layers: Vec::new(), ..testing::facts().template };
        let make = |n: usize| {
            let named = Named { name: format!("name-{}", n % 10), tag: format!("tag-{n}") };
            let of = if n.is_multiple_of(50) { one } else { other };
            let (tenant, template) = (Tenant::default(), template.clone());
            Arc::new(Snapshot::new(Key::random(), Some(named), of, tenant, template, None))
        };
        let all: Vec<_> = (0..1000).map(make).collect();
        for snapshot in &all {
            assert!(snapshots.insert(snapshot.clone()).is_none());
        }
        let ours = Tenant::default;
        let named = Among::Named(ours(), "name-3".into());
        let theirs = Among::All("theirs".parse().unwrap());
        for (among, count) in [
            (Among::All(ours()), 1000),
            (Among::Of(ours(), one), 20),
            (named.clone(), 100),
            (theirs, 0),
        ] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let mut shown = 0;
                snapshots.visit(&among, after, |snapshot| {
                    shown += 1;
                    seen.push(snapshot.position());
                    if shown == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                });
                after = seen.last().copied();
                if shown < 7 {
                    break;
                }
            }
            assert_eq!(seen.len(), count, "{among:?}");
            assert!(seen.is_sorted_by(|a, b| a > b), "the newest first");
        }
        // One takes another's place, one goes.
        let again = Arc::new(Snapshot {
            created_at: Utc::now(),
            key: Key::random(),
            ..Snapshot::clone(&all[3])
        });
        assert_eq!(snapshots.insert(again.clone()).unwrap().key, all[3].key);
        fs::create_dir(dir.path().join(all[13].key.to_string())).unwrap();
        snapshots.remove(&all[13]).unwrap();
        let mut keys = Vec::new();
        snapshots.visit(&named, None, |snapshot| {
            keys.push(snapshot.key);
            ControlFlow::Continue(())
        });
        assert!(keys.len() == 99 && keys[0] == again.key && !keys.contains(&all[13].key));
    }
}
