//! Events on their way to other programs: several exporters at once, each with its own filter, spool
//! and pace.
//!
//! ```text
//!   bus ──▶ its own ring ──▶ intake ──▶ spool on disk ──▶ sender ──▶ Exporter::send
//! ```
//!
//! What an exporter is to have goes to its [`spool`] first, so that it outlives whoever does not take
//! it, and this gateway. It leaves it in order, once the exporter says that it has arrived; so after
//! a failure or a restart some of it may arrive again, by the same ids. Nothing here is waited for by
//! what makes events: whoever does not keep up loses the oldest of its own, which is counted.

pub(crate) mod http;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Event;

/// Where events are taken to.
#[async_trait]
pub(crate) trait Exporter: Send {
    /// Takes these there, in this order, and comes back when they have arrived.
    ///
    /// It bounds its own time, and may be dropped at any point, or called again with some of the
    /// same events. Whatever it keeps of connections and secrets it gets anew after a failure.
    async fn send(&mut self, events: &[Arc<Event>]) -> Result<(), Failure>;
}

/// Why not all have arrived. `why` goes into the log, so there is no secret in it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// None may have, or nobody knows: all are tried again, and not before `after`.
    Later { why: String, after: Option<Duration> },
    /// They will not be taken, however often they are tried. Of several each half is tried by itself,
    /// until it is known which.
    Refused { why: String },
    /// So many will not be taken, and the others have arrived.
    Partly { refused: usize, why: String },
}

impl Failure {
    pub(crate) fn later(why: impl Into<String>) -> Self {
        Self::Later { why: why.into(), after: None }
    }

    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused { why: why.into() }
    }
}
