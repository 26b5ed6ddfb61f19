//! `coppice down`: no sandbox of this data directory is left, nor anything they needed.

use std::{
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use coppice::{
    config::{self, Config, Flags},
    data_dir::{self, DataDir},
    template::Store,
};
use nix::sys::signal::{Signal, kill};

/// A gateway ends within 5 s of its signal.
const GATEWAY_ENDS: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// For all sandboxes together.
const ENDING: Duration = Duration::from_secs(120);

pub(crate) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    let config = config::load(flags)?;
    super::log(&config);
    if !config.data_dir.exists() {
        println!("there is nothing in {}", config.data_dir.display());
        return Ok(ExitCode::SUCCESS);
    }
    stop_gateway(&config.data_dir)?;
    let data_dir = DataDir::claim(&config.data_dir)?;
    let runtime = super::runtime()?;
    let ended = runtime.block_on(end_all(&config, data_dir.path()));
    runtime.shutdown_timeout(super::LEFTOVERS);
    println!("{} sandboxes ended, none left", ended?);
    Ok(ExitCode::SUCCESS)
}

fn stop_gateway(data_dir: &Path) -> anyhow::Result<()> {
    let Some(gateway) = data_dir::user(data_dir)? else { return Ok(()) };
    println!("stopping the gateway, process {gateway}");
    kill(gateway, Signal::SIGTERM).with_context(|| format!("cannot signal process {gateway}"))?;
    let start = Instant::now();
    while data_dir::user(data_dir)? == Some(gateway) {
        if start.elapsed() > GATEWAY_ENDS {
            anyhow::bail!(
                "the gateway, process {gateway}, did not end within {GATEWAY_ENDS:?}: end it, then \
                 run this again"
            );
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

async fn end_all(config: &Config, data_dir: &Path) -> anyhow::Result<usize> {
    let host = super::host(config, data_dir)?;
    let templates = Store::open(data_dir)?;
    let sandboxes = super::sandboxes(config, data_dir, host, templates);
    let ended = tokio::time::timeout(ENDING, sandboxes.end_all_found())
        .await
        .with_context(|| format!("some sandboxes were not gone within {ENDING:?}; see above"))??;
    sandboxes.retire().await?;
    Ok(ended)
}
