//! The sampler: what all sandboxes use, asked of the kernel in one sweep a second, and the history
//! of each, which a gateway leaves behind for the next.
//!
//! A history lies beside its sandbox's record and is written each [`SAVING`], another part of them
//! each second, and when the gateway stops. Never synced: whoever kills a gateway takes the last
//! minutes of the figures with it and nothing else.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use chrono::Utc;
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use super::{Level, Phase, Sandbox, SandboxId, Sandboxes, consumption::Told, journal};
use crate::metrics::{Denied, History, Samples, Standing};

/// Between two sweeps.
const PERIOD: Duration = Duration::from_secs(1);
/// Sweeps in which each history that has changed is written once.
const SAVING: u64 = 120;
/// In a sandbox's directory.
const FILE: &str = "samples";

impl Sandboxes {
    /// What sandboxes use.
    pub(crate) fn samples(&self) -> &Samples {
        self.0.metrics.samples()
    }

    /// Goes on with the histories that the gateway before has left, and looks for the first time.
    /// To be called once, when those of before have been adopted.
    pub async fn begin_sampling(&self) {
        let sandboxes = self.clone();
        let read = spawn_blocking(move || {
            for sandbox in sandboxes.0.registry.all_present() {
                if let Err(error) = sandbox.journal().restore(sandbox.dir()) {
                    tracing::warn!(sandbox = %sandbox.id(), "its log of before: {error}");
                }
                sandbox.journal().note(Level::Info, "taken over by a gateway that has begun");
                match read(sandbox.dir()) {
                    Ok(Some(history)) => sandboxes.samples().restore(sandbox.id(), history),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(sandbox = %sandbox.id(), "its figures of before: {error}");
                    }
                }
            }
        });
        // Fails only when the runtime goes.
        let _ = read.await;
        self.sample().await;
    }

    /// Looks once a second; to be polled for as long as the gateway runs.
    pub async fn keep_sampling(&self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused = None;
        let mut told = Told::default();
        for sweep in 0_u64.. {
            ticks.tick().await;
            self.sample().await;
            self.tell_consumption(&mut told, sweep);
            self.count_refused(&mut refused).await;
            self.save(move |id| id.spread() % SAVING == sweep % SAVING).await;
        }
    }

    /// Writes what the next gateway is to go on with.
    pub async fn save_samples(&self) {
        self.save(|_| true).await;
    }

    /// Looks, unless that was done no longer ago than this; whether it could be done.
    pub(crate) async fn sample_if_older(&self, age: Duration) -> bool {
        let _turn = self.samples().turn.lock().await;
        let swept = *self.samples().swept().borrow();
        swept.is_some_and(|at| at.elapsed() <= age) || self.sample().await
    }

    async fn sample(&self) -> bool {
        let sweep = match self.0.backend.usage().await {
            Ok(sweep) => sweep,
            Err(error) => {
                tracing::warn!("what sandboxes use cannot be told: {error}");
                return false;
            }
        };
        let wall = u32::try_from(Utc::now().timestamp()).unwrap_or(u32::MAX);
        let registry = &self.0.registry;
        self.samples().take(&sweep, wall, |id| match registry.present(id) {
            Some(sandbox) if sandbox.phase() == Phase::Running => Standing::Running,
            Some(_) => Standing::Still,
            None => Standing::Nobodys,
        });
        true
    }

    /// What the policies of sandboxes have refused since the last time.
    async fn count_refused(&self, before: &mut Option<u64>) {
        match self.0.backend.refused().await {
            Ok(now) => {
                let new = now.saturating_sub(before.unwrap_or(now));
                self.0.metrics.denied_times(Denied::Egress, new);
                *before = Some(now);
            }
            Err(error) => tracing::debug!("what was refused cannot be told: {error}"),
        }
    }

    async fn save(&self, which: impl Fn(SandboxId) -> bool) {
        let registry = &self.0.registry;
        let mut files: Vec<(Arc<Sandbox>, &str, Vec<u8>)> = Vec::new();
        for (id, bytes) in self.samples().unsaved(&which) {
            files.extend(registry.present(id).map(|sandbox| (sandbox, FILE, bytes)));
        }
        for sandbox in registry.all_present().into_iter().filter(|one| which(one.id())) {
            let lines = sandbox.journal().unsaved();
            files.extend(lines.map(|lines| (sandbox, journal::FILE, lines)));
        }
        if files.is_empty() {
            return;
        }
        let written = spawn_blocking(move || {
            for (sandbox, name, bytes) in files {
                if let Err(error) = write(sandbox.dir(), name, &bytes)
                    && !sandbox.gone().is_cancelled()
                {
                    tracing::warn!(sandbox = %sandbox.id(), "cannot keep its {name}: {error}");
                }
            }
        });
        // Fails only when the runtime goes.
        let _ = written.await;
    }
}

/// Beside and renamed: a reader sees it whole, as it was or as it is.
fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let beside = dir.join(format!(".{name}"));
    File::create(&beside)?.write_all(bytes)?;
    fs::rename(beside, dir.join(name))
}

fn read(dir: &Path) -> io::Result<Option<History>> {
    let file = match File::open(dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(History::LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    let history = History::read(&bytes);
    history.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not understood"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::{self, bed};

    #[tokio::test]
    async fn a_sandbox_has_figures_for_as_long_as_it_is_there() {
        let bed = bed(testing::rules());
        let id = bed.sandboxes.create(testing::wanted(), None).await.unwrap().id();
        bed.backend.memory_used.store(7 << 20, std::sync::atomic::Ordering::SeqCst);
        bed.sandboxes.begin_sampling().await;
        let latest = bed.sandboxes.samples().latest(id).unwrap();
        assert_eq!((latest.usage.memory_bytes, latest.cpu_percent), (7 << 20, None));
        bed.sandboxes.sample().await;
        assert_eq!(bed.sandboxes.samples().latest(id).unwrap().cpu_percent, Some(0.0));
        bed.sandboxes.kill(id).await.unwrap();
        bed.until_nothing_is_left().await;
        bed.sandboxes.sample().await;
        assert!(bed.sandboxes.samples().latest(id).is_none());
    }

    #[tokio::test]
    async fn the_next_gateway_goes_on_with_what_this_one_has_written() {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let id = sandbox.id();
        bed.sandboxes.begin_sampling().await;
        bed.sandboxes.sample().await;
        let history = bed.sandboxes.samples().between(id, 0, u64::MAX);
        assert_eq!(history.len(), 1);
        bed.sandboxes.save_samples().await;
        assert!(!sandbox.dir().join(".samples").exists());
        assert_eq!(read(sandbox.dir()).unwrap().unwrap().between(0, u64::MAX), history);
        fs::write(sandbox.dir().join(FILE), "torn").unwrap();
        assert!(read(sandbox.dir()).is_err());
        fs::remove_file(sandbox.dir().join(FILE)).unwrap();
        assert_eq!(read(sandbox.dir()).unwrap(), None);
    }
}
