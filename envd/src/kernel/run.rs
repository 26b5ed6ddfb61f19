//! One turn of a context: code goes to the kernel, lines go to the client.
//!
//! The client decides how fast: while it takes nothing, little is held here and the kernel is
//! stopped, so that nothing is lost and nothing grows. When it goes, the kernel is interrupted, and
//! ended when it does not mind that.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    context::{Broken, Keeper, Orders, Run},
    execute::Execution,
    process::Kernel,
    request::{Execute, LOUD, RequestId, SILENT},
};
use crate::os::Exit;

/// Of silence, until a client is told that its code still runs.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Lines that wait for the client (bytes), before the kernel is stopped.
const MAX_WAITING: usize = 256 << 10;

/// A client that takes nothing for that long has gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// A kernel that is interrupted for nobody: again after the first two, and ended after the last.
const AGAIN: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(6)];
const AT_LAST: Duration = Duration::from_secs(10);

/// What a kernel has said by its end comes within this.
const LEFT_BEHIND: Duration = Duration::from_millis(500);

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

/// Runs the code, and says whether it failed.
pub(super) async fn turn(run: Run, keeper: &mut Keeper) -> (Ended, bool) {
    let Run { code, env, lines: client, room } = run;
    let mut execution = Execution::default();
    if let Err(broken) = ready(keeper, &client, &mut execution).await {
        match broken {
            Broken::Failed(why) => execution.fail("KernelError", &why, ""),
            Broken::Ordered => break_off(&mut execution, &keeper.orders, None),
        }
        finish(execution, client, &mut keeper.orders).await;
        return (Ended::Whole, true);
    }
    if client.is_closed() {
        return (Ended::Whole, true);
    }
    let sandbox = keeper.envd.settings().env.clone();
    let mut wanted = sandbox.clone();
    let restore = !env.is_empty();
    wanted.extend(env);
    let Keeper { kernel: Some(kernel), orders, .. } = keeper else { return (Ended::Whole, true) };

    let sent = async {
        set_variables(kernel, wanted).await?;
        let request = RequestId::random()?;
        let content = Execute { code: &code, ..LOUD };
        kernel.shell.send(&request, "execute_request", &content).await?;
        std::io::Result::Ok(request)
    };
    let mut ended = match timeout(REQUEST, sent).await {
        Ok(Ok(request)) => {
            drop((code, room));
            follow(&request, kernel, orders, &client, &mut execution).await
        }
        Ok(Err(error)) => Ended::Died(kernel.life.end_soon(&error).await),
        Err(_) => Ended::Died(None),
    };
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
        ended = match timeout(REQUEST, restored).await {
            Ok(Ok(())) => Ended::Whole,
            Ok(Err(error)) => Ended::Died(kernel.life.end_soon(&error).await),
            Err(_) => Ended::Died(None),
        };
    }
    (ended, failed)
}

/// For code whose context has gone before its turn.
pub(super) fn refuse(run: Run) {
    let mut execution = Execution::default();
    execution.fail("UnexpectedEndOfExecution", UNEXPECTED, "");
    execution.lines.end_of_execution();
    // There is room, since nothing was sent before.
    let _ = run.lines.try_send(execution.take());
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
    client: &mpsc::Sender<Bytes>,
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
                let _ = client.try_send(execution.take());
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
    client: &mpsc::Sender<Bytes>,
    execution: &mut Execution,
) -> Ended {
    let Kernel { shell, iopub, life, .. } = kernel;
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // When the client last took something, and when it went.
    let mut took = Instant::now();
    let mut left: Option<Instant> = None;
    let mut interrupts = 0;
    let mut died: Option<(Instant, Exit)> = None;
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
        if goodbye.is_none() && (execution.is_idle() || execution.is_replied()) {
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
                if let Some((until, exit)) = died && now >= until {
                    return Ended::Died(Some(exit));
                }
                if goodbye.is_some_and(|at| now >= at + GOODBYE) {
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
                        tracing::warn!("a kernel does not mind that it is interrupted");
                        life.kill();
                    }
                }
            }
            place = client.reserve(), if waiting > 0 && left.is_none() => {
                if let Ok(place) = place {
                    place.send(execution.take());
                    took = Instant::now();
                }
            }
            exit = life.end(), if died.is_none() => {
                died = Some((Instant::now() + LEFT_BEHIND, exit));
            }
            said = shell.next(request), if died.is_none() && !execution.is_replied() => match said {
                Ok(said) => execution.answered(said),
                Err(error) => return Ended::Died(life.end_soon(&error).await),
            },
            said = iopub.next(request), if waiting < MAX_WAITING => match said {
                Ok(said) => {
                    execution.published(said);
                    goodbye = None;
                }
                Err(_) if died.is_some() => return Ended::Died(died.map(|(_, exit)| exit)),
                Err(error) => return Ended::Died(life.end_soon(&error).await),
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
}

/// Sends the last lines, however slow the client is to take them, within limits.
async fn finish(mut execution: Execution, client: mpsc::Sender<Bytes>, orders: &mut Orders) {
    execution.lines.end_of_execution();
    tokio::select! {
        biased;
        // It goes or takes it; neither matters any more.
        _ = timeout(PATIENCE, client.send(execution.take())) => {}
        () = orders.come() => {}
    }
}
