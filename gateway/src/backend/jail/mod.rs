//! The jail backend's place: says plainly that it is not there yet.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Backend, Cell, CellSpec, Check, Error, Settings, Usage, Verdict};
use crate::sandbox::SandboxId;

const MISSING: &str =
    "the jail backend is not there yet: this version makes sandboxes on Linux only";

/// This host.
pub struct Host;

impl Host {
    pub fn new(_settings: Settings) -> Result<Self, Error> {
        Ok(Self)
    }
}

/// The allocator does so by itself.
pub fn return_memory() {}

fn missing<T>() -> Result<T, Error> {
    Err(Error::Unsupported(MISSING.to_owned()))
}

#[async_trait]
impl Backend for Host {
    fn name(&self) -> &'static str {
        "jail"
    }

    async fn prepare(&self) -> Result<(), Error> {
        missing()
    }

    async fn create(&self, _spec: CellSpec) -> Result<Cell, Error> {
        missing()
    }

    async fn stop(&self, _id: SandboxId) -> Result<(), Error> {
        missing()
    }

    async fn destroy(&self, _id: SandboxId) -> Result<(), Error> {
        missing()
    }

    async fn adopt(&self, _id: SandboxId) -> Result<Option<Cell>, Error> {
        missing()
    }

    async fn freeze(&self, _id: SandboxId) -> Result<(), Error> {
        missing()
    }

    async fn thaw(&self, _id: SandboxId) -> Result<(), Error> {
        missing()
    }

    async fn frozen(&self, _id: SandboxId) -> Result<bool, Error> {
        missing()
    }

    async fn usage(&self) -> Result<BTreeMap<SandboxId, Usage>, Error> {
        missing()
    }

    async fn memory_used(&self, _id: SandboxId) -> Result<u64, Error> {
        missing()
    }

    async fn list(&self) -> Result<Vec<SandboxId>, Error> {
        missing()
    }

    async fn retire(&self) -> Result<(), Error> {
        missing()
    }

    fn probe(&self, _planned: usize) -> Vec<Check> {
        vec![
            Check {
                what: "jail backend",
                verdict: Verdict::Bad,
                found: MISSING.to_owned(),
                mend: Some("run coppice on Linux".to_owned()),
            },
            racct(),
        ]
    }
}

/// Limits and usage of jails come from racct(4), which is compiled in but off by default.
fn racct() -> Check {
    let what = "resource accounting";
    match rctl_sys::racct_enabled() {
        Ok(true) => {
            Check { what, verdict: Verdict::Good, found: "racct is on".to_owned(), mend: None }
        }
        Ok(false) => Check {
            what,
            verdict: Verdict::Bad,
            found: "racct is off".to_owned(),
            mend: Some(
                "echo kern.racct.enable=1 >> /boot/loader.conf && shutdown -r now".to_owned(),
            ),
        },
        Err(e) => Check {
            what,
            verdict: Verdict::Bad,
            found: format!("sysctl kern.racct.enable: {e}"),
            mend: Some("boot a kernel with options RACCT and RCTL, as GENERIC is".to_owned()),
        },
    }
}
