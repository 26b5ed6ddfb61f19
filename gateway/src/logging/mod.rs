//! The gateway's log: to standard error, and to a [file](mod@file) where one is wanted.
//!
//! Whoever says something only puts a line into memory; from there [outlets](mod@outlet) take it
//! further, each with a thread and a bound of its own, so that neither a full disk nor a pipe that
//! nobody reads holds up a request. How much is said can be changed while the gateway runs. Which
//! request a line is about is in [`request`]. docs/logging.md is for operators.
//!
//! No secret is ever said, at any level: `tests/python/test_log_secrets.py` looks for all there are.

mod aside;
mod file;
mod line;
mod outlet;
pub(crate) mod request;
mod tasks;

use std::{
    fmt::{self as std_fmt, Debug},
    io::{self, IsTerminal},
    panic,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{self, MakeWriter, format},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{LogFormat, Logging};
use file::Appended;
use line::{Objects, Plain};
use outlet::{Outlet, Stderr};
pub(crate) use tasks::Tasks;

/// For the lines of a process that ends.
const SETTLING: Duration = Duration::from_millis(250);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("log-file-path: cannot log to {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("the log cannot be written: {0}")]
    Thread(#[from] io::Error),
    #[error("the log level cannot be set: {0}")]
    Level(#[from] reload::Error),
}

/// What has been begun; clones share it.
#[derive(Clone)]
pub struct Log(Arc<State>);

struct State {
    level: Mutex<Level>,
    /// None where nobody listens.
    filter: Option<reload::Handle<EnvFilter, Registry>>,
    outlets: Vec<(&'static str, Outlet)>,
}

impl Log {
    /// From here on, and for the whole process.
    ///
    /// # Errors
    /// There is to be a file, and it cannot be written.
    pub fn begin(settings: &Logging) -> Result<Self, Error> {
        let stderr = Outlet::open("standard error", Stderr)?;
        let file = match &settings.file {
            None => None,
            Some(wanted) => {
                let path = wanted.path.display().to_string();
                let sink = Appended::open(wanted);
                let sink = sink.map_err(|source| Error::File { path, source })?;
                Some(Outlet::open("the log file", sink)?)
            }
        };
        let (filter, handle) = reload::Layer::new(filter(settings.level));
        let coloured = io::stderr().is_terminal();
        tracing_subscriber::registry()
            .with(filter)
            .with(layer(settings.format, coloured, stderr.clone()))
            .with(file.clone().map(|file| layer(settings.format, false, file)))
            .init();
        let outlets = [("stderr", Some(stderr)), ("file", file)];
        let outlets =
            outlets.into_iter().filter_map(|(name, outlet)| Some((name, outlet?))).collect();
        let level = Mutex::new(settings.level);
        let log = Self(Arc::new(State { level, filter: Some(handle), outlets }));
        let told = log.clone();
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            tracing::error!("{panicked}");
            // The process may be about to end, with what is still in memory.
            told.settle();
            before(panicked);
        }));
        Ok(log)
    }

    /// To standard error at once, for commands that are over soon.
    pub fn of_command(settings: &Logging) {
        let coloured = io::stderr().is_terminal();
        tracing_subscriber::registry()
            .with(filter(settings.level))
            .with(layer(settings.format, coloured, io::stderr))
            .init();
    }

    pub fn level(&self) -> Level {
        *self.0.level.lock()
    }

    /// Returns what it was.
    pub fn set_level(&self, level: Level) -> Result<Level, Error> {
        let mut current = self.0.level.lock();
        let before = *current;
        // Said while it can be heard.
        if level < before {
            tracing::info!("the log level was {before} and is {level}");
        }
        if let Some(handle) = &self.0.filter {
            handle.reload(filter(level))?;
        }
        if level > before {
            tracing::info!("the log level was {before} and is {level}");
        }
        *current = level;
        Ok(before)
    }

    /// Opens the file anew: somebody may have put it aside.
    pub fn reopen(&self) {
        self.0.outlets.iter().for_each(|(_, outlet)| outlet.reopen());
    }

    /// Lines that there will never be, by where they were to go.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.outlets.iter().map(|(name, outlet)| (*name, outlet.lost()))
    }

    /// Waits, for a moment at most, for what has been said to be written. Blocks.
    pub fn settle(&self) {
        self.0.outlets.iter().for_each(|(_, outlet)| outlet.settle(SETTLING));
    }
}

impl Debug for Log {
    fn fmt(&self, f: &mut std_fmt::Formatter<'_>) -> std_fmt::Result {
        f.debug_tuple("Log").field(&self.level()).finish()
    }
}

#[cfg(test)]
impl Log {
    /// That nobody reads.
    pub(crate) fn unheard() -> Self {
        Self(Arc::new(State { level: Mutex::new(Level::INFO), filter: None, outlets: vec![] }))
    }
}

/// Libraries speak of every frame below their own warnings.
fn filter(level: Level) -> EnvFilter {
    EnvFilter::new(format!("warn,coppice={level}"))
}

type Whole<S> = Box<dyn Layer<S> + Send + Sync>;

fn layer<S, W>(form: LogFormat, coloured: bool, to: W) -> Whole<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_ansi(coloured).with_writer(to);
    match form {
        LogFormat::Text => {
            let plain = Plain(format::Format::default().with_ansi(coloured));
            layer.event_format(plain).boxed()
        }
        LogFormat::Json => layer.json().map_event_format(Objects).boxed(),
    }
}
