//! Whether the envd of a sandbox is there for whoever asks.

use super::{Error, Phase, SandboxId, Sandboxes};

impl Sandboxes {
    /// Asks the envd of one that runs. One that does not is left as it is.
    pub async fn ping(&self, id: SandboxId) -> Result<(), Error> {
        let sandbox = self.not_ending(id)?;
        match sandbox.phase() {
            Phase::Running => {}
            phase => return Err(Error::NotNow(id, phase)),
        }
        if self.0.inside.answers(sandbox.dir()).await {
            return Ok(());
        }
        // It may have been paused or ended meanwhile.
        match self.not_ending(id)?.phase() {
            Phase::Running => Err(Error::Unresponsive(id)),
            phase => Err(Error::NotNow(id, phase)),
        }
    }
}
