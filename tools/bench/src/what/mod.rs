//! What is measured, one file each: a series for us, one for each peer, and the aims.

mod batch;
mod burst;
mod churn;
mod command;
mod create;
mod events;
mod execute;
mod files;
mod kill;
mod lifecycle;
mod memory;
mod metrics;
mod pool;
mod proxy;
mod sustained;
mod transfer;

use std::path::PathBuf;

use crate::{
    gateway::{self, Gateway},
    load::Rounds,
    report::Report,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub(crate) enum What {
    /// Cold create, one at a time; beside `runc run` and `bwrap`
    Create,
    /// Creates out of the warm pool, and cold ones while it refills
    Pool,
    /// Kill, one at a time
    Kill,
    /// 100 creates at once
    Burst,
    /// 100 sandboxes out of a pool with one call
    Batch,
    /// Creates and kills at 200 a second, and at the highest rate that holds
    Sustained,
    /// A command's round trip; beside `nsenter`
    Command,
    /// What events cost a command with every exporter on and dead, and 20,000 of them a second
    Events,
    /// Code in a warm context; beside jupyter_client
    Execute,
    /// Uploads and downloads; beside nginx
    Files,
    /// Requests to a port of a sandbox; beside nginx as a proxy
    Proxy,
    /// Pauses and resumes, beside the bare freezer and `runc pause`; restarts with 500 sandboxes
    Lifecycle,
    /// Memory of 100 idle sandboxes
    Memory,
    /// A scrape, the sampler and the scraper, with 1000 live sandboxes
    Metrics,
    /// Whether the gateway grows in an hour of creates, commands and kills
    Churn,
}

impl What {
    pub(crate) const ALL: [Self; 15] = [
        Self::Create,
        Self::Pool,
        Self::Kill,
        Self::Burst,
        Self::Batch,
        Self::Sustained,
        Self::Command,
        Self::Events,
        Self::Execute,
        Self::Files,
        Self::Proxy,
        Self::Lifecycle,
        Self::Memory,
        Self::Metrics,
        Self::Churn,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Pool => "pool",
            Self::Kill => "kill",
            Self::Burst => "burst",
            Self::Batch => "batch",
            Self::Sustained => "sustained",
            Self::Command => "command",
            Self::Events => "events",
            Self::Execute => "execute",
            Self::Files => "files",
            Self::Proxy => "proxy",
            Self::Lifecycle => "lifecycle",
            Self::Memory => "memory",
            Self::Metrics => "metrics",
            Self::Churn => "churn",
        }
    }

    /// What a gateway of our own is started with for it: without a pool where that is not what is
    /// measured, or its filling would be measured too.
    pub(crate) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Pool => &pool::FLAGS,
            Self::Batch => &batch::FLAGS,
            Self::Execute => &execute::FLAGS,
            _ => &["--pool", "base=0", "--templates", "base"],
        }
    }

    pub(crate) async fn measure(
        self,
        stage: &mut Stage,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        match self {
            Self::Create => create::measure(stage, report).await,
            Self::Pool => pool::measure(stage, report).await,
            Self::Kill => kill::measure(stage, report).await,
            Self::Burst => burst::measure(stage, report).await,
            Self::Batch => batch::measure(stage, report).await,
            Self::Sustained => sustained::measure(stage, report).await,
            Self::Command => command::measure(stage, report).await,
            Self::Events => events::measure(stage, report).await,
            Self::Execute => execute::measure(stage, report).await,
            Self::Files => files::measure(stage, report).await,
            Self::Proxy => proxy::measure(stage, report).await,
            Self::Lifecycle => lifecycle::measure(stage, report).await,
            Self::Memory => memory::measure(stage, report).await,
            Self::Metrics => metrics::measure(stage, report).await,
            Self::Churn => churn::measure(stage, report).await,
        }
    }
}

/// How much is done, where the defaults are not wanted.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Amount {
    /// Tiny counts: to see that it works. The figures mean nothing
    #[arg(long, global = true)]
    pub(crate) quick: bool,
    /// Rounds, each with a turn of us and of every peer
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Operations of each in a round
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Begun a second, where operations do not wait for each other
    #[arg(long, global = true, value_parser = rate)]
    rate: Option<f64>,
    /// How long each rate is kept up [default: 15]
    #[arg(long, global = true, value_parser = rate)]
    seconds: Option<f64>,
    /// How long `churn` goes on [default: 60]; given with `all`, it is one of them
    #[arg(long, global = true, value_parser = rate)]
    pub(crate) minutes: Option<f64>,
    /// nginx, where it is not in its usual place
    #[arg(long, global = true, env = "BENCH_NGINX", value_name = "PATH")]
    nginx: Option<PathBuf>,
    /// Leave the peers out
    #[arg(long, global = true)]
    no_peers: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("a number greater than 0 is needed".to_owned()),
    }
}

/// Where it is measured.
pub(crate) struct Stage {
    pub(crate) gateway: Gateway,
    pub(crate) found: gateway::Options,
    pub(crate) amount: Amount,
}

impl Stage {
    /// The amount asked for, else `rounds` of `count`, else next to nothing.
    fn rounds(&self, rounds: usize, count: usize) -> Rounds {
        let (rounds, count) = if self.amount.quick { (2, 2) } else { (rounds, count) };
        let count = self.amount.count.map_or(count, |count| count as usize);
        Rounds {
            rounds: self.amount.rounds.map_or(rounds, usize::from),
            count,
            warmup: count.div_ceil(5).max(1),
        }
    }

    /// The tree that peers work in; none when they are left out.
    fn template(&self) -> anyhow::Result<Option<PathBuf>> {
        if self.amount.no_peers {
            return Ok(None);
        }
        gateway::template(&self.found).map(Some)
    }
}
