//! What is measured, one file each: a series for us, one for each peer, and the aims.

mod command;
mod create;
mod kill;

use std::path::PathBuf;

use clap::ValueEnum;

use crate::{
    gateway::{self, Gateway},
    load::Rounds,
    report::Report,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    Create,
    Kill,
    Command,
}

impl What {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().expect("none is skipped").get_name().to_owned()
    }

    pub(crate) async fn measure(self, stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
        match self {
            Self::Create => create::measure(stage, report).await,
            Self::Kill => kill::measure(stage, report).await,
            Self::Command => command::measure(stage, report).await,
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
    /// Leave the peers out
    #[arg(long, global = true)]
    no_peers: bool,
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
