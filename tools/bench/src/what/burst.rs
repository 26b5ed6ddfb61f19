//! Many creates at once: how long from the first request to the last answer.

use std::{sync::Arc, time::Instant};

use anyhow::anyhow;
use tokio::task::JoinSet;

use super::Stage;
use crate::{
    api::{Api, Sandbox},
    client::Client,
    report::{At, Report},
    tally::Tally,
};

const AT_ONCE: usize = 100;
const ROUNDS: usize = 10;

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let api = &stage.gateway.api;
    let size = if stage.amount.quick { 4 } else { AT_ONCE };
    let mut clients = Vec::new();
    for _ in 0..size {
        let mut client = api.client();
        api.healthy(&mut client).await?;
        clients.push(client);
    }
    let (mut bursts, mut creates) = (Tally::default(), Tally::default());
    burst(api, &mut clients, &mut Tally::default(), &mut Tally::default()).await?;
    for round in 0..stage.rounds(ROUNDS, 1).rounds {
        eprintln!("    burst {}", round + 1);
        burst(api, &mut clients, &mut bursts, &mut creates).await?;
    }
    let how = format!("{size} at once");
    report.note("connections are open before the first request; all are killed between bursts");
    report.series("all of a burst answered", "coppice", &how, &bursts);
    report.series("create, of a burst", "coppice", &how, &creates);
    report.aim("the slowest burst of 100 creates", At::Most, 400.0, "ms", bursts.max());
    Ok(())
}

async fn burst(
    api: &Arc<Api>,
    clients: &mut Vec<Client>,
    bursts: &mut Tally,
    creates: &mut Tally,
) -> anyhow::Result<()> {
    let size = clients.len();
    let mut running = JoinSet::new();
    let start = Instant::now();
    for mut client in clients.drain(..) {
        let api = Arc::clone(api);
        running.spawn(async move {
            let made = api.create(&mut client).await;
            (client, made, start.elapsed())
        });
    }
    let (mut made, mut last) = (Vec::new(), start.elapsed());
    while let Some(done) = running.join_next().await {
        let (client, sandbox, took) = done?;
        last = last.max(took);
        creates.count_as(took, sandbox.as_ref().map(|_| 0).map_err(|e| anyhow!("{e:#}")));
        made.extend(sandbox.ok());
        clients.push(client);
    }
    creates.lasted += last;
    bursts.lasted += last;
    let failed = size - made.len();
    let outcome = if failed == 0 { Ok(0) } else { Err(anyhow!("{failed} of {size} failed")) };
    bursts.count_as(last, outcome);
    kill_all(&made, clients).await
}

/// All of them, by as many clients as there are.
pub(super) async fn kill_all(made: &[Sandbox], clients: &mut [Client]) -> anyhow::Result<()> {
    let share = made.len().div_ceil(clients.len()).max(1);
    let kills = made.chunks(share).zip(clients).map(|(sandboxes, client)| async move {
        for sandbox in sandboxes {
            sandbox.kill(client).await?;
        }
        Ok(())
    });
    futures_util::future::try_join_all(kills).await.map(|_| ())
}
