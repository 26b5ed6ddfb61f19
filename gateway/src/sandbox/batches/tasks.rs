//! What is run in each sandbox of a batch, and what came of it.
//!
//! It is run as a client would have it run, through the sandbox's envd, under a tag by which the
//! next gateway finds it again. Of what it says no more is kept than the end of an error.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::Batch;
use crate::sandbox::{Sandbox, SandboxId, Sandboxes};

/// Kept of what one that failed said last (bytes).
pub(super) const MOST_SAID: usize = 256;
/// How often its sandbox is asked again for one that was lost sight of.
const TRIES: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// A program and its arguments; never empty.
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Without it, the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// After so many seconds it is killed, and has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// About to be run.
    Pending,
    Running,
    /// With exit code 0.
    Succeeded,
    Failed {
        /// `None` where it could not be run, or was killed.
        exit_code: Option<i32>,
    },
    /// Its sandbox ended before it did, or nobody saw its end.
    Unknown,
}

impl TaskState {
    pub(super) fn is_over(&self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    pub(super) fn of_one_that_ended(self) -> Self {
        if self.is_over() { self } else { Self::Unknown }
    }
}

/// It ran to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// `None`: a signal ended it.
    pub exit_code: Option<i32>,
    /// The end of what it said, as [`end_of`] has it.
    pub said: String,
}

/// Why nobody can say how a task ended, or that it was none.
#[derive(Debug, thiserror::Error)]
pub enum NotRun {
    /// Nothing of it was asked for yet.
    #[error("its envd cannot be reached: {0}")]
    Unsent(io::Error),
    /// It may run.
    #[error("lost sight of: {0}")]
    Lost(String),
    /// Its sandbox would not.
    #[error("{0}")]
    Refused(String),
    /// It is not among what runs, or has just ended.
    #[error("not there any more")]
    Gone,
}

impl Sandboxes {
    /// Runs the task of a sandbox that has just been made, or follows one that a gateway before has
    /// begun, and takes note of its end. Nobody waits for it.
    pub(super) fn begin_task(&self, batch: &Arc<Batch>, sandbox: Arc<Sandbox>, again: bool) {
        let Some(task) = batch.asked.task.clone() else { return };
        let (sandboxes, batch) = (self.clone(), batch.clone());
        tokio::spawn(async move {
            let id = sandbox.id();
            sandboxes.note_task(&batch, id, TaskState::Running, None);
            let busy = sandbox.busy();
            let ran = sandboxes.run_task(&sandbox, &task, again).await;
            drop(busy);
            let (state, said) = match ran {
                Ok(Ran { exit_code: Some(0), .. }) => (TaskState::Succeeded, None),
                Ok(Ran { exit_code, said }) => {
                    let said = if said.is_empty() { ended(exit_code) } else { said };
                    (TaskState::Failed { exit_code }, Some(said))
                }
                Err(NotRun::Refused(why)) => {
                    (TaskState::Failed { exit_code: None }, Some(end_of(why.as_bytes())))
                }
                Err(error) => {
                    tracing::debug!(sandbox = %id, "task: {error}");
                    (TaskState::Unknown, None)
                }
            };
            sandboxes.note_task(&batch, id, state, said);
        });
    }

    fn note_task(&self, batch: &Arc<Batch>, id: SandboxId, is: TaskState, said: Option<String>) {
        self.note(batch, |state| {
            if let Some(member) = state.members.get_mut(&id) {
                member.task = Some(is);
            }
            if said.is_some() {
                state.task_error = said;
            }
        });
    }

    async fn run_task(
        &self,
        sandbox: &Sandbox,
        task: &Task,
        mut again: bool,
    ) -> Result<Ran, NotRun> {
        let (mut tries, mut pause) = (0, FIRST_PAUSE);
        loop {
            let run = self.0.inside.run(sandbox.dir(), sandbox.envd_token(), task, again);
            let ran = match sandbox.gone().run_until_cancelled(run).await {
                None => return Err(NotRun::Gone),
                Some(ran) => ran,
            };
            match &ran {
                Err(NotRun::Unsent(_)) => {}
                // What was begun once is not begun again.
                Err(NotRun::Lost(_)) => again = true,
                _ => return ran,
            }
            // Of one that stands still nothing can be asked.
            tries += u32::from(sandbox.phase() == crate::sandbox::Phase::Running);
            if tries >= TRIES || sandbox.life.is_over() {
                return ran;
            }
            sandbox.gone().run_until_cancelled(sleep(pause)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

fn ended(exit_code: Option<i32>) -> String {
    exit_code.map_or_else(|| "ended by a signal".to_owned(), |code| format!("exit code {code}"))
}

/// The last of it that is text, and no longer than may be kept. What could move a terminal's cursor
/// is taken out.
pub fn end_of(said: &[u8]) -> String {
    let end = &said[said.len().saturating_sub(MOST_SAID)..];
    let text = String::from_utf8_lossy(end);
    let text: String = text
        .trim_end()
        .trim_start_matches(char::REPLACEMENT_CHARACTER)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let from = text.ceil_char_boundary(text.len().saturating_sub(MOST_SAID));
    text[from..].to_owned()
}
