//! `bench`: load and timings of a Coppice gateway, beside named peers in the same run.
//!
//! This file is the command line. What is measured is below `what/`, what it is compared with
//! below `peers/`; `docs/bench.md` says how to read the results.

#![forbid(unsafe_code)]

mod answer;
mod api;
mod client;
mod envelope;
mod gateway;
mod load;
mod machine;
mod peers;
mod proc;
mod report;
mod scratch;
mod screen;
mod table;
mod tally;
mod what;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

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

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    One(What),
    /// All of these, one after the other; churn only where --minutes is given
    All,
    /// Results as the markdown of README.md
    Table {
        #[arg(required = true)]
        results: Vec<PathBuf>,
        /// The file between whose markers it is put, instead of printing it
        #[arg(long, value_name = "FILE")]
        into: Option<PathBuf>,
    },
    /// The server that is proxied to
    #[command(hide = true)]
    Answer {
        #[arg(long)]
        listen: SocketAddr,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let measured = match &cli.command {
        Command::Table { results, into } => {
            table::make(results, into.as_deref())?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Answer { listen } => match runtime.block_on(answer::answer(*listen))? {},
        Command::One(what) => vec![*what],
        Command::All => {
            let with_churn = cli.amount.quick || cli.amount.minutes.is_some();
            What::ALL.into_iter().filter(|what| with_churn || *what != What::Churn).collect()
        }
    };
    // In a task: the thread that waits here is not one that hears of the network first.
    let errors = runtime.block_on(async { tokio::spawn(measure(cli, measured)).await })??;
    if errors > 0 {
        eprintln!("error: {errors} operations failed; see above");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(cli: Cli, measured: Vec<What>) -> anyhow::Result<u64> {
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
    for what in measured {
        eprintln!("==> {}", what.name());
        let gateway = Gateway::reach(&cli.gateway, what.flags())?;
        let mut stage = Stage { gateway, found: cli.gateway.clone(), amount: cli.amount.clone() };
        let described = gateway::described(&stage.gateway, what.flags());
        let mut report = Report::new(what.name(), cli.amount.quick, described);
        // Whichever it is, the gateway is ended with its sandboxes.
        let measured = async {
            stage.gateway.ready().await?;
            what.measure(&mut stage, &mut report).await
        };
        let measured = tokio::select! {
            measured = measured => measured,
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
