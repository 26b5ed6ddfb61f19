//! The jail backend beside its promises: of what roots are, and what has to be asked for.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use coppice::{
    backend::{Backend, CellSpec, JailOptions, Layer, NetworkMode},
    limits::Limit,
};

use crate::suite::{
    self, Case,
    cases::cases,
    platform::{is_clone, say},
    world::World,
};

pub(crate) fn cases() -> Vec<Case> {
    let own = cases![
        a_root_is_of_the_kind_that_is_tried,
        what_a_sandbox_may_write_is_bounded_and_known,
        files_in_memory_are_bounded_and_end_with_their_sandbox,
        what_is_asked_for_is_there,
        cpu_time_is_finer_than_seconds,
        an_end_does_not_wait_for_a_freeze,
        one_goes_on_while_what_it_was_is_still_dying,
    ];
    [suite::cases(), own].into_iter().flatten().collect()
}

/// The types of what is mounted below a sandbox's directory.
fn mounted(world: &World, id: coppice::sandbox::SandboxId) -> Vec<String> {
    let directory = world.directory(id).display().to_string();
    let mounts = say("/sbin/mount", &["-p"]);
    let words = mounts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let below = words.filter(|words| words.get(1).is_some_and(|at| at.starts_with(&directory)));
    let mut types: Vec<String> = below.map(|words| words[2].to_owned()).collect();
    types.sort();
    types.dedup();
    types
}

async fn a_root_is_of_the_kind_that_is_tried(world: &World) {
    let (id, _cell) = world.create().await;
    let expected: &[&str] = match is_clone(&world.settings.data_dir) {
        true => &["devfs", "fdescfs", "zfs"],
        false => &["devfs", "fdescfs", "nullfs"],
    };
    assert_eq!(mounted(world, id), expected);
    // Of a clone all can be written, of a thin root not what came with the template.
    let written = world.envd(id).run("echo x > /bin/mine && echo x > /etc/mine").await;
    assert_eq!(written.exit_code == 0, is_clone(&world.settings.data_dir), "{written:?}");
    world.destroy(id).await;
}

const DISK: u64 = 32 << 20;

/// Writes twice what there may be, of what no file system compresses; what dd(1) says.
const FILL: &str =
    "dd if=/dev/random of=/tmp/fill bs=1m count=64 2>&1; echo ended $?; rm /tmp/fill";

fn spec(world: &World) -> CellSpec {
    let mut spec = world.spec(NetworkMode::None);
    spec.limits.disk_bytes = Some(DISK);
    spec
}

async fn what_a_sandbox_may_write_is_bounded_and_known(world: &World) {
    assert_eq!(world.host.enforces(Limit::Disk), is_clone(&world.settings.data_dir));
    if !world.host.enforces(Limit::Disk) {
        return;
    }
    let spec = spec(world);
    let id = spec.id;
    world.host.create(spec).await.unwrap();
    let before = world.usage(id).await.disk_bytes.expect("a clone's is known");
    assert!(before < DISK / 4, "{before}");
    let said = world.inside(id, FILL).await;
    assert!(said.contains("ended 1") && !said.contains("64+0 records out"), "{said}");
    world.inside(id, "dd if=/dev/random of=/tmp/some bs=1m count=8").await;
    suite::world::eventually("8 MiB are counted", async || {
        world.usage(id).await.disk_bytes >= Some(before + (7 << 20))
    })
    .await;
    world.destroy(id).await;
}

async fn files_in_memory_are_bounded_and_end_with_their_sandbox(world: &World) {
    if is_clone(&world.settings.data_dir) {
        return;
    }
    let options = JailOptions { tmpfs: true, ..JailOptions::default() };
    let other = world.another("memory", options).await;
    assert!(other.host.enforces(Limit::Disk));
    let spec = spec(&other);
    let id = spec.id;
    other.host.create(spec).await.unwrap();
    assert!(mounted(&other, id).contains(&"tmpfs".to_owned()));
    let said = other.inside(id, FILL).await;
    assert!(said.contains("ended 1") && !said.contains("64+0 records out"), "{said}");
    assert!(other.usage(id).await.disk_bytes.is_some_and(|bytes| bytes < DISK));
    // It is refused before anything is done.
    assert!(other.host.shut_down(id).await.unwrap_err().to_string().contains("in memory"));
    assert_eq!(other.inside(id, "echo here").await, "here\n");
    other.destroy(id).await;
    other.retire().await;
}

async fn what_is_asked_for_is_there(world: &World) {
    let options = JailOptions {
        procfs: true,
        vmemory_bytes: Some(1 << 30),
        read_bps: Some(50 << 20),
        write_bps: Some(50 << 20),
        ..JailOptions::default()
    };
    let other = world.another("asked", options).await;
    let (id, _cell) = other.create().await;
    assert!(mounted(&other, id).contains(&"procfs".to_owned()));
    let said = other.inside(id, "ls /proc").await;
    // Its own processes, and none of the host's.
    assert!(said.contains("curproc") && !said.lines().any(|pid| pid == "1"), "{said}");
    let rules = say("/usr/bin/rctl", &[&format!("jail:{}:", id.cell_name())]);
    for rule in ["vmemoryuse:deny=1207959552", "readbps:throttle=52428800", "writebps:throttle"] {
        assert!(rules.contains(rule), "{rule} in {rules}");
    }
    // Slower than without, but to its end.
    let said = other.inside(id, "dd if=/dev/zero of=/tmp/some bs=1m count=4; echo ended $?").await;
    assert!(said.contains("ended 0"), "{said}");
    other.host.shut_down(id).await.unwrap();
    let spec = CellSpec { layer: Layer::Kept, ..other.spec_of(id, NetworkMode::None) };
    other.host.create(spec).await.expect("with all of it again");
    assert!(mounted(&other, id).contains(&"procfs".to_owned()));
    other.destroy(id).await;
    other.retire().await;
}

async fn cpu_time_is_finer_than_seconds(world: &World) {
    let (id, _cell) = world.create().await;
    let before = world.usage(id).await.cpu;
    world.start(id, "exec </dev/null >/dev/null 2>&1; while :; do :; done").await;
    let mut seen = vec![before];
    let deadline = Instant::now() + Duration::from_secs(60);
    while *seen.last().unwrap() < before + Duration::from_secs(1) {
        assert!(Instant::now() < deadline, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        seen.push(world.usage(id).await.cpu);
    }
    assert!(seen.is_sorted(), "{seen:?}");
    seen.dedup();
    assert!(seen.len() > 3, "more than whole seconds: {seen:?}");
    world.destroy(id).await;
}

async fn an_end_does_not_wait_for_a_freeze(world: &World) {
    for _ in 0..5 {
        let (id, _cell) = world.create().await;
        world.start(id, "exec </dev/null >/dev/null 2>&1; while :; do sleep 0 & done").await;
        let host = Arc::new(world.host.clone());
        let freezing = tokio::spawn({
            let host = Arc::clone(&host);
            async move { host.freeze(id).await }
        });
        tokio::task::yield_now().await;
        world.host.stop(id).await.unwrap();
        // Either it was done before, or it has made way.
        if let Err(error) = freezing.await.unwrap() {
            println!("{error}");
        }
        world.destroy(id).await;
    }
}

/// Whoever closes a connection first has it for another minute: its jail is dying for as long.
const CLOSE_FIRST: &str = "nc -l 127.0.0.1 4444 </dev/null >/dev/null 2>&1 & \
     i=0; until nc -z 127.0.0.1 4444; do [ $i -lt 100 ] || exit 1; sleep 0.1; i=$((i+1)); done";

async fn one_goes_on_while_what_it_was_is_still_dying(world: &World) {
    let (id, _cell) = world.create().await;
    world.inside(id, "echo one > /tmp/kept").await;
    for round in 1..=2 {
        world.inside(id, CLOSE_FIRST).await;
        world.host.shut_down(id).await.unwrap();
        let dying = say("/usr/sbin/jls", &["-d", "name", "dying"]);
        println!("in round {round}: {dying}");
        let spec = CellSpec { layer: Layer::Kept, ..world.spec_of(id, NetworkMode::None) };
        world.host.create(spec).await.expect("a sandbox again");
        assert_eq!(world.inside(id, "cat /tmp/kept").await, "one\n", "in round {round}");
        assert_eq!(world.host.list().await.unwrap(), [id], "in round {round}");
    }
    world.destroy(id).await;
    assert_eq!(world.host.list().await.unwrap(), []);
}
