//! Standing still, and going on as if nothing had been.

use std::time::Duration;

use coppice::{backend::Backend, sandbox::SandboxId};

use super::{Case, cases};
use crate::suite::{
    platform,
    world::{World, eventually},
};

pub(super) fn cases() -> Vec<Case> {
    cases![
        nothing_of_a_frozen_sandbox_runs,
        freezing_and_thawing_can_be_repeated,
        what_its_user_had_stopped_stays_stopped,
        a_shell_on_a_terminal_does_not_notice,
        a_command_goes_on_to_its_end,
        a_fork_storm_stands_still,
        a_frozen_sandbox_is_ended,
        a_frozen_sandbox_does_not_hold_up_another,
    ]
}

/// Makes a file longer by two bytes again and again.
pub(crate) fn ticks_to(file: &str) -> String {
    format!("while :; do echo x >> {file}; sleep 0.01; done")
}

/// For something that runs to be seen to.
const WATCHED: Duration = Duration::from_millis(400);

async fn assert_stands_still(world: &World, id: SandboxId, files: &[&str]) {
    let lengths = || files.iter().map(|file| world.length(id, file)).collect::<Vec<_>>();
    tokio::time::sleep(platform::ACCOUNTED_WITHIN).await;
    let (before, spent) = (lengths(), world.usage(id).await.cpu);
    tokio::time::sleep(WATCHED + platform::ACCOUNTED_WITHIN).await;
    assert_eq!(lengths(), before, "{files:?} grew");
    let more = world.usage(id).await.cpu - spent;
    assert!(more < WATCHED / 4, "{more:?} of CPU time");
}

async fn nothing_of_a_frozen_sandbox_runs(world: &World) {
    let (id, cell) = world.create().await;
    world.start(id, &ticks_to("/tmp/ticks")).await;
    world.start(id, "while :; do :; done").await;
    world.until_longer(id, "/tmp/ticks", 10).await;
    assert!(!world.host.frozen(id).await.unwrap());
    world.host.freeze(id).await.unwrap();
    assert!(world.host.frozen(id).await.unwrap());
    assert_stands_still(world, id, &["/tmp/ticks"]).await;
    assert!(!world.envd(id).answers(WATCHED).await, "envd stands still, too");
    assert!(!cell.ended.is_cancelled());
    assert_eq!(world.host.list().await.unwrap(), [id]);
    assert!(world.usage(id).await.memory_bytes > 0);
    world.host.thaw(id).await.unwrap();
    assert!(!world.host.frozen(id).await.unwrap());
    world.until_longer(id, "/tmp/ticks", 10).await;
    assert!(world.envd(id).answers(Duration::from_secs(10)).await);
    world.destroy(id).await;
}

async fn freezing_and_thawing_can_be_repeated(world: &World) {
    let (id, _cell) = world.create().await;
    world.start(id, &ticks_to("/tmp/ticks")).await;
    world.host.thaw(id).await.expect("thawing what was never frozen");
    for _ in 0..10 {
        world.until_longer(id, "/tmp/ticks", 4).await;
        world.host.freeze(id).await.unwrap();
        world.host.freeze(id).await.expect("freezing twice");
        assert!(world.host.frozen(id).await.unwrap());
        world.host.thaw(id).await.unwrap();
        world.host.thaw(id).await.expect("thawing twice");
        assert!(!world.host.frozen(id).await.unwrap());
    }
    world.until_longer(id, "/tmp/ticks", 4).await;
    world.destroy(id).await;
}

async fn what_its_user_had_stopped_stays_stopped(world: &World) {
    let (id, _cell) = world.create().await;
    let stopped = world.start(id, &ticks_to("/tmp/stopped")).await;
    world.start(id, &ticks_to("/tmp/running")).await;
    world.until_longer(id, "/tmp/stopped", 4).await;
    world.inside(id, &format!("kill -STOP {}", stopped.pid)).await;
    for round in 0..2 {
        world.host.freeze(id).await.unwrap();
        world.host.thaw(id).await.unwrap();
        let before = world.length(id, "/tmp/stopped");
        // By then it would have grown as well.
        world.until_longer(id, "/tmp/running", 40).await;
        assert_eq!(world.length(id, "/tmp/stopped"), before, "in round {round}");
    }
    world.inside(id, &format!("kill -CONT {}", stopped.pid)).await;
    world.until_longer(id, "/tmp/stopped", 4).await;
    world.destroy(id).await;
}

/// A shell with job control waits for its job to stop as well as to end.
async fn a_shell_on_a_terminal_does_not_notice(world: &World) {
    let (id, _cell) = world.create().await;
    let envd = world.envd(id);
    let mut shell = envd.terminal().await;
    // What is typed is echoed, and not to be taken for what is said.
    envd.type_in(&shell, "echo i'm'-here\n").await;
    shell.until("im-here").await;
    let job = "while [ ! -e /tmp/enough ]; do echo x >> /tmp/ticks; sleep 0.01; done";
    envd.type_in(&shell, &format!("sh -c '{job}; echo job-\"is\"-over'\n")).await;
    world.until_longer(id, "/tmp/ticks", 4).await;
    for _ in 0..3 {
        world.host.freeze(id).await.unwrap();
        assert_stands_still(world, id, &["/tmp/ticks"]).await;
        world.host.thaw(id).await.unwrap();
        world.until_longer(id, "/tmp/ticks", 4).await;
    }
    // Had the shell taken its job for stopped, it would read this now.
    envd.type_in(&shell, "echo after-'the'-job\n").await;
    world.until_longer(id, "/tmp/ticks", 40).await;
    envd.run("echo > /tmp/enough").await;
    let said = shell.until("after-the-job").await;
    let over = said.find("job-is-over").unwrap_or_else(|| panic!("the job has not ended: {said}"));
    assert!(over < said.find("after-the-job").unwrap(), "{said}");
    for word in ["Stopped", "Suspended", "[1]"] {
        assert!(!said.contains(word), "{said}");
    }
    world.destroy(id).await;
}

async fn a_command_goes_on_to_its_end(world: &World) {
    let (id, _cell) = world.create().await;
    let script = "echo began; sleep 0.3; echo slept; exit 7";
    let mut command = world.start(id, script).await;
    let began = command.until("began").await;
    world.host.freeze(id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    world.host.thaw(id).await.unwrap();
    // On the connection that was open all the time.
    let said = command.finish().await.unwrap();
    assert_eq!((began + &said.text, said.exit_code), ("began\nslept\n".into(), 7));
    world.destroy(id).await;
}

/// Never at rest.
const STORM: &str = "trap '' TERM HUP INT; exec </dev/null >/dev/null 2>&1
    while :; do echo x >> /tmp/storm; sleep 0 & sleep 0 & wait; done";

/// As many as there may be; a shell that cannot fork ends, and makes room.
const BOMB: &str = "trap '' TERM HUP INT; exec </dev/null >/dev/null 2>&1
    bomb() { bomb | bomb & }; bomb";

/// What is deaf to all that can be ignored forks as fast as it can.
pub(crate) async fn start_fork_storm(world: &World, id: SandboxId) {
    for _ in 0..4 {
        world.start(id, STORM).await;
    }
    world.until_longer(id, "/tmp/storm", 40).await;
    world.start(id, BOMB).await;
}

async fn a_fork_storm_stands_still(world: &World) {
    let (id, _cell) = world.create().await;
    start_fork_storm(world, id).await;
    world.host.freeze(id).await.unwrap();
    assert_stands_still(world, id, &["/tmp/storm"]).await;
    world.host.thaw(id).await.unwrap();
    world.destroy(id).await;
}

async fn a_frozen_sandbox_is_ended(world: &World) {
    let (stopped, cell) = world.create().await;
    world.start(stopped, &ticks_to("/tmp/ticks")).await;
    world.until_longer(stopped, "/tmp/ticks", 4).await;
    world.host.freeze(stopped).await.unwrap();
    world.host.stop(stopped).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), cell.ended.cancelled()).await.unwrap();
    let (destroyed, cell) = world.create().await;
    start_fork_storm(world, destroyed).await;
    world.host.freeze(destroyed).await.unwrap();
    for id in [stopped, destroyed] {
        world.destroy(id).await;
    }
    tokio::time::timeout(Duration::from_secs(10), cell.ended.cancelled()).await.unwrap();
}

async fn a_frozen_sandbox_does_not_hold_up_another(world: &World) {
    let (frozen, _) = world.create().await;
    world.host.freeze(frozen).await.unwrap();
    let (other, _) = world.create().await;
    assert_eq!(world.inside(other, "echo here").await, "here\n");
    eventually("both are swept", async || world.host.usage().await.unwrap().len() == 2).await;
    world.destroy(other).await;
    assert!(world.host.frozen(frozen).await.unwrap());
    world.destroy(frozen).await;
}
