//! What the kernel has counted.

use std::{collections::BTreeSet, time::Duration};

use coppice::backend::{Backend, Usage};

use super::{Case, cases};
use crate::suite::{
    platform,
    world::{World, eventually},
};

pub(super) fn cases() -> Vec<Case> {
    cases![
        cpu_time_is_of_those_who_spend_it_and_never_falls,
        memory_is_counted_with_all_that_takes_it,
        processes_are_counted,
        one_sweep_sees_all_that_live_and_no_other
    ]
}

async fn cpu_time_is_of_those_who_spend_it_and_never_falls(world: &World) {
    let (busy, _) = world.create().await;
    let (idle, _) = world.create().await;
    let before = world.usage(busy).await.cpu;
    let spent = Duration::from_millis(1500);
    world.start(busy, "while :; do :; done").await;
    eventually("a busy loop is counted", async || world.usage(busy).await.cpu >= before + spent)
        .await;
    if world.usage(busy).await.cpu_percent.is_some() {
        let percent = async || world.usage(busy).await.cpu_percent.unwrap();
        eventually("a busy loop has a percentage", async || percent().await > 10.0).await;
        assert!(percent().await <= 400.0);
    }
    assert!(world.usage(idle).await.cpu < world.usage(busy).await.cpu);
    // What has ended has still been spent.
    let most = world.usage(busy).await.cpu;
    world.host.stop(busy).await.unwrap();
    if let Some(usage) = world.host.usage().await.unwrap().get(&busy) {
        assert!(usage.cpu >= most, "{usage:?}, and before {most:?}");
    }
    for id in [busy, idle] {
        world.destroy(id).await;
    }
}

async fn memory_is_counted_with_all_that_takes_it(world: &World) {
    const TAKEN: u64 = 32 << 20;
    let (id, _cell) = world.create().await;
    let memory = async || world.usage(id).await.memory_bytes;
    eventually("envd has some", async || memory().await > 0).await;
    tokio::time::sleep(platform::ACCOUNTED_WITHIN).await;
    let idle = memory().await;
    // A word of 32 MiB.
    let double = "x=0123456789abcdef; i=0; while [ $i -lt 21 ]; do x=$x$x; i=$((i+1)); done";
    world.start(id, &format!("{double}; while :; do sleep 1; done")).await;
    let taken = |now: u64| now >= idle + TAKEN / 10 * 9;
    eventually("32 MiB are counted", async || taken(memory().await)).await;
    eventually("for itself, too", async || taken(world.host.memory_used(id).await.unwrap())).await;
    world.destroy(id).await;
    assert!(world.host.memory_used(id).await.is_err());
}

async fn processes_are_counted(world: &World) {
    let (id, _cell) = world.create().await;
    let before = world.usage(id).await.processes;
    assert!(before >= 1, "envd is one");
    let seven = "for i in 1 2 3 4 5 6; do sleep 1000 & done; wait";
    world.start(id, seven).await;
    eventually("seven more", async || world.usage(id).await.processes >= before + 7).await;
    world.destroy(id).await;
}

async fn one_sweep_sees_all_that_live_and_no_other(world: &World) {
    assert_eq!(world.host.usage().await.unwrap(), [].into());
    let (one, _) = world.create().await;
    let (two, _) = world.create().await;
    let sweep = async || world.host.usage().await.unwrap();
    assert_eq!(sweep().await.into_keys().collect::<BTreeSet<_>>(), [one, two].into());
    let runs = |usage: &Usage| usage.memory_bytes > 0 && usage.processes > 0;
    eventually("both have something", async || sweep().await.values().all(runs)).await;
    world.destroy(one).await;
    assert_eq!(world.host.usage().await.unwrap().into_keys().collect::<Vec<_>>(), [two]);
    world.destroy(two).await;
}
