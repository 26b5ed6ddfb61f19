//! What an operator says of an exporter. `config` reads it.

use std::time::Duration;

use super::{Exporter, axiom, postgres, program};
use crate::{
    config::Otlp,
    events::{Types, otlp::Traces},
};

/// One exporter.
#[derive(Clone, Debug)]
pub struct Settings {
    /// That of its spool's directory, and in figures and the log.
    pub name: String,
    /// What it is to have.
    pub types: Types,
    /// Most events at once.
    pub batch: usize,
    /// For which an event waits for others at most.
    pub interval: Duration,
    /// What may wait on the disk (bytes).
    pub spool: u64,
    pub kind: Kind,
}

/// Where events go.
#[derive(Clone, Debug)]
pub enum Kind {
    Postgres(postgres::Settings),
    Axiom(axiom::Settings),
    Program(program::Settings),
    /// Its metrics are pushed beside.
    Otlp(Box<Otlp>),
}

impl Kind {
    /// Events at once, and how long one waits for others, where nothing is said.
    pub(crate) fn batching(&self) -> (usize, Duration) {
        match self {
            Self::Postgres(_) => (100, Duration::from_secs(5)),
            Self::Axiom(_) => (1000, Duration::from_secs(1)),
            Self::Program(settings) => (4 * settings.at_once, Duration::ZERO),
            Self::Otlp(settings) => (settings.batch, settings.delay),
        }
    }

    /// Whether it is to have events at all.
    pub(super) fn takes_events(&self) -> bool {
        !matches!(self, Self::Otlp(settings) if settings.traces.is_none())
    }

    /// Reads what has to be read once, and connects to nothing. Fails with what is wrong.
    pub(super) fn make(&self) -> Result<Box<dyn Exporter>, String> {
        Ok(match self {
            Self::Postgres(settings) => Box::new(postgres::Postgres::new(settings.clone())?),
            Self::Axiom(settings) => Box::new(axiom::Axiom::new(settings.clone())?),
            Self::Program(settings) => Box::new(program::Program::new(settings)?),
            Self::Otlp(settings) => Box::new(Traces::new(settings)),
        })
    }
}
