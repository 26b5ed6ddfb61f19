//! Being ended, in whatever state, and being made by half.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use coppice::{
    backend::{Backend, NetworkMode},
    sandbox::SandboxId,
};

use super::{Case, cases, freezing::start_fork_storm, limits::FILL_PROCESS_TABLE};
use crate::suite::{
    platform,
    world::{World, eventually},
};

pub(super) fn cases() -> Vec<Case> {
    cases![
        its_own_end_is_noticed,
        stopping_or_destroying_what_is_not_there_succeeds,
        destroying_twice_at_once_succeeds,
        a_stopped_sandbox_runs_nothing_and_is_destroyed_later,
        whatever_code_inside_did_it_ends,
        a_fork_storm_ends,
        a_create_that_fails_leaves_nothing,
        a_create_nobody_waits_for_is_undone,
        twenty_in_a_row_leave_nothing,
    ]
}

const SOON: Duration = Duration::from_secs(10);

async fn its_own_end_is_noticed(world: &World) {
    let (id, cell) = world.create().await;
    assert!(!cell.ended.is_cancelled());
    platform::kill_first_process(world, id).await;
    tokio::time::timeout(SOON, cell.ended.cancelled()).await.unwrap();
    assert!(world.host.adopt(id).await.unwrap().is_none());
    assert_eq!(world.host.list().await.unwrap(), [id], "something is left to be cleared");
    world.destroy(id).await;
}

async fn stopping_or_destroying_what_is_not_there_succeeds(world: &World) {
    let never = SandboxId::random();
    world.host.stop(never).await.unwrap();
    world.host.destroy(never).await.unwrap();
    assert!(world.host.adopt(never).await.unwrap().is_none());
    let (id, _cell) = world.create().await;
    world.destroy(id).await;
    world.host.stop(id).await.unwrap();
    world.host.destroy(id).await.unwrap();
}

async fn destroying_twice_at_once_succeeds(world: &World) {
    let (id, _cell) = world.create().await;
    let (one, two) = tokio::join!(world.host.destroy(id), world.host.destroy(id));
    one.unwrap();
    two.unwrap();
    world.destroy(id).await;
}

async fn a_stopped_sandbox_runs_nothing_and_is_destroyed_later(world: &World) {
    let (id, cell) = world.create().await;
    world.start(id, &super::freezing::ticks_to("/tmp/ticks")).await;
    world.until_longer(id, "/tmp/ticks", 4).await;
    world.host.stop(id).await.unwrap();
    let before = world.length(id, "/tmp/ticks");
    tokio::time::timeout(SOON, cell.ended.cancelled()).await.unwrap();
    assert!(!world.envd(id).answers(Duration::from_millis(200)).await);
    assert_eq!(world.length(id, "/tmp/ticks"), before);
    assert_eq!(world.host.list().await.unwrap(), [id], "a gateway that starts now clears it");
    world.host.stop(id).await.expect("stopping twice");
    world.destroy(id).await;
}

async fn whatever_code_inside_did_it_ends(world: &World) {
    let (id, cell) = world.create().await;
    let nowhere = "mkdir /tmp/gone; cd /tmp/gone; rm -r /tmp/gone; sleep 1000 &";
    world.inside(id, &format!("exec </dev/null >/dev/null 2>&1; {nowhere}")).await;
    world.inside(id, FILL_PROCESS_TABLE).await;
    world.host.destroy(id).await.unwrap();
    tokio::time::timeout(SOON, cell.ended.cancelled()).await.unwrap();
    world.destroy(id).await;
}

async fn a_fork_storm_ends(world: &World) {
    let (id, cell) = world.create().await;
    start_fork_storm(world, id).await;
    world.host.stop(id).await.unwrap();
    let before = world.length(id, "/tmp/storm");
    tokio::time::timeout(SOON, cell.ended.cancelled()).await.unwrap();
    assert_eq!(world.length(id, "/tmp/storm"), before);
    world.destroy(id).await;
}

async fn a_create_that_fails_leaves_nothing(world: &World) {
    let good = world.spec(NetworkMode::None);
    let id = good.id;

    let mut without_root = good.clone();
    let mut template = (*without_root.template).clone();
    template.layers = vec!["/nonexistent".into()];
    without_root.template = template.into();
    let error = world.host.create(without_root).await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent"), "{error}");
    empty(&world.directory(id));
    world.assert_nothing_is_held(id).await;

    // When all else is there, and envd is to be told: more than it would read.
    let mut untold = good.clone();
    let long = "x".repeat(envd::wire::MAX_FRAME as usize);
    untold.init.env_vars = Some(BTreeMap::from([("LONG".into(), long)]));
    let error = world.host.create(untold).await.unwrap_err().to_string();
    assert!(error.contains("bytes, at most"), "{error}");
    empty(&world.directory(id));
    world.assert_nothing_is_held(id).await;

    world.host.create(good).await.expect("it can be made after all");
    world.destroy(id).await;
}

/// As the caller of a create does before it tries again.
fn empty(directory: &Path) {
    fs::remove_dir_all(directory).unwrap();
    fs::create_dir(directory).unwrap();
}

async fn a_create_nobody_waits_for_is_undone(world: &World) {
    for patience in [1, 3, 10] {
        let spec = world.spec(NetworkMode::None);
        let id = spec.id;
        let waited = Duration::from_millis(patience);
        let made = tokio::time::timeout(waited, world.host.create(spec)).await;
        if let Ok(made) = made {
            made.expect("a quick one");
        }
        // From then on an end waits for it.
        let log = world.directory(id).join("envd.log");
        eventually("it has begun", async || log.exists()).await;
        world.destroy(id).await;
        assert_eq!(world.host.list().await.unwrap(), []);
    }
}

async fn twenty_in_a_row_leave_nothing(world: &World) {
    let (mut creates, mut destroys) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let began = Instant::now();
        let (id, _cell) = world.create().await;
        creates.push(began.elapsed());
        let began = Instant::now();
        world.host.destroy(id).await.unwrap();
        destroys.push(began.elapsed());
        world.destroy(id).await;
    }
    creates.sort();
    destroys.sort();
    println!("create p50 {:?}, destroy p50 {:?}", creates[10], destroys[10]);
}
