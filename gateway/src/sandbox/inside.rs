//! What this side says to a sandbox's envd, and hears from it; how, others know.

use std::{io, path::Path, sync::Arc};

use async_trait::async_trait;
use envd::wire::Init;

use super::{NotRun, Ran, Sandbox, Task};
use crate::{events::Events, metrics::Metrics};

#[async_trait]
pub trait Inside: Send + Sync + 'static {
    /// Called once for every sandbox that becomes visible; what it reports is counted, and told.
    fn follow(&self, sandbox: Arc<Sandbox>, metrics: &Arc<Metrics>, events: &Events);

    /// Whether the envd of the sandbox in `dir` is there for whoever asks. Bounded in time.
    async fn answers(&self, dir: &Path) -> bool;

    /// Starts what a sandbox in `dir` would else start when it is first asked for it: the default
    /// kernel, where its template has one. Bounded in time.
    async fn warm(&self, dir: &Path) -> io::Result<()>;

    /// Makes the sandbox in `dir`, which was ready before anybody asked for it, somebody's: from
    /// here on it has that environment and that token. Bounded in time.
    async fn begin(&self, dir: &Path, init: &Init) -> io::Result<()>;

    /// Runs a command in the sandbox in `dir`, whose token that is, and returns when it has ended;
    /// `again`: one that was begun before is looked for, and none begun.
    async fn run(&self, dir: &Path, token: &str, task: &Task, again: bool) -> Result<Ran, NotRun>;
}
