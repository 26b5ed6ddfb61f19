//! The linux backend.

use async_trait::async_trait;

use super::{Backend, Cell, CellSpec, Check, Error, Settings};
use crate::sandbox::SandboxId;

/// This host.
pub struct Host;

impl Host {
    pub fn new(_settings: Settings) -> Result<Self, Error> {
        Ok(Self)
    }
}

fn missing<T>() -> Result<T, Error> {
    Err(Error::Unsupported("the linux backend is not there yet".to_owned()))
}

#[async_trait]
impl Backend for Host {
    fn name(&self) -> &'static str {
        "linux"
    }
    async fn prepare(&self) -> Result<(), Error> {
        Ok(())
    }
    async fn create(&self, _spec: CellSpec) -> Result<Cell, Error> {
        missing()
    }
    async fn destroy(&self, _id: SandboxId) -> Result<(), Error> {
        Ok(())
    }
    async fn adopt(&self, _id: SandboxId) -> Result<Option<Cell>, Error> {
        Ok(None)
    }
    async fn list(&self) -> Result<Vec<SandboxId>, Error> {
        Ok(Vec::new())
    }
    async fn retire(&self) -> Result<(), Error> {
        Ok(())
    }
    fn probe(&self, _planned: usize) -> Vec<Check> {
        Vec::new()
    }
}
