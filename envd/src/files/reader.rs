//! Downloads under way, each of which holds a few pieces of its file for as long as its client
//! likes.

use std::sync::Arc;

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use super::pieces::{BUFFERS, PIECE};
use crate::{rest::RestError, state::Envd, wire::What};

/// What all downloads may hold together (bytes): half of what envd may take.
const MEMORY: usize = 256 << 20;

/// At once; one holds its buffers and the piece being read.
pub(super) const MAX_READERS: usize = MEMORY / ((BUFFERS + 1) * PIECE as usize);

/// Room for downloads.
pub(crate) struct Readers(Semaphore);

impl Default for Readers {
    fn default() -> Self {
        Self(Semaphore::new(MAX_READERS))
    }
}

/// One download's place.
pub(super) struct Reader(Arc<Envd>);

impl Reader {
    /// # Errors
    /// When there is none left.
    pub(super) fn new(envd: &Arc<Envd>) -> Result<Self, RestError> {
        let Ok(permit) = envd.readers.0.try_acquire() else {
            let text = format!("{MAX_READERS} downloads are under way");
            return Err(RestError::new(StatusCode::TOO_MANY_REQUESTS, text));
        };
        permit.forget();
        Ok(Self(envd.clone()))
    }

    /// Tells how much the client was given.
    pub(super) fn report(&self, bytes: u64) {
        self.0.reports.push(What::FileRead { bytes });
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.readers.0.add_permits(1);
    }
}
