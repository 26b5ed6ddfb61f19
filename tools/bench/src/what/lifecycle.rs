//! A pause and a resume, beside a bare cgroup's freezer and `runc pause`; and a gateway that is
//! killed and started again with many sandboxes alive.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::future::BoxFuture;

use super::{Stage, burst::kill_all};
use crate::{
    api::Sandbox,
    client::Client,
    load::{Lane, Rounds, Turn, interleave},
    peers::{
        self,
        standing::{Bare, Container, Standing},
    },
    proc,
    report::{At, Of, Report},
    tally::Tally,
};

/// Asleep in the sandbox that is paused, beside envd.
const PROCESSES: usize = 10;
const SANDBOXES: usize = 500;
/// Of so many one is paused.
const PAUSED: usize = 10;
const CLIENTS: usize = 8;
const ALONE: &str = "one at a time";

pub(super) async fn measure(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    pause_and_resume(stage, report).await?;
    restart(stage, report).await
}

async fn pause_and_resume(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let mut client = stage.gateway.api.client();
    let sandbox = stage.gateway.api.create(&mut client).await?;
    // One shell, which becomes the last of them.
    let others = "sleep infinity & ".repeat(PROCESSES - 1);
    let script = format!("{{ {others}exec sleep infinity; }} >/dev/null 2>&1 &");
    sandbox.run(&mut client, "/bin/sh", &["-c", &script]).await?;
    let processes = proc::all_of(&sandbox.id)?;
    let peers: Option<(Arc<Bare>, Arc<Container>)> = match stage.template()? {
        None => None,
        Some(template) => Some((
            Arc::new(Bare::start(processes)?),
            Arc::new(Container::start(&template, processes)?),
        )),
    };
    report.note(format!(
        "paused and resumed are {processes} processes that sleep, envd of the sandbox among them"
    ));
    if peers.is_some() {
        report.note(format!(
            "peers: the kernel's cgroup.freeze, written and seen to have worked by the benchmark \
             itself; {}",
            peers::version("runc", "--version")
        ));
    }
    for half in [Half::Pause, Half::Resume] {
        let (what, aim) = match half {
            Half::Pause => ("pause", "pause"),
            Half::Resume => ("resume", "resume (connect)"),
        };
        let ours = Ours::of(&sandbox, half, false);
        let mut lanes = vec![Lane::new(what, "coppice", ALONE, ours)];
        if let Some((bare, container)) = &peers {
            let (bare, container) = (Arc::clone(bare), Arc::clone(container));
            lanes.push(Lane::new(what, "cgroup.freeze", ALONE, Theirs { peer: bare, half }));
            lanes.push(Lane::new(what, "runc", ALONE, Theirs { peer: container, half }));
        }
        interleave(&mut lanes, stage.rounds(10, 50)).await?;
        report.lanes(&lanes, Of::P50);
        let total = &lanes[0].total;
        report.aim(&format!("{aim}, p50"), At::Most, 5.0, "ms", total.quantile(0.5));
        report.aim(&format!("{aim}, p95"), At::Most, 5.0, "ms", total.quantile(0.95));
    }
    let ours = Ours::of(&sandbox, Half::Resume, true);
    let mut lanes = vec![Lane::new("resume", "coppice", "once it is on the disk", ours)];
    interleave(&mut lanes, stage.rounds(5, 20)).await?;
    report.lanes(&lanes, Of::P50);
    let p95 = lanes[0].total.quantile(0.95);
    report.aim("resume (connect) once it is on the disk, p95", At::Most, 5.0, "ms", p95);
    sandbox.kill(&mut client).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Pause,
    Resume,
}

impl Half {
    /// Counts the half that is meant, and any error.
    fn count(self, this: Self, tally: &mut Tally, start: Instant, outcome: anyhow::Result<()>) {
        if self == this || outcome.is_err() {
            tally.count(start, outcome.map(|()| 0));
        }
    }
}

struct Ours {
    sandbox: Sandbox,
    client: Client,
    half: Half,
    /// It is resumed once it is told that it is on the disk.
    durable: bool,
}

impl Ours {
    fn of(sandbox: &Sandbox, half: Half, durable: bool) -> Self {
        Self { sandbox: sandbox.clone(), client: sandbox.client(), half, durable }
    }
}

impl Turn for Ours {
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>> {
        Box::pin(async move {
            let (mut tally, began) = (Tally::default(), Instant::now());
            for _ in 0..count {
                let start = Instant::now();
                let paused = self.sandbox.pause(&mut self.client).await;
                self.half.count(Half::Pause, &mut tally, start, paused);
                if self.durable {
                    self.sandbox.until_durable(&mut self.client).await?;
                }
                let start = Instant::now();
                let resumed = self.sandbox.resume(&mut self.client).await;
                self.half.count(Half::Resume, &mut tally, start, resumed);
            }
            tally.lasted = began.elapsed();
            Ok(tally)
        })
    }
}

struct Theirs<S> {
    peer: Arc<S>,
    half: Half,
}

impl<S: Standing> Turn for Theirs<S> {
    fn turn(&mut self, count: usize) -> BoxFuture<'_, anyhow::Result<Tally>> {
        let (peer, half) = (Arc::clone(&self.peer), self.half);
        // Not so when the run was broken off, and this future with it.
        let wanted = Arc::new(());
        let still = Arc::downgrade(&wanted);
        Box::pin(async move {
            let all = tokio::task::spawn_blocking(move || {
                let (mut tally, began) = (Tally::default(), Instant::now());
                for _ in 0..count {
                    if still.strong_count() == 0 {
                        break;
                    }
                    let start = Instant::now();
                    half.count(Half::Pause, &mut tally, start, peer.pause());
                    let start = Instant::now();
                    half.count(Half::Resume, &mut tally, start, peer.resume());
                }
                tally.lasted = began.elapsed();
                tally
            });
            let tally = all.await?;
            drop(wanted);
            Ok(tally)
        })
    }
}

async fn restart(stage: &mut Stage, report: &mut Report) -> anyhow::Result<()> {
    let count = if stage.amount.quick { 5 } else { SANDBOXES };
    stage.gateway.pid().context("lifecycle restarts a gateway it has started: no --url")?;
    eprintln!("    {count} sandboxes are made");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| stage.gateway.api.client()).collect();
    let sandboxes = make(stage, &mut clients, count).await?;
    report.note(format!(
        "restart: kill -9 of the gateway with {count} sandboxes alive, one in {PAUSED} of them \
         paused; timed from the start of the new process to its line that says it is ready, and \
         to the end of a command in a sandbox that was there before"
    ));
    let Rounds { rounds, .. } = stage.rounds(10, 1);
    let (mut ready, mut command) = (Tally::default(), Tally::default());
    for round in 0..rounds {
        eprintln!("    restart {} of {rounds}", round + 1);
        let start = stage.gateway.restart().await?;
        ready.count(start, Ok(0));
        let mut client = stage.gateway.api.client();
        // Not the first, which is paused.
        let ran = sandboxes[1].run(&mut client, "/bin/true", &[]).await;
        command.count(start, ran.map(|()| 0));
        ready.lasted += start.elapsed();
        command.lasted += start.elapsed();
        let mut running = 0;
        for sandbox in &sandboxes {
            running += usize::from(sandbox.is_running(&mut client).await?);
        }
        let expected = count - count.div_ceil(PAUSED);
        ensure!(running == expected, "{running} sandboxes run after a restart, not {expected}");
    }
    let how = format!("{count} sandboxes");
    report.series("restart, to ready", "coppice", &how, &ready);
    report.series("restart, to the end of a command", "coppice", &how, &command);
    let aim = format!("restart with {count} sandboxes, to ready, the slowest");
    report.aim(&aim, At::Most, 1000.0, "ms", ready.max());
    kill_all(&sandboxes, &mut clients).await
}

/// So many sandboxes, one in [`PAUSED`] of them paused.
pub(super) async fn make(
    stage: &Stage,
    clients: &mut [Client],
    count: usize,
) -> anyhow::Result<Vec<Sandbox>> {
    let share = count.div_ceil(clients.len());
    let api = &stage.gateway.api;
    let made = clients.iter_mut().map(|client| async move {
        let mut made = Vec::new();
        for _ in 0..share {
            made.push(api.create(client).await?);
        }
        anyhow::Ok(made)
    });
    let made = futures_util::future::try_join_all(made).await?;
    let mut made: Vec<Sandbox> = made.into_iter().flatten().collect();
    for extra in made.split_off(count) {
        extra.kill(&mut clients[0]).await?;
    }
    for sandbox in made.iter().step_by(PAUSED) {
        sandbox.pause(&mut clients[0]).await?;
    }
    // What is written when one is made has been, and a resting machine is measured.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(made)
}
