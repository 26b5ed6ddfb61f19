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

pub(crate) mod axiom;
pub(crate) mod http;
pub(crate) mod postgres;
mod postgres_tls;
pub(crate) mod program;
mod secret;
mod settings;
pub(super) mod spool;
mod worker;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::future::join_all;

pub use secret::Secret;
pub use settings::{Kind, Settings};
use worker::Running;

use super::{Event, Events, Room};
use crate::metrics::Metrics;

/// What one may be behind in memory, before it loses its oldest.
const RING: Room = Room { events: 16_384, bytes: 16 << 20 };

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

#[derive(Debug, thiserror::Error)]
#[error("exporter {name}: {why}")]
pub struct Error {
    name: String,
    why: String,
}

/// All that run.
pub struct Exporters(Vec<Running>);

impl Exporters {
    /// Starts all of them; whatever happens from here on they will have. Nothing is connected to
    /// before this comes back.
    pub fn start(
        all: &[Settings],
        data_dir: &Path,
        events: &Events,
        metrics: &Metrics,
    ) -> Result<Self, Error> {
        let spools = data_dir.join("events").join("spool");
        let mut made = Vec::new();
        for settings in all.iter().filter(|settings| settings.kind.takes_events()) {
            let wrong = |why| Error { name: settings.name.clone(), why };
            made.push((settings.clone(), settings.kind.make().map_err(wrong)?));
        }
        let running = made.into_iter().map(|(settings, exporter)| {
            let name = format!("exporter {}", settings.name);
            let events = events.subscribe(name, settings.types.clone(), RING);
            let figures = metrics.exporter(&settings.name);
            let dir = spools.join(&settings.name);
            Running::start(settings, exporter, &dir, events, figures)
        });
        let running = Self(running.collect());
        running.tell_of_others(&spools);
        Ok(running)
    }

    /// Spools of exporters there are no more: what is in them would be sent by one of that name.
    fn tell_of_others(&self, spools: &Path) {
        let Ok(found) = std::fs::read_dir(spools) else { return };
        for dir in found.flatten() {
            let name = dir.file_name();
            if !self.0.iter().any(|it| name == *it.name) {
                let spool = dir.path();
                tracing::warn!(spool = %spool.display(), "no exporter of that name: its events wait");
            }
        }
    }

    /// Ends them, after no longer than that: what has happened is in their spools then, and those who
    /// take it quickly have it.
    pub async fn stop(self, patience: Duration) {
        let until = (Instant::now() + patience).into();
        join_all(self.0.into_iter().map(|running| running.end(until))).await;
    }
}
