//! Downloads under way, each of which holds a few pieces of its file for as long as its client
//! likes.

use std::{path::Path, sync::Arc};

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use super::{
    Asked,
    pieces::{BUFFERS, PIECE},
};
use crate::{
    rest::RestError,
    state::Envd,
    trace::TraceId,
    wire::{self, Detail, Of, What},
};

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
pub(super) struct Reader {
    envd: Arc<Envd>,
    path: String,
    trace: Option<TraceId>,
}

impl Reader {
    /// # Errors
    /// When there is none left.
    pub(super) fn new(asked: &Asked, path: &Path) -> Result<Self, RestError> {
        let Ok(permit) = asked.envd.readers.0.try_acquire() else {
            let text = format!("{MAX_READERS} downloads are under way");
            return Err(RestError::new(StatusCode::TOO_MANY_REQUESTS, text));
        };
        permit.forget();
        let path = wire::text(&path.to_string_lossy());
        Ok(Self { envd: asked.envd.clone(), path, trace: asked.trace })
    }

    /// Tells how much the client was given.
    pub(super) fn report(&self, bytes: u64) {
        let of = Of::Read { path: self.path.clone() };
        self.envd.reports.tell(What::FileRead { bytes }, &Detail { trace: self.trace, of });
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.envd.readers.0.add_permits(1);
    }
}
