//! A gateway that is gone, and the next one.

use std::{
    fs,
    io::Read,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use coppice::{
    backend::{Backend, NetworkMode},
    sandbox::SandboxId,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{Case, cases, freezing::ticks_to};
use crate::suite::world::World;

pub(super) fn cases() -> Vec<Case> {
    cases![
        the_next_gateway_adopts_what_lives,
        the_next_gateway_adopts_what_is_frozen,
        the_next_gateway_finds_what_was_made_by_half,
        one_gateway_does_not_see_what_is_anothers,
    ]
}

/// The part of a gateway that is to be killed. It ends by itself when whoever started it does.
pub(crate) async fn gateway(way: &str, id: &str, data_dir: &Path, root: &Path) {
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    let world = World::new(data_dir, root).await;
    let id: SandboxId = id.parse().unwrap();
    println!("ready");
    let _cell = world.host.create(world.spec_of(id, NetworkMode::None)).await.unwrap();
    world.start(id, &format!("exec </dev/null >/dev/null 2>&1; {}", ticks_to("/tmp/ticks"))).await;
    world.until_longer(id, "/tmp/ticks", 4).await;
    if way == FROZEN {
        world.host.freeze(id).await.unwrap();
    }
    println!("made");
    std::future::pending().await
}

const RUNNING: &str = "running";
const FROZEN: &str = "frozen";

/// Starts one, and returns when it has said `until`.
async fn start_gateway(world: &World, way: &str, id: SandboxId, until: &str) -> Child {
    fs::create_dir(world.directory(id)).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--gateway", way, &id.to_string()])
        .args([&world.settings.data_dir, world.root()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = tokio::time::timeout(crate::suite::world::PATIENCE, async {
        while lines.next_line().await.unwrap().expect("it goes on") != until {}
    });
    said.await.expect("a gateway in time");
    child
}

async fn the_next_gateway_adopts_what_lives(world: &World) {
    let id = SandboxId::random();
    let mut gone = start_gateway(world, RUNNING, id, "made").await;
    gone.kill().await.unwrap();
    world.until_longer(id, "/tmp/ticks", 10).await;
    let later = world.later().await;
    assert_eq!(later.list().await.unwrap(), [id]);
    let cell = later.adopt(id).await.unwrap().expect("it lives");
    assert!(!later.frozen(id).await.unwrap());
    assert!(later.usage().await.unwrap()[&id].processes >= 2);
    assert_eq!(world.inside(id, "echo here").await, "here\n");
    world.until_longer(id, "/tmp/ticks", 10).await;
    later.destroy(id).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), cell.ended.cancelled()).await.unwrap();
    world.destroy(id).await;
}

async fn the_next_gateway_adopts_what_is_frozen(world: &World) {
    let id = SandboxId::random();
    let mut gone = start_gateway(world, FROZEN, id, "made").await;
    gone.kill().await.unwrap();
    let later = world.later().await;
    let before = world.length(id, "/tmp/ticks");
    let cell = later.adopt(id).await.unwrap().expect("it lives");
    assert!(later.frozen(id).await.unwrap());
    assert_eq!(later.usage().await.unwrap().into_keys().collect::<Vec<_>>(), [id]);
    assert_eq!(world.length(id, "/tmp/ticks"), before);
    assert!(!cell.ended.is_cancelled());
    later.thaw(id).await.unwrap();
    assert!(!later.frozen(id).await.unwrap());
    world.until_longer(id, "/tmp/ticks", 10).await;
    later.freeze(id).await.unwrap();
    later.destroy(id).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), cell.ended.cancelled()).await.unwrap();
    world.destroy(id).await;
}

async fn the_next_gateway_finds_what_was_made_by_half(world: &World) {
    let took = {
        let began = Instant::now();
        let (id, _cell) = world.create().await;
        let took = began.elapsed();
        world.destroy(id).await;
        took
    };
    // From before the first step to about when the last is done.
    for part in 0..6 {
        let id = SandboxId::random();
        let mut gone = start_gateway(world, RUNNING, id, "ready").await;
        tokio::time::sleep(took.mul_f64(f64::from(part) / 5.0)).await;
        gone.kill().await.unwrap();
        let later = world.later().await;
        for found in later.list().await.unwrap() {
            assert_eq!(found, id);
        }
        // One that cannot be seen has nothing to be destroyed, but its directory.
        later.destroy(id).await.unwrap();
        drop(later);
        world.destroy(id).await;
        world.assert_nothing_is_held(id).await;
    }
}

async fn one_gateway_does_not_see_what_is_anothers(world: &World) {
    let (id, _cell) = world.create().await;
    let other = world.another("other", world.settings.jail).await;
    assert_eq!(other.host.list().await.unwrap(), []);
    assert_eq!(other.host.usage().await.unwrap(), [].into());
    let (theirs, _cell) = other.create().await;
    assert_eq!(world.host.list().await.unwrap(), [id]);
    assert_eq!(other.host.list().await.unwrap(), [theirs]);
    other.destroy(theirs).await;
    assert_eq!(world.inside(id, "echo here").await, "here\n");
    world.destroy(id).await;
    other.host.retire().await.unwrap();
}
