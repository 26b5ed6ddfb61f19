//! `coppice down`: no sandbox of this data directory is left, nor anything they needed.

use std::{
    path::{self, Path},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use coppice::{
    config::{self, Config, Flags},
    data_dir::{self, DataDir},
    template::{FindError, Store},
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
    if let Some(nothing) = nothing_in(&config.data_dir)? {
        println!("{nothing}");
        return Ok(ExitCode::SUCCESS);
    }
    stop_gateway(&config.data_dir)?;
    let data_dir = DataDir::claim(&config.data_dir)?;
    let path = data_dir.path().to_owned();
    let ended = super::run_in(data_dir, end_all(&config, &path))?;
    println!("{ended} sandboxes ended, none left");
    Ok(ExitCode::SUCCESS)
}

/// What to say when there is no such data directory, by its whole path: it may well be that this
/// was run in another place than the gateway.
fn nothing_in(data_dir: &Path) -> anyhow::Result<Option<String>> {
    if data_dir.try_exists().with_context(|| format!("data-dir {}", data_dir.display()))? {
        return Ok(None);
    }
    let path = path::absolute(data_dir).context("data-dir")?;
    Ok(Some(format!("there is no data directory {}, so nothing to end", path.display())))
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
    // Only to remove what an interrupted build left: sandboxes end without their templates.
    if let Err(error) = Store::open(data_dir, |_, _| {}) {
        tracing::warn!(%error, "what is among the templates stays as it is");
    }
    let sandboxes = super::sandboxes(config, data_dir, host, Box::new(|_| Err(FindError::Unknown)));
    let ended = tokio::time::timeout(ENDING, sandboxes.end_all_found())
        .await
        .with_context(|| format!("some sandboxes were not gone within {ENDING:?}; see above"))??;
    sandboxes.retire().await?;
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_that_is_not_there_is_named_by_its_whole_path() {
        let here = std::env::current_dir().unwrap();
        let said = nothing_in(Path::new("not/there")).unwrap().unwrap();
        assert!(said.contains(here.join("not/there").to_str().unwrap()), "{said}");
        assert_eq!(nothing_in(&here).unwrap(), None);
    }
}
