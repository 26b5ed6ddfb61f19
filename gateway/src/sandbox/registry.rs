//! All sandboxes of this gateway, by id.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use super::SandboxId;

pub struct Sandbox {
    id: SandboxId,
    dir: PathBuf,
    envd_token: String,
    cut: CancellationToken,
}

impl Sandbox {
    pub fn new(id: SandboxId, dir: PathBuf, envd_token: String) -> Self {
        Self { id, dir, envd_token, cut: CancellationToken::new() }
    }

    pub fn id(&self) -> SandboxId {
        self.id
    }

    /// Holds `sandbox.json`, the sockets `envd.sock`, `tunnel.sock` and `report.sock`, and the
    /// writable layer.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn envd_token(&self) -> &str {
        &self.envd_token
    }

    /// Cancelled the instant the sandbox stops running, before its processes are ended: whoever
    /// holds a stream to it resets it.
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }
}

#[derive(Default)]
pub struct Registry {
    sandboxes: RwLock<HashMap<SandboxId, Arc<Sandbox>>>,
}

impl Registry {
    pub fn insert(&self, sandbox: Sandbox) {
        self.sandboxes.write().insert(sandbox.id, Arc::new(sandbox));
    }

    /// The running sandbox of that id.
    pub fn running(&self, id: SandboxId) -> Option<Arc<Sandbox>> {
        self.sandboxes.read().get(&id).cloned()
    }

    /// All running sandboxes, in no order.
    pub fn all_running(&self) -> Vec<Arc<Sandbox>> {
        self.sandboxes.read().values().cloned().collect()
    }
}
