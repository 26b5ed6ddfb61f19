//! Which template a name means.

use std::{path::Path, sync::Arc};

use super::Template;

/// Why there is no template for a name.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FindError {
    #[error("not found")]
    Unknown,
    /// Holds how far it is.
    #[error("being built: {0}")]
    Building(String),
    #[error("could not be built: {0}")]
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
#[error("templates cannot be built yet")]
pub struct Error;

pub struct Store;

impl Store {
    pub fn open(_data_dir: &Path) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self))
    }

    pub fn find(&self, _name: &str) -> Result<Arc<Template>, FindError> {
        Err(FindError::Unknown)
    }

    #[allow(clippy::unused_async)]
    pub async fn ensure_base(&self) -> Result<(), Error> {
        Err(Error)
    }
}
