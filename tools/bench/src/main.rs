//! `bench`: load and timings of a Coppice gateway, beside named peers in the same run.
//!
//! This file is the command line. What is measured is below `what/`, what it is compared with
//! below `peers/`; `docs/bench.md` says how to read the results.

#![forbid(unsafe_code)]

mod api;
mod client;
mod envelope;
mod gateway;
mod load;
mod machine;
mod peers;
mod report;
mod scratch;
mod screen;
mod tally;
mod what;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    gateway::Gateway,
    report::Report,
    what::{Amount, Stage, What},
};

/// Load and timings of a Coppice gateway, beside named peers in the same run
#[derive(Parser)]
#[command(name = "bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    gateway: gateway::Options,
    #[command(flatten)]
    amount: Amount,
    /// Where results are written
    #[arg(long, global = true, value_name = "DIR", default_value = "data/bench")]
    out: PathBuf,
}

#[derive(Clone, Copy, Subcommand)]
enum Command {
    /// Cold create, one at a time; beside `runc run` and `bwrap`
    Create,
    /// Kill, one at a time
    Kill,
    /// A command's round trip; beside `nsenter`
    Command,
    /// All of them, one after the other
    All,
}

impl Command {
    fn what(self) -> Vec<What> {
        match self {
            Self::Create => vec![What::Create],
            Self::Kill => vec![What::Kill],
            Self::Command => vec![What::Command],
            Self::All => vec![What::Create, What::Kill, What::Command],
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // In a task: the thread that waits here is not one that hears of the network first.
    let errors = runtime.block_on(async { tokio::spawn(measure_all(cli)).await })??;
    if errors > 0 {
        eprintln!("error: {errors} operations failed; see above");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure_all(cli: Cli) -> anyhow::Result<u64> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::pin!(stop);
    let mut errors = 0;
    for what in cli.command.what() {
        eprintln!("==> {}", what.name());
        let gateway = Gateway::reach(&cli.gateway)?;
        let mut stage = Stage { gateway, found: cli.gateway.clone(), amount: cli.amount.clone() };
        let described = gateway::described(&stage.gateway);
        let mut report = Report::new(&what.name(), cli.amount.quick, described);
        // Whichever it is, the gateway is ended with its sandboxes.
        let measured = tokio::select! {
            measured = what.measure(&stage, &mut report) => measured,
            () = &mut stop => Err(anyhow::anyhow!("interrupted")),
        };
        let ended = stage.gateway.end();
        measured.with_context(|| what.name())?;
        ended?;
        screen::print(&report);
        report.write(&cli.out)?;
        errors += report.errors();
    }
    Ok(errors)
}
