//! What a sandbox may use at most.

use std::time::{Duration, Instant};

use coppice::backend::Backend;

use super::{Case, cases};
use crate::suite::{platform, world::World};

pub(super) fn cases() -> Vec<Case> {
    cases![
        processes_beyond_the_limit_are_refused,
        who_takes_too_much_memory_is_killed,
        two_busy_loops_share_the_one_cpu_there_is
    ]
}

/// Deaf to what is not SIGKILL, half of them stopped, and none with our output open.
pub(crate) const FILL_PROCESS_TABLE: &str = "trap '' TERM HUP INT
    exec 3>&2 </dev/null >/dev/null 2>/tmp/said
    (i=0; while [ $i -lt 100 ]; do
        sleep 1000 3>&- &
        [ $((i % 2)) = 0 ] && kill -STOP $!
        i=$((i+1))
    done) 3>&-
    read said </tmp/said
    echo $said >&3";

async fn processes_beyond_the_limit_are_refused(world: &World) {
    let (id, cell) = world.create().await;
    let said = world.inside(id, FILL_PROCESS_TABLE).await;
    assert!(said.contains("fork"), "{said}");
    assert!(world.usage(id).await.processes >= 32, "{:?}", world.usage(id).await);
    assert!(world.envd(id).answers(Duration::from_secs(10)).await, "envd has room of its own");
    assert!(!cell.ended.is_cancelled());
    world.destroy(id).await;
}

/// At a pace at which it is also noticed by a kernel that looks once a second.
const EAT: &str = "(x=01234567; i=0
    while [ $i -lt 22 ]; do x=$x$x; i=$((i+1)); done
    all=; while :; do all=$all$x; sleep 0.2; done); echo then $?";

async fn who_takes_too_much_memory_is_killed(world: &World) {
    let (id, cell) = world.create().await;
    match world.start(id, EAT).await.finish().await {
        Ok(said) => {
            // What the shell says of the kill may come before it or after.
            let code = said.text.rsplit("then ").next().unwrap_or_default();
            let code = code.split_whitespace().next().unwrap_or_default();
            // 137 where it was killed, 2 where the shell was told that there is no more.
            assert!(matches!(code, "137" | "2"), "{said:?}");
            assert!(world.envd(id).answers(Duration::from_secs(10)).await);
            assert!(!cell.ended.is_cancelled());
        }
        // FreeBSD: whoever is charged when the limit trips is killed, be it envd; then the end of
        // the sandbox is told.
        Err(error) => {
            println!("envd itself was killed: {error}");
            let told = tokio::time::timeout(Duration::from_secs(10), cell.ended.cancelled()).await;
            assert!(told.is_ok(), "{error}, and nobody was told of an end");
        }
    }
    assert!(world.host.adopt(id).await.unwrap().is_some() != cell.ended.is_cancelled());
    world.destroy(id).await;
}

async fn two_busy_loops_share_the_one_cpu_there_is(world: &World) {
    const WATCHED: Duration = Duration::from_secs(1);
    let (id, _cell) = world.create().await;
    for _ in 0..2 {
        world.start(id, "exec </dev/null >/dev/null 2>&1; while :; do :; done").await;
    }
    tokio::time::sleep(platform::ACCOUNTED_WITHIN).await;
    let (began, before) = (Instant::now(), world.usage(id).await.cpu);
    tokio::time::sleep(WATCHED + platform::ACCOUNTED_WITHIN).await;
    let (took, spent) = (began.elapsed(), world.usage(id).await.cpu - before);
    // Where figures are brought up to date once a second, one more second may have come in.
    let most = took.mul_f64(1.3) + platform::ACCOUNTED_WITHIN / 2;
    assert!(spent <= most, "{spent:?} of CPU time in {took:?}");
    world.destroy(id).await;
}
