//! `metrics-scraper`: writes a gateway's metrics down, a line of JSON for each look.

#![deny(unsafe_code)]

mod fetch;
mod recording;
mod sample;
mod text;
mod watch;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

use fetch::Source;
use recording::Recording;
use watch::Watch;

/// Writes a gateway's metrics down: one line of JSON for each look, in a file for each day (UTC)
#[derive(Parser)]
#[command(name = "metrics-scraper", version)]
struct Flags {
    /// The gateway, or its metrics listener
    #[arg(long, default_value = "http://127.0.0.1:3000")]
    url: String,
    /// Directory of the files
    #[arg(long, default_value = "data/metrics")]
    out: PathBuf,
    /// Look once and end
    #[arg(long, conflicts_with = "interval")]
    once: bool,
    /// Seconds between looks, until Ctrl-C
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// File whose first line is the API key
    #[arg(long)]
    api_key_file: Option<PathBuf>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(flags)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("metrics-scraper: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let source = Source::new(&flags.url, flags.api_key_file.as_deref())?;
    let (recording, lost) = Recording::open(&flags.out)?;
    if lost > 0 {
        eprintln!("metrics-scraper: the last write broke off; {lost} bytes of it are removed");
    }
    let mut watch = Watch::new(source, recording);
    if flags.once {
        watch.once().await
    } else {
        watch.until_stopped(Duration::from_secs(flags.interval)).await
    }
}
