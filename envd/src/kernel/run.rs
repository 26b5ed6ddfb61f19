//! One turn of a context: code goes to the kernel, lines go to the client.
//!
//! The client decides how fast: while it takes nothing, little is held here and the kernel is
//! stopped, so that nothing is lost and nothing grows. When it goes, the kernel is interrupted, and
//! ended when it does not mind that.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    context::{Broken, Chunk, Keeper, Orders, Run},
    execute::Execution,
    process::Kernel,
    request::{Execute, LOUD, RequestId, SILENT},
    seldom::LOG,
};
use crate::{awake, os::Exit};

/// Of silence, until a client is told that its code still runs.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Lines that wait for the client (bytes), before the kernel is stopped.
const MAX_WAITING: usize = 256 << 10;

/// A client that takes nothing for that long has gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// A kernel that is interrupted for nobody: again after the first two, and ended after the last.
const AGAIN: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(6)];
const AT_LAST: Duration = Duration::from_secs(10);

/// What a kernel has said by its end comes within this, also on a busy host. It is waited out only
/// where something else keeps the connection open.
const LEFT_BEHIND: Duration = Duration::from_secs(2);

/// By then little is left: what a connection holds, and what that takes as lines (bytes).
const MAX_LEFT_BEHIND: usize = 4 * MAX_WAITING;

/// For a client to take its last lines when others wait for that.
const FAREWELL: Duration = Duration::from_secs(1);

/// For the one of a kernel's two goodbyes after the other.
const GOODBYE: Duration = Duration::from_secs(5);

/// For a request to be taken, and for variables to be set.
const REQUEST: Duration = Duration::from_secs(20);

pub(super) enum Ended {
    /// The kernel is idle, or there is none.
    Whole,
    Ordered,
    Died(Option<Exit>),
}

/// Runs the code, and says whether it failed; `None` when its client had gone before it ran.
pub(super) async fn turn(run: Run, keeper: &mut Keeper) -> (Ended, Option<bool>) {
    let Run { code, env, lines: client, room, trace: _ } = run;
    let mut execution = Execution::default();
    if let Err(broken) = ready(keeper, &client, &mut execution).await {
        match broken {
            Broken::Failed(why) => execution.fail("KernelError", &why, ""),
            Broken::Ordered => break_off(&mut execution, &keeper.orders, None),
        }
        finish(execution, client, &mut keeper.orders).await;
        return (Ended::Whole, Some(true));
    }
    if client.is_closed() {
        return (Ended::Whole, None);
    }
    let sandbox = keeper.envd.settings().env.clone();
    let mut wanted = sandbox.clone();
    let restore = !env.is_empty();
    wanted.extend(env);
    let Keeper { kernel: Some(kernel), orders, .. } = keeper else { return (Ended::Whole, None) };

    let sent = async {
        set_variables(kernel, wanted).await?;
        let request = RequestId::random()?;
        let content = Execute { code: &code, ..LOUD };
        kernel.shell.send(&request, "execute_request", &content).await?;
        std::io::Result::Ok(request)
    };
    let mut ended = match awake::timeout(REQUEST, sent).await {
        Ok(Ok(request)) => {
            drop((code, room));
            follow(&request, kernel, orders, &client, &mut execution).await
        }
        Ok(Err(error)) => Ended::Died(kernel.life.end_soon(&error).await),
        Err(_) => Ended::Died(None),
    };
    execution.conclude();
    match ended {
        Ended::Whole => {}
        Ended::Ordered => break_off(&mut execution, orders, None),
        Ended::Died(exit) => break_off(&mut execution, orders, Some(exit)),
    }
    kernel.life.go_on();
    let failed = execution.has_failed();
    finish(execution, client, orders).await;
    if restore && let Ended::Whole = ended {
        let restored = async {
            match set_variables(kernel, sandbox).await? {
                Some(request) => kernel.shell.next(&request).await.map(drop),
                None => Ok(()),
            }
        };
        ended = match awake::timeout(REQUEST, restored).await {
            Ok(Ok(())) => Ended::Whole,
            Ok(Err(error)) => Ended::Died(kernel.life.end_soon(&error).await),
            Err(_) => Ended::Died(None),
        };
    }
    (ended, Some(failed))
}

/// For code whose context has gone before its turn.
pub(super) fn refuse(run: Run) {
    let mut execution = Execution::default();
    execution.fail("UnexpectedEndOfExecution", UNEXPECTED, "");
    execution.lines.end_of_execution();
    // There is room, since nothing was sent before.
    let _ = run.lines.try_send(Chunk { lines: execution.take(), is_last: true });
}

const UNEXPECTED: &str = "Connection to the execution was closed before the execution was finished";

fn break_off(execution: &mut Execution, orders: &Orders, died: Option<Option<Exit>>) {
    if let Some(exit) = died {
        let how = exit.map(crate::process::exit_words).unwrap_or_default();
        execution.fail("ContextRestarting", "Context was restarted", &how);
    } else if orders.go_on() {
        execution.fail("ContextRestarting", "Context was restarted", "");
    } else {
        execution.fail("UnexpectedEndOfExecution", UNEXPECTED, "");
    }
}

/// Sees that there is a kernel, and that its client does not think otherwise.
async fn ready(
    keeper: &mut Keeper,
    client: &mpsc::Sender<Chunk>,
    execution: &mut Execution,
) -> Result<(), Broken> {
    let mut ready = std::pin::pin!(keeper.ready());
    loop {
        tokio::select! {
            biased;
            ready = &mut ready => return ready,
            () = sleep(KEEPALIVE) => {
                execution.lines.keepalive();
                // One that is not taken is not missed.
                let _ = client.try_send(Chunk { lines: execution.take(), is_last: false });
            }
        }
    }
}

/// The request that sets them, if they are not set so already.
async fn set_variables(
    kernel: &mut Kernel,
    wanted: BTreeMap<String, String>,
) -> std::io::Result<Option<RequestId>> {
    let Some(code) = kernel.variables.become_code(wanted) else { return Ok(None) };
    let request = RequestId::random()?;
    let content = Execute { code: &code, ..SILENT };
    kernel.shell.send(&request, "execute_request", &content).await?;
    Ok(Some(request))
}

/// From the request to the last that the kernel says of it.
async fn follow(
    request: &RequestId,
    kernel: &mut Kernel,
    orders: &mut Orders,
    client: &mpsc::Sender<Chunk>,
    execution: &mut Execution,
) -> Ended {
    let Kernel { shell, iopub, life, .. } = kernel;
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // When the client last took something, and when it went.
    let mut took = Instant::now();
    let mut left: Option<Instant> = None;
    let mut interrupts = 0;
    // Once the kernel or its first connection has ended, what it has published is read until then.
    let mut until: Option<Instant> = None;
    let (mut exit, mut broken) = (None, None);
    let mut goodbye: Option<Instant> = None;
    loop {
        if execution.is_idle() && execution.is_replied() {
            return Ended::Whole;
        }
        if left.is_some() {
            drop(execution.take());
        }
        let waiting = execution.lines.0.len();
        if waiting >= MAX_WAITING {
            life.hold();
        } else if waiting == 0 {
            life.go_on();
        }
        let most = if until.is_some() { MAX_LEFT_BEHIND } else { MAX_WAITING };
        if waiting >= most {
            // The other is not read before the client has taken what waits for it.
            goodbye = None;
        } else if goodbye.is_none() && (execution.is_idle() || execution.is_replied()) {
            goodbye = Some(Instant::now());
        }
        let mut gone = false;
        tokio::select! {
            biased;
            () = orders.come() => return Ended::Ordered,
            () = client.closed(), if left.is_none() => gone = true,
            // Before all that a kernel says without end.
            _ = tick.tick() => {
                let now = Instant::now();
                if goodbye.is_some_and(|at| now >= at + GOODBYE) {
                    execution.conclude();
                    if !execution.is_idle() {
                        // What it showed last was lost on the way.
                        execution.fail("UnexpectedEndOfExecution", UNEXPECTED, "");
                    }
                    return Ended::Whole;
                }
                gone = left.is_none() && waiting > 0 && now >= took + PATIENCE;
                if let Some(since) = left {
                    if interrupts < AGAIN.len() && now >= since + AGAIN[interrupts] {
                        interrupts += 1;
                        life.interrupt();
                    } else if now >= since + AT_LAST {
                        if LOG.has_turn(Instant::now().into()) {
                            tracing::warn!("a kernel does not mind that it is interrupted");
                        }
                        life.kill();
                    }
                }
            }
            place = client.reserve(), if waiting > 0 && left.is_none() => {
                if let Ok(place) = place {
                    place.send(Chunk { lines: execution.take(), is_last: false });
                    took = Instant::now();
                }
            }
            () = sleep_until(until.unwrap_or(took)), if until.is_some() => break,
            how = life.end(), if exit.is_none() => {
                exit = Some(how);
                until = until.or_else(|| Some(Instant::now() + LEFT_BEHIND));
            }
            said = shell.next(request), if until.is_none() && !execution.is_replied() => match said {
                Ok(said) => execution.answered(said),
                Err(error) => {
                    broken = Some(error);
                    until = Some(Instant::now() + LEFT_BEHIND);
                }
            },
            said = iopub.next(request), if waiting < most => match said {
                Ok(said) => {
                    execution.published(said);
                    goodbye = None;
                }
                Err(error) => {
                    broken.get_or_insert(error);
                    break;
                }
            },
            () = sleep_until(took + KEEPALIVE), if waiting == 0 && left.is_none() => {
                execution.lines.keepalive();
            }
        }
        if gone {
            left = Some(Instant::now());
            life.interrupt();
        }
    }
    match (exit, broken) {
        (None, Some(error)) => Ended::Died(life.end_soon(&error).await),
        (exit, _) => Ended::Died(exit),
    }
}

/// Sends the last lines, however slow the client is to take them, within limits. Where it does not
/// take them, that they are missing can be seen by how the answer ends.
async fn finish(mut execution: Execution, client: mpsc::Sender<Chunk>, orders: &mut Orders) {
    execution.lines.end_of_execution();
    let chunk = Chunk { lines: execution.take(), is_last: true };
    let mut sent = std::pin::pin!(client.send(chunk));
    tokio::select! {
        biased;
        // It goes or takes it; neither matters any more.
        _ = timeout(PATIENCE, &mut sent) => return,
        () = orders.come() => {}
    }
    let _ = timeout(FAREWELL, sent).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{UnixListener, UnixStream},
        sync::oneshot,
    };

    use super::*;
    use crate::kernel::{
        channel::Channel,
        context::Order,
        process::Life,
        request::{Key, Session},
        variables::Variables,
        zmtp::{Kind, tests::accept},
    };

    /// A kernel of which only the connections are there: its shell's end, its iopub's, and who says
    /// how it ended.
    async fn kernel() -> (Kernel, UnixStream, UnixStream, oneshot::Sender<Exit>) {
        let dir = tempfile::tempdir().unwrap();
        let session = Session { key: Key::random().unwrap(), id: "session".into() };
        let session = Arc::new(session);
        let connect = async |name: &str, kind| {
            let path = dir.path().join(name);
            let listener = UnixListener::bind(&path).unwrap();
            tokio::join!(Channel::connect(&path, kind, session.clone()), accept(&listener))
        };
        let (shell, shells) = connect("shell", Kind::Dealer).await;
        let (iopub, mut iopubs) = connect("iopub", Kind::Sub).await;
        iopubs.read_exact(&mut [0; 3]).await.unwrap();
        let (ends, exit) = oneshot::channel();
        let variables = Variables::inherited("python", BTreeMap::new(), BTreeMap::new());
        let life = Life::of_nothing(exit, session.clone());
        let (shell, iopub) = (shell.unwrap(), iopub.unwrap());
        (Kernel { shell, iopub, life, variables }, shells, iopubs, ends)
    }

    async fn say(to: &mut UnixStream, kind: &str, content: Value) {
        let header = json!({"msg_type": kind}).to_string();
        let content = content.to_string();
        let frames = ["<IDS|MSG>", "", &header, r#"{"msg_id":"ours"}"#, "{}", &content];
        for (n, frame) in frames.iter().enumerate() {
            let more = if n + 1 < frames.len() { 1 } else { 0 };
            let length = (frame.len() as u64).to_be_bytes();
            to.write_all(&[&[2 | more][..], &length, frame.as_bytes()].concat()).await.unwrap();
        }
    }

    fn types(lines: &[u8]) -> Vec<String> {
        let lines = std::str::from_utf8(lines).unwrap().lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["type"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn what_a_kernel_said_before_it_died_is_told() {
        let (mut kernel, shell, mut iopub, ends) = kernel().await;
        // More than waits for a client otherwise.
        let text = "x".repeat(60_000);
        let (count, client) = (6, mpsc::channel(1));
        let dying = async move {
            drop(shell);
            for _ in 0..count {
                say(&mut iopub, "stream", json!({"name": "stdout", "text": text})).await;
            }
            drop(iopub);
            ends.send(Exit::Code(3)).unwrap();
        };
        let (_given, mut orders) = Orders::to_be_given();
        let mut execution = Execution::default();
        let request = RequestId::named("ours");
        let (sender, _nobody_reads) = client;
        sender.try_send(Chunk { lines: "".into(), is_last: false }).ok().unwrap();
        let follow = follow(&request, &mut kernel, &mut orders, &sender, &mut execution);
        let (ended, ()) = tokio::join!(follow, dying);
        assert!(matches!(ended, Ended::Died(Some(Exit::Code(3)))));
        assert_eq!(types(&execution.take()), vec!["stdout"; count]);
    }

    #[tokio::test]
    async fn an_answer_that_comes_first_is_told_last() {
        let (mut kernel, mut shell, mut iopub, _ends) = kernel().await;
        let error = json!({"status": "error", "ename": "E", "evalue": "", "execution_count": 1});
        say(&mut shell, "execute_reply", error.clone()).await;
        say(&mut iopub, "stream", json!({"name": "stdout", "text": "a"})).await;
        say(&mut iopub, "error", error).await;
        say(&mut iopub, "status", json!({"execution_state": "idle"})).await;
        let (_given, mut orders) = Orders::to_be_given();
        let mut execution = Execution::default();
        let request = RequestId::named("ours");
        let (sender, mut chunks) = mpsc::channel(9);
        let ended = follow(&request, &mut kernel, &mut orders, &sender, &mut execution).await;
        assert!(matches!(ended, Ended::Whole));
        execution.conclude();
        finish(execution, sender, &mut orders).await;
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend_from_slice(&chunk.lines);
        }
        assert_eq!(types(&all), ["stdout", "error", "number_of_executions", "end_of_execution"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_its_time_loses_nothing_of_code_that_is_over() {
        let (mut kernel, mut shell, mut iopub, _ends) = kernel().await;
        say(&mut shell, "execute_reply", json!({"status": "ok", "execution_count": 1})).await;
        // More than is held for it.
        let text = "x".repeat(60_000);
        let count = 20;
        let saying = async {
            for _ in 0..count {
                say(&mut iopub, "stream", json!({"name": "stdout", "text": text})).await;
            }
            say(&mut iopub, "status", json!({"execution_state": "idle"})).await;
        };
        let (sender, mut chunks) = mpsc::channel(1);
        sender.try_send(Chunk { lines: "".into(), is_last: false }).ok().unwrap();
        let taking = async {
            sleep(GOODBYE * 3).await;
            let mut all = Vec::new();
            while let Some(chunk) = chunks.recv().await {
                all.extend_from_slice(&chunk.lines);
            }
            types(&all)
        };
        let (_given, mut orders) = Orders::to_be_given();
        let request = RequestId::named("ours");
        let following = async move {
            let mut execution = Execution::default();
            follow(&request, &mut kernel, &mut orders, &sender, &mut execution).await;
            finish(execution, sender, &mut orders).await;
        };
        let ((), (), said) = tokio::join!(following, saying, taking);
        assert!(!said.contains(&"error".to_owned()), "{said:?}");
        assert_eq!(said.iter().filter(|kind| *kind == "stdout").count(), count);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_lines_go_before_an_order_is_obeyed_to_whoever_takes_them_soon() {
        for (takes_after, gets) in [(FAREWELL / 2, true), (FAREWELL * 2, false)] {
            let (given, mut orders) = Orders::to_be_given();
            given.send(Order::Restart(oneshot::channel().0)).ok().unwrap();
            orders.come().await;
            let (sender, mut chunks) = mpsc::channel(1);
            sender.try_send(Chunk { lines: "before".into(), is_last: false }).ok().unwrap();
            let take = async {
                sleep(takes_after).await;
                let mut taken = Vec::new();
                while let Some(chunk) = chunks.recv().await {
                    taken.push(chunk.is_last);
                }
                taken
            };
            let (taken, ()) = tokio::join!(take, finish(Execution::default(), sender, &mut orders));
            assert_eq!(taken.last(), Some(&gets), "{taken:?}");
        }
    }
}
