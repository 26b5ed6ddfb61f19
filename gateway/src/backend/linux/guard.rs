//! Keeping the packet filter's rules in place. Whoever reloads the host's own rules (Debian's
//! `nftables.service` does) flushes ours along, and nothing else would keep sandboxes apart.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use super::{
    error::{Call, blocking},
    fence::Fences,
    nft,
    ruleset::{self, Table},
};
use crate::backend::Error;

/// Between two looks, each of one short question to the kernel.
const PERIOD: Duration = Duration::from_secs(2);
/// Where the rules cannot be loaded, or another program takes ours away again and again.
const LONGEST_PERIOD: Duration = Duration::from_secs(60);

/// Dropped, it ends.
pub(super) struct Guard {
    stop: DropGuard,
    ended: JoinHandle<()>,
}

impl Guard {
    pub(super) fn start(dns: Vec<IpAddr>, fences: Arc<Fences>) -> Self {
        let stop = CancellationToken::new();
        let ended = tokio::spawn(keep(dns, fences, stop.clone()));
        Self { stop: stop.drop_guard(), ended }
    }

    /// Returns when it can load nothing any more.
    pub(super) async fn stop(self) {
        drop(self.stop);
        let _ = self.ended.await;
    }
}

async fn keep(dns: Vec<IpAddr>, fences: Arc<Fences>, stop: CancellationToken) {
    let mut known = Known::default();
    let mut period = PERIOD;
    loop {
        let looked = known.look(&dns, &fences).await;
        if let Err(error) = &looked {
            warn!(%error, "cannot see to the rules that keep sandboxes apart");
        }
        period = match looked {
            Ok(Found::AsTheyWere) => PERIOD,
            _ => (period * 2).min(LONGEST_PERIOD),
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(period) => {}
        }
    }
}

enum Found {
    AsTheyWere,
    LoadedAgain,
}

/// What was there at the last look.
#[derive(Default)]
struct Known {
    generation: Option<u32>,
    table: Option<Table>,
}

impl Known {
    async fn look(&mut self, dns: &[IpAddr], fences: &Fences) -> Result<Found, Error> {
        let generation = ask(ruleset::generation).await?;
        if self.generation == Some(generation) {
            return Ok(Found::AsTheyWere);
        }
        let wanted = nft::number_of(&nft::rules(dns));
        let complete = |table: &Table| table.rules.len() == wanted;
        let found = ask(ruleset::table).await?.filter(complete);
        if found.is_some() && (self.table.is_none() || self.table == found) {
            *self = Self { generation: Some(generation), table: found };
            return Ok(Found::AsTheyWere);
        }
        warn!("the rules that keep sandboxes apart were gone or changed: loading them again");
        nft::load(dns, fences).await?;
        // Its generation is not known: others may have changed theirs meanwhile.
        *self = Self { generation: None, table: ask(ruleset::table).await?.filter(complete) };
        Ok(Found::LoadedAgain)
    }
}

async fn ask<T: Send + 'static>(question: fn() -> io::Result<T>) -> Result<T, Error> {
    blocking(move || question().call("ask", "the packet filter")).await
}
