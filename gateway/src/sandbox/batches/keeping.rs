//! A batch's file, `<data-dir>/batches/<id>.json`, by which the next gateway goes on with it.
//!
//! Written before its client is told of it, and again soon after whatever changes. One that is
//! deleted is first called `<id>.deleted`: from then on it does not come back, and its sandboxes end
//! though this gateway may die meanwhile. As with sandboxes' records nothing waits for the disk: a
//! power failure that takes the file takes the sandboxes too.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Batch, BatchId, Member, State, Task};
use crate::{
    limits::Bounds,
    network::{Ingress, NetworkPolicy},
    sandbox::{Error, Owner, Quota, SandboxId, Tenant, Wanted, record},
};

/// Between a change and its being written.
pub(super) const SOON: Duration = Duration::from_millis(50);
const VERSION: u32 = 1;
/// Made of one request body of bounded size, and of some hundred bytes for each sandbox.
const MAX_BYTES: u64 = 16 << 20;
const DELETED: &str = "deleted";

/// What stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    #[serde(default, skip_serializing_if = "Tenant::is_default")]
    pub(super) tenant: Tenant,
    pub(super) template: String,
    pub(super) replicas: usize,
    pub(super) created_at: DateTime<Utc>,
    pub(super) expires_at: DateTime<Utc>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) env_vars: BTreeMap<String, String>,
    pub(super) policy: NetworkPolicy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<Task>,
    /// What the tenant might have when it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_sandboxes: Option<usize>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) most: String,
    /// The key it came under, with a digest of all that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    id: BatchId,
    #[serde(flatten)]
    asked: Asked,
    members: BTreeMap<SandboxId, Member>,
    #[serde(default)]
    failed: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    task_error: Option<String>,
}

impl Asked {
    pub(super) fn new(
        wanted: &Wanted,
        replicas: usize,
        task: Option<Task>,
        created_at: DateTime<Utc>,
    ) -> Self {
        let Owner { tenant, quota } = &wanted.owner;
        Self {
            tenant: tenant.clone(),
            template: wanted.template.clone(),
            replicas,
            created_at,
            expires_at: crate::sandbox::renewal::after(created_at, wanted.timeout),
            metadata: wanted.metadata.clone(),
            env_vars: wanted.env_vars.clone(),
            policy: wanted.policy.clone(),
            task,
            max_sandboxes: quota.max_sandboxes,
            most: text(&quota.limits),
            key: None,
        }
    }

    /// Of each of its sandboxes, from now on.
    pub(super) fn wanted(&self, batch: BatchId) -> Wanted {
        let limits = Bounds::parse(&self.most).unwrap_or_default();
        let quota = Quota { max_sandboxes: self.max_sandboxes, limits, ..Quota::default() };
        let left = (self.expires_at - Utc::now()).to_std().unwrap_or_default();
        Wanted {
            owner: Owner { tenant: self.tenant.clone(), quota },
            template: self.template.clone(),
            timeout: left,
            policy: self.policy.clone(),
            ingress: Ingress::default(),
            limits: Bounds::asked(&self.metadata).unwrap_or_default(),
            metadata: self.metadata.clone(),
            env_vars: self.env_vars.clone(),
            auto_pause: false,
            auto_pause_filesystem: false,
            auto_resume: false,
            batch: Some(batch),
        }
    }
}

/// As [`Bounds::parse`] reads it.
fn text(bounds: &Bounds) -> String {
    let said = bounds.said().filter_map(|limit| Some(format!("{limit}={}", bounds.get(limit)?)));
    said.collect::<Vec<_>>().join(",")
}

fn path(dir: &Path, id: BatchId, kind: &str) -> PathBuf {
    dir.join(format!("{id}.{kind}"))
}

impl Batch {
    /// Writes it as it stands, unless it was deleted. Blocks.
    pub(super) fn save(&self, dir: &Path) -> Result<(), Error> {
        let path = path(dir, self.id, "json");
        let failed = |source| Error::io("cannot write", &path, source);
        let _saving = self.saving.lock();
        if self.over.is_cancelled() {
            return Ok(());
        }
        let state = self.state.lock();
        let kept = Kept {
            version: VERSION,
            id: self.id,
            asked: self.asked.clone(),
            members: state.members.clone(),
            failed: state.failed,
            task_error: state.task_error.clone(),
        };
        drop(state);
        let text = serde_json::to_vec(&kept).map_err(|error| failed(error.into()))?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        record::put(&path, &text, false).map(drop)
    }

    /// From here on it is deleted; `false` when it was before. Blocks.
    pub(super) fn put_aside(&self, dir: &Path) -> Result<bool, Error> {
        let from = path(dir, self.id, "json");
        let _saving = self.saving.lock();
        if self.over.is_cancelled() {
            return Ok(false);
        }
        match fs::rename(&from, path(dir, self.id, DELETED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("cannot rename", from, error));
            }
            _ => {}
        }
        // Under the lock that a sandbox joins under.
        let state = self.state.lock();
        self.over.cancel();
        drop(state);
        Ok(true)
    }
}

/// Nothing is left of it.
pub(super) fn forget(dir: &Path, id: BatchId) -> Result<(), Error> {
    for kind in ["json", DELETED] {
        let path = path(dir, id, kind);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("cannot delete", path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What the gateway before left: batches, and ids of some that were being deleted.
pub(super) fn load(dir: &Path) -> Result<(Vec<Arc<Batch>>, Vec<BatchId>), Error> {
    let failed = |source| Error::io("cannot read", dir, source);
    let (mut found, mut deleted) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((found, deleted)),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let id = path.file_stem().and_then(|name| name.to_str()?.parse().ok());
        let kind = path.extension().and_then(|kind| kind.to_str());
        match (id, kind) {
            (Some(id), Some(DELETED)) => deleted.push(id),
            (Some(id), Some("json")) => match read(&path, id) {
                Ok(batch) => found.push(batch),
                Err(error) => tracing::error!("batch: {} is left alone: {error}", path.display()),
            },
            _ => {}
        }
    }
    Ok((found, deleted))
}

fn read(path: &Path, id: BatchId) -> Result<Arc<Batch>, Error> {
    let failed = |source| Error::io("cannot read", path, source);
    let refused = |text: String| failed(io::Error::new(io::ErrorKind::InvalidData, text));
    let size = fs::symlink_metadata(path).map_err(failed)?.len();
    if size > MAX_BYTES {
        return Err(refused(format!("{size} bytes are too many")));
    }
    let text = fs::read(path).map_err(failed)?;
    let kept: Kept = serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    if kept.version != VERSION || kept.id != id {
        return Err(refused(format!("it is of {}, of version {}", kept.id, kept.version)));
    }
    let Kept { asked, members, failed, task_error, .. } = kept;
    Ok(Batch::new(id, asked, State { members, failed, task_error, ..State::default() }))
}
