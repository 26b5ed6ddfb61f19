//! A create out of the warm pool, one at a time; and cold creates, beside a pool that is full and
//! one that is being filled again all the while.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::Stage;
use crate::{
    api::Api,
    client::Client,
    load::{Lane, Turn, interleave},
    report::{At, Of, Report},
    tally::Tally,
};

const SIZE: f64 = 10.0;
pub(super) const FLAGS: [&str; 4] = ["--pool", "base=10", "--templates", "base"];
const AVAILABLE: &str = "coppice_pool_available{template=\"base\"}";
/// In which it is full, of a gateway that has one.
const FILLS: Duration = Duration::from_secs(60);
const ALONE: &str = "one at a time";

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let api = &stage.gateway.api;
    let lane = |what: &str, kind| Lane::new(what, "coppice", ALONE, Creates::new(api, kind));
    let mut lanes = [
        lane("create from the pool", Kind::Pooled),
        lane("cold create, the pool is full", Kind::BesideFull),
        lane("cold create, the pool refills", Kind::BesideFilling),
    ];
    report.note(
        "a cold create is one without a network, which no entry of the pool can become; where the \
         pool refills, a sandbox has been taken from it right before each, and where it is full a \
         cold one made",
    );
    interleave(&mut lanes, stage.rounds(10, 50)).await?;
    report.lanes(&lanes, Of::P50);
    report.aim("pooled create, p50", At::Most, 2.0, "ms", lanes[0].total.quantile(0.5));
    let [full, filling] = [1, 2].map(|at| lanes[at].total.quantile(0.99));
    let aim = "p99 of cold creates while the pool refills, by that while it is full";
    report.aim(aim, At::Most, 1.5, "", filling / full);
    Ok(())
}

pub(super) async fn until_available(
    api: &Api,
    client: &mut Client,
    figure: &str,
    number: f64,
) -> anyhow::Result<()> {
    let start = Instant::now();
    while api.figure(client, figure).await? < number {
        ensure!(start.elapsed() < FILLS, "{figure} is not {number} within {FILLS:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pooled,
    BesideFull,
    BesideFilling,
}

struct Creates {
    api: Arc<Api>,
    client: Client,
    kind: Kind,
}

impl Creates {
    fn new(api: &Arc<Api>, kind: Kind) -> Self {
        Self { api: Arc::clone(api), client: api.client(), kind }
    }

    async fn until_available(&mut self, number: f64) -> anyhow::Result<()> {
        until_available(&self.api, &mut self.client, AVAILABLE, number).await
    }

    async fn once(&mut self, tally: &mut Tally) -> anyhow::Result<()> {
        let (pooled, cold) = (json!({}), json!({"allow_internet_access": false}));
        let untold = &mut Tally::default();
        match self.kind {
            Kind::Pooled => {
                self.until_available(1.0).await?;
                self.create_and_kill(pooled, tally).await;
            }
            Kind::BesideFull => {
                self.until_available(SIZE).await?;
                self.create_and_kill(cold.clone(), untold).await;
                self.create_and_kill(cold, tally).await;
            }
            Kind::BesideFilling => {
                self.create_and_kill(pooled, untold).await;
                self.create_and_kill(cold, tally).await;
            }
        }
        Ok(())
    }

    /// The create is what is timed.
    async fn create_and_kill(&mut self, wanted: Value, tally: &mut Tally) {
        let start = Instant::now();
        let sandbox = match self.api.create_as(&mut self.client, wanted).await {
            Ok(sandbox) => sandbox,
            Err(error) => return tally.count(start, Err(error)),
        };
        tally.count(start, Ok(0));
        if let Err(error) = sandbox.kill(&mut self.client).await {
            tally.count(start, Err(error));
        }
    }
}

impl Turn for Creates {
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>> {
        Box::pin(async move {
            let (mut tally, began) = (Tally::default(), Instant::now());
            for _ in 0..count {
                self.once(&mut tally).await?;
            }
            tally.lasted = began.elapsed();
            Ok(tally)
        })
    }
}
