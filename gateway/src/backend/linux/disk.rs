//! What sandboxes write: the directory of each one's writable layer.
//!
//! On btrfs it is a subvolume with a quota group: what it takes is bounded there and known at any
//! time. On other file systems it is a plain directory, nothing bounds it, and what it takes is
//! looked for in the background ([`walk`](super::walk)).

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use envd::walls::{self, Wall};
use parking_lot::Mutex;
use tracing::{debug, info, warn};

use super::{
    btrfs::{self, Quota},
    cell::LAYER,
    error::Call,
    walk::Found,
};
use crate::{backend::Error, sandbox::SandboxId};

/// The file system of a data directory.
pub(super) struct Disk {
    home: PathBuf,
    kind: Kind,
}

enum Kind {
    /// `None` until [`Disk::prepare`].
    Plain(Option<Arc<Found>>),
    /// Where quota cannot be had, subvolumes are still copied and deleted in one step.
    Btrfs(Option<Counted>),
}

/// The file system counts.
struct Counted {
    quota: Quota,
    /// Quota groups by sandbox.
    groups: Mutex<HashMap<SandboxId, u64>>,
    /// Those that had no subvolume when they were last looked at, and when that was.
    stale: Mutex<(Instant, Vec<u64>)>,
}

/// Between two looks for groups that are no longer anybody's.
const PERIOD: Duration = Duration::from_secs(60);

impl Disk {
    /// One that nothing is known of.
    pub(super) fn unknown(data_dir: &Path) -> Self {
        Self { home: data_dir.join("sandboxes"), kind: Kind::Plain(None) }
    }

    /// Changes nothing; quota may be off still.
    pub(super) fn of(data_dir: &Path) -> Result<Self, Error> {
        let kind = match btrfs::holds(data_dir)? {
            true => Kind::Btrfs(Quota::of(data_dir)?.map(Counted::new)),
            false => Kind::Plain(None),
        };
        Ok(Self { home: data_dir.join("sandboxes"), kind })
    }

    /// Whether the file system of `data_dir` bounds what a sandbox takes; before it is prepared,
    /// whether it should.
    pub(super) fn bounds(&self, data_dir: &Path) -> bool {
        match &self.kind {
            Kind::Plain(None) => btrfs::holds(data_dir).unwrap_or(false),
            Kind::Plain(Some(_)) => false,
            Kind::Btrfs(counted) => counted.is_some(),
        }
    }

    /// Ready for sandboxes: with quota on, where there is one to be had.
    pub(super) fn prepare(data_dir: &Path) -> Result<Self, Error> {
        let mut disk = Self::of(data_dir)?;
        match &mut disk.kind {
            Kind::Btrfs(Some(_)) => {}
            Kind::Plain(found) => {
                let begun = Found::begin(disk.home.clone(), LAYER);
                *found = Some(begun.call("start", "a thread that looks for sizes")?);
            }
            Kind::Btrfs(counted) => match Quota::turn_on(data_dir) {
                Ok(quota) => {
                    info!("turned quota on for the btrfs that holds {}", data_dir.display());
                    *counted = Some(Counted::new(quota));
                }
                Err(error) => {
                    warn!(%error, "no quota to be had: nothing bounds what a sandbox writes");
                }
            },
        }
        Ok(disk)
    }

    /// Makes the directory of a writable layer, which is not there yet.
    pub(super) fn make_layer(&self, layer: &Path, bytes: Option<u64>) -> Result<(), Error> {
        match self.kind {
            Kind::Plain(_) => fs::create_dir(layer).call("mkdir", layer.display())?,
            Kind::Btrfs(_) => btrfs::create(layer)?,
        }
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(layer, mode).call("chmod", layer.display())?;
        self.limit(layer, bytes)
    }

    /// Lets a layer take so many bytes, `None` being all there are; without effect where nothing
    /// can bound it.
    pub(super) fn limit(&self, layer: &Path, bytes: Option<u64>) -> Result<(), Error> {
        if walls::is_down(Wall::Limits) {
            return Ok(());
        }
        match self.kind {
            Kind::Btrfs(Some(_)) if bytes.is_some() => btrfs::limit(layer, bytes),
            _ => Ok(()),
        }
    }

    /// What a sandbox's layer takes (bytes), as far as it is known. `ran` is whether the sandbox
    /// has since this was last asked.
    pub(super) fn used(&self, id: SandboxId, ran: bool) -> Option<u64> {
        match &self.kind {
            Kind::Plain(found) => found.as_ref()?.of(id, ran),
            Kind::Btrfs(None) => None,
            Kind::Btrfs(Some(counted)) => {
                let group = counted.group(id, &self.home)?;
                let used = counted.quota.used(group);
                used.inspect_err(|error| debug!(sandbox = %id, %error, "no size")).ok()?
            }
        }
    }

    /// Lets go of what is known of other sandboxes, and of what the kernel has kept of them.
    pub(super) fn forget_others<T>(&self, living: &BTreeMap<SandboxId, T>) {
        let Kind::Btrfs(Some(counted)) = &self.kind else { return };
        counted.groups.lock().retain(|id, _| living.contains_key(id));
        let mut stale = counted.stale.lock();
        if stale.0.elapsed() < PERIOD {
            return;
        }
        match counted.quota.stale(&self.home) {
            Ok(now) => {
                // Twice, as the subvolume may have been on its way the first time.
                for group in now.iter().filter(|group| stale.1.contains(group)) {
                    if let Err(error) = counted.quota.forget(&self.home, *group) {
                        debug!(%error, "a quota group stays");
                    }
                }
                *stale = (Instant::now(), now);
            }
            Err(error) => {
                debug!(%error, "quota groups");
                stale.0 = Instant::now();
            }
        }
    }
}

impl Counted {
    fn new(quota: Quota) -> Self {
        let stale = Mutex::new((Instant::now(), Vec::new()));
        Self { quota, groups: Mutex::default(), stale }
    }

    fn group(&self, id: SandboxId, home: &Path) -> Option<u64> {
        if let Some(known) = self.groups.lock().get(&id) {
            return Some(*known);
        }
        let layer = home.join(id.to_string()).join(LAYER);
        // Of before the file system had a gateway, or its quota.
        if !btrfs::is_subvolume(&layer).unwrap_or(false) {
            return None;
        }
        let group = btrfs::id(&layer).ok()?;
        self.groups.lock().insert(id, group);
        Some(group)
    }
}

/// Whether the directory `path` was a subvolume, which is gone now with all that was in it.
pub(super) fn remove_whole(path: &Path) -> bool {
    matches!(btrfs::is_subvolume(path), Ok(true)) && btrfs::delete(path).is_ok()
}
