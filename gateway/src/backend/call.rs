//! System calls: naming one, its object and errno in one go, and where those are made that block.

use std::{fmt::Display, io};

use tokio::task::spawn_blocking;

use crate::{backend::Error, logging::request::carried_blocking};

pub(super) trait Call<T> {
    fn call(self, call: &'static str, target: impl Display) -> Result<T, Error>;
}

impl<T> Call<T> for io::Result<T> {
    fn call(self, call: &'static str, target: impl Display) -> Result<T, Error> {
        self.map_err(|source| Error::Call { call, target: target.to_string(), source })
    }
}

impl<T> Call<T> for nix::Result<T> {
    fn call(self, call: &'static str, target: impl Display) -> Result<T, Error> {
        self.map_err(io::Error::from).call(call, target)
    }
}

/// Work that blocks, off the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    spawn_blocking(carried_blocking(work))
        .await
        .map_err(io::Error::other)
        .call("run", "a blocking task")?
}
