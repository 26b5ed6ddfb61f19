//! A batch of 100 sandboxes out of a pool, with one call, until all of them are ready; one made
//! cold; and its end.

use std::{sync::Arc, time::Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{Stage, pool::until_available};
use crate::{
    api::Api,
    client::Client,
    report::{At, Report},
    tally::Tally,
};

const SIZE: usize = 100;
const ROUNDS: usize = 10;
/// The pool is one of its own, made over the API.
pub(super) const FLAGS: [&str; 6] =
    ["--pool", "base=0", "--templates", "base", "--pool-memory", "8192"];
const POOL: &str = "bench-batch";
const AVAILABLE: &str = "coppice_pool_available{template=\"base\"}";
const ALLOCATED: &str = "coppice_pool_allocated{template=\"base\"}";
/// OpenSandbox's own figure is 920 ms.
const AIM: f64 = 900.0;

#[derive(Default)]
struct Tallies {
    ready: Tally,
    told: Tally,
    cold: Tally,
    deleted: Tally,
}

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let api = &stage.gateway.api;
    let size = if stage.amount.quick { 4 } else { SIZE };
    let mut client = api.client();
    let capacity = json!({
        "bufferMin": size, "bufferMax": size, "poolMin": 0, "poolMax": 1_000_000,
    });
    let pool = json!({ "name": POOL, "templateID": "base", "capacitySpec": capacity });
    api.post(&mut client, "/pools", &pool).await.context("a pool")?;
    let measured = rounds(stage, api, &mut client, size).await;
    api.delete(&mut client, &format!("/pools/{POOL}")).await.context("the pool's end")?;
    let tallies = measured?;
    let how = format!("{size} with one call");
    report.note(
        "all of a batch are ready when its call is answered (`wait`), and all came out of the pool, \
         which is full before each; cold ones have no network, which no entry of the pool can become",
    );
    report.series("batch from the pool, all ready", "coppice", &how, &tallies.ready);
    report.series("batch from the pool, told of", "coppice", &how, &tallies.told);
    report.series("batch made cold, all ready", "coppice", &how, &tallies.cold);
    report.series("batch ended, nothing of it runs", "coppice", &how, &tallies.deleted);
    let slowest = tallies.ready.max();
    report.aim("the slowest batch of 100 from the pool", At::Most, AIM, "ms", slowest);
    Ok(())
}

async fn rounds(
    stage: &Stage,
    api: &Arc<Api>,
    client: &mut Client,
    size: usize,
) -> anyhow::Result<Tallies> {
    // One for nothing.
    round(api, client, size, &mut Tallies::default()).await?;
    let mut tallies = Tallies::default();
    for n in 0..stage.rounds(ROUNDS, 1).rounds {
        eprintln!("    batch {}", n + 1);
        round(api, client, size, &mut tallies).await?;
    }
    Ok(tallies)
}

async fn round(
    api: &Arc<Api>,
    client: &mut Client,
    size: usize,
    tallies: &mut Tallies,
) -> anyhow::Result<()> {
    let Tallies { ready, told, cold, deleted } = tallies;
    let pooled = json!({ "replicas": size, "templateID": "base", "timeout": 3600 });
    let mut alone = pooled.clone();
    alone["allow_internet_access"] = false.into();
    for (wanted, wait, tally) in [(&pooled, 60, ready), (&pooled, 0, told), (&alone, 60, cold)] {
        until_available(api, client, AVAILABLE, size as f64).await?;
        let start = Instant::now();
        let made = api.post(client, &format!("/batches?wait={wait}"), wanted).await?;
        let took = start.elapsed();
        let id = made["batchID"].as_str().context("a batch has no id")?.to_owned();
        let path = format!("/batches/{id}");
        let all = async {
            if wait > 0 {
                ensure!(made["ready"] == size, "{} of {size} are ready", made["ready"]);
            }
            until_ready(api, client, &path, size).await?;
            if wanted.get("allow_internet_access").is_none() {
                let pooled = api.figure(client, ALLOCATED).await?;
                ensure!(pooled == size as f64, "{pooled} of {size} came out of the pool");
            }
            anyhow::Ok(0)
        };
        tally.count_as(took, all.await);
        tally.lasted += took;
        let start = Instant::now();
        let gone = api.delete(client, &path).await.map(|()| 0);
        deleted.count(start, gone);
        deleted.lasted += start.elapsed();
    }
    Ok(())
}

async fn until_ready(
    api: &Arc<Api>,
    client: &mut Client,
    path: &str,
    size: usize,
) -> anyhow::Result<()> {
    for _ in 0..3000 {
        let seen: Value = api.get(client, path).await?;
        if seen["ready"] == size {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    anyhow::bail!("a batch is not ready within 30 s")
}
