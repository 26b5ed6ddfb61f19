//! What each command wires together.

pub(crate) mod api;
pub(crate) mod batch;
pub(crate) mod columns;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod events;
pub(crate) mod key;
pub(crate) mod pool;
pub(crate) mod serve;
pub(crate) mod template;
pub(crate) mod tls;
pub(crate) mod top;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use coppice::{
    backend::{self, Host, Settings},
    config::Config,
    data::Envds,
    data_dir::DataDir,
    logging::Log,
    sandbox::{FindTemplate, Rules, Sandboxes},
};

/// For what a command left running when it is done: deletions that the next start goes on with.
const LEFTOVERS: Duration = Duration::from_millis(200);

/// To stderr: stdout is for what other programs read.
fn log(config: &Config) {
    Log::of_command(&config.log);
}

/// How long a thread that blocks stays for the next work. The runtime gives work to the one that has
/// waited longest: with any time longer than the sampler's second none of a burst's threads would
/// ever have waited long enough to go.
const IDLE_THREAD: Duration = Duration::from_secs(1);

/// Does `work` in a runtime of its own, and lets the data directory go when that is over with all
/// that was left running in it: whoever claims the directory next is alone there.
fn run_in<T>(
    data_dir: DataDir,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    // A sandbox takes a few of them, and so does every open stream.
    if let Err(error) = backend::raise_descriptor_limit() {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .thread_keep_alive(IDLE_THREAD)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LEFTOVERS);
    drop(data_dir);
    done
}

/// Half of the machine: a request costs its sandbox as much as the gateway, and workers that are
/// more than there is work for wake each other for nothing (docs/profiles/data-plane.md).
fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1)
}

fn host(config: &Config, data_dir: &Path) -> anyhow::Result<Host> {
    let settings =
        Settings { data_dir: data_dir.to_owned(), dns: config.dns.clone(), jail: config.jail };
    Host::new(settings).context("the backend cannot be used")
}

/// Where nothing is said: a GiB, or a twentieth of a small disk.
fn disk_headroom(data_dir: &Path) -> u64 {
    const MOST: u64 = 1 << 30;
    backend::disk_size(data_dir).map_or(MOST, |size| MOST.min(size / 20))
}

fn sandboxes(config: &Config, data_dir: &Path, host: Host, find: FindTemplate) -> Sandboxes {
    let rules = Rules {
        max_sandboxes: config.max_sandboxes,
        memory_headroom: config.memory_headroom,
        disk_headroom: config.disk_headroom.unwrap_or_else(|| disk_headroom(data_dir)),
        disk: config.sandbox_disk,
        limits: config.limits,
        max_life: config.max_timeout,
        network: config.network,
        pool: config.pool.clone(),
        tariff: config.tariff,
        resource_events: config.resource_events,
    };
    Sandboxes::new(data_dir, Arc::new(host), rules, find, Box::new(Envds))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use coppice::data_dir;

    use super::*;

    #[test]
    fn the_data_directory_is_held_until_what_was_left_running_is_over() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let path = dir.path().to_owned();
        let (tell, told) = mpsc::channel();
        run_in(DataDir::claim(&path).unwrap(), async {
            let path = path.clone();
            tokio::task::spawn_blocking(move || {
                thread::sleep(LEFTOVERS / 4);
                tell.send(data_dir::user(&path).unwrap()).unwrap();
            });
            Ok(())
        })
        .unwrap();
        assert!(told.recv().unwrap().is_some());
        assert_eq!(data_dir::user(&path).unwrap(), None);
    }
}
