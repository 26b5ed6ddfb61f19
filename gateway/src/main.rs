//! The command line.

#![deny(unsafe_code)]

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use coppice::config::Flags;

/// Sandboxes over the E2B API on hardware you own
#[derive(Parser)]
#[command(name = "coppice", version)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API
    Serve(Flags),
    /// Look the host over and say what is missing
    Doctor(Flags),
    /// Stop the gateway and end all its sandboxes; templates stay
    Down(Flags),
    /// What sandboxes are made from
    #[command(subcommand)]
    Template(command::template::Template),
    /// API keys: who may use the gateway, as whom and for what
    #[command(subcommand)]
    Key(command::key::Key),
    /// What happens to sandboxes and has happened, asked of a gateway that runs
    #[command(subcommand)]
    Events(command::events::Events),
    /// Sandboxes that are ready before they are asked for
    #[command(subcommand)]
    Pool(command::pool::Pool),
    /// Many sandboxes at once
    #[command(subcommand)]
    Batch(command::batch::Batch),
    /// Certificates
    #[command(subcommand)]
    Tls(command::tls::Tls),
    /// All sandboxes and what they use, live
    Top(command::top::Top),
    /// What runs inside a sandbox; the gateway starts it
    #[command(hide = true)]
    Envd,
}

fn main() -> ExitCode {
    let done = match Line::parse().command {
        Command::Serve(flags) => command::serve::run(flags),
        Command::Doctor(flags) => command::doctor::run(flags),
        Command::Down(flags) => command::down::run(flags),
        Command::Template(template) => command::template::run(template),
        Command::Key(key) => command::key::run(key),
        Command::Events(events) => command::events::run(events),
        Command::Pool(pool) => command::pool::run(pool),
        Command::Batch(batch) => command::batch::run(batch),
        Command::Tls(tls) => command::tls::run(tls),
        Command::Top(top) => command::top::run(top),
        Command::Envd => Ok(envd::run()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("coppice: {error:#}");
        ExitCode::FAILURE
    })
}
