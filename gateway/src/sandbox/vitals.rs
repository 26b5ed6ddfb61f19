//! Whether there is what sandboxes need of their host.

use std::time::Duration;

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::Sandboxes;
use crate::backend;

/// Below this (bytes) of the data directory's file system hardly anything can be written.
const LEAST_DISK: u64 = 64 << 20;
/// The sampler looks once a second.
const LATE: Duration = Duration::from_secs(5);
/// For a look at what should answer at once.
const PATIENCE: Duration = Duration::from_secs(2);

/// At a disk at once: one that does not answer is to keep no more threads than that.
static LOOKS: Semaphore = Semaphore::const_new(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vital {
    Ok,
    /// All goes on, and nothing more begins.
    Low,
    Failed,
}

/// By name.
pub(crate) type Vitals = [(&'static str, Vital); 3];

impl Sandboxes {
    /// Bounded in time, and cheap as long as all is well.
    pub(crate) async fn vitals(&self) -> Vitals {
        let kernel = timeout(PATIENCE, self.sample_if_older(LATE)).await.unwrap_or(false);
        let free = timeout(PATIENCE, self.free()).await.ok().flatten();
        let memory = backend::available_memory();
        [
            ("disk", disk(free, self.0.rules.disk_headroom)),
            ("memory", memory_left(memory, self.0.rules.memory_headroom)),
            ("kernel", if kernel { Vital::Ok } else { Vital::Failed }),
        ]
    }

    /// Bytes and files. May take for ever.
    async fn free(&self) -> Option<(u64, u64)> {
        let turn = LOOKS.acquire().await;
        let home = self.0.home.clone();
        let free = spawn_blocking(move || {
            let _turn = turn;
            // Some file systems have as many files as fit.
            let files = backend::files_free(&home).ok()?.map_or(u64::MAX, |(free, _)| free);
            Some((backend::disk_free(&home).ok()?, files))
        });
        free.await.ok().flatten()
    }
}

fn disk(free: Option<(u64, u64)>, headroom: u64) -> Vital {
    match free {
        Some((bytes, files)) if bytes >= LEAST_DISK && files > 0 => {
            if bytes < headroom {
                Vital::Low
            } else {
                Vital::Ok
            }
        }
        _ => Vital::Failed,
    }
}

fn memory_left(available: Option<u64>, headroom: u64) -> Vital {
    match available {
        Some(bytes) if bytes > headroom => Vital::Ok,
        _ => Vital::Low,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::testing::{self, bed};

    #[test]
    fn little_is_low_and_nothing_has_failed() {
        let headroom = 1 << 30;
        for (bytes, files, expected) in [
            (2 << 30, 5, Vital::Ok),
            (headroom - 1, 5, Vital::Low),
            (LEAST_DISK - 1, 5, Vital::Failed),
            (2 << 30, 0, Vital::Failed),
        ] {
            assert_eq!(disk(Some((bytes, files)), headroom), expected, "{bytes} {files}");
        }
        assert_eq!(disk(None, 0), Vital::Failed);
        assert_eq!(memory_left(Some(2), 1), Vital::Ok);
        assert_eq!((memory_left(Some(1), 1), memory_left(None, 0)), (Vital::Low, Vital::Low));
    }

    #[tokio::test]
    async fn a_host_that_answers_has_all() {
        let bed = bed(testing::rules());
        let vitals = bed.sandboxes.vitals().await;
        assert_eq!(vitals.map(|(name, _)| name), ["disk", "memory", "kernel"]);
        assert!(vitals.iter().all(|(_, vital)| *vital != Vital::Failed), "{vitals:?}");
    }
}
