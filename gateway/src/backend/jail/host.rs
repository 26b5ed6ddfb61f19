//! This host.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::backend::{Backend, Cell, CellSpec, Check, Error, Settings, Usage};
use crate::sandbox::SandboxId;

const MISSING: &str =
    "the jail backend is not there yet: this version makes sandboxes on Linux only";

/// This host.
pub struct Host(Settings);

impl Host {
    pub fn new(settings: Settings) -> Result<Self, Error> {
        Ok(Self(settings))
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

    fn probe(&self, planned: usize) -> Vec<Check> {
        super::probe::all(&self.0, planned)
    }
}
