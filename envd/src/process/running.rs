//! One process from its start to its end.
//!
//! ```text
//! running --exit--> exited --end of its pipes, or signalled--> ended
//! ```
//! The pipes are drained all along, whoever listens. Between exit and end, background children
//! may still write; a process that a client signalled (or that ran out of time) does not wait for
//! those.

use std::{
    mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nix::{errno::Errno, sys::signal::Signal};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    children::CHILDREN,
    exit,
    fanout::{Fanout, Output},
    heard::Heard,
    input::Input,
    stream::{PIPE_CHUNK, Stream, TERMINAL_CHUNK},
};
use crate::{
    awake,
    connect::proto::process::process_event::EndEvent,
    os::Exit,
    state::Envd,
    trace::TraceId,
    wire::{Detail, Of, What},
};

/// What a signalled process left in its pipes is read up to here (bytes): background children may
/// go on filling them. A listener that is behind has this waiting for it as well.
const LEFT_BEHIND: usize = 1 << 20;

/// A chunk counts for at least this much of it, however small it is.
const LEAST_LEFT: usize = 1 << 10;

pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) tag: Option<String>,
    pub(super) input: Input,
    pub(super) fanout: Fanout,
    heard: Mutex<Heard>,
    signalled: CancellationToken,
    timed_out: AtomicBool,
    end: OnceLock<EndEvent>,
}

/// Where a process's output comes from.
pub(super) enum Sources {
    Streams { stdout: Stream, stderr: Stream },
    Terminal(Arc<Stream>),
}

/// A process that has just started, and what its [`watch`] needs.
pub(super) struct Started {
    pub(super) process: Arc<Process>,
    pub(super) sources: Sources,
    pub(super) exit: oneshot::Receiver<Exit>,
    pub(super) at: Instant,
    /// How many were killed for want of memory before it.
    pub(super) killed_before: u64,
}

impl Process {
    pub(super) fn new(pid: u32, tag: Option<String>, input: Input) -> Arc<Self> {
        Arc::new(Self {
            pid,
            tag,
            input,
            fanout: Fanout::new(),
            heard: Mutex::default(),
            signalled: CancellationToken::new(),
            timed_out: AtomicBool::new(false),
            end: OnceLock::new(),
        })
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        CHILDREN.signal(self.pid as libc::pid_t, signal)?;
        self.signalled.cancel();
        Ok(())
    }

    /// `None` while it has not ended.
    pub(super) fn end(&self) -> Option<&EndEvent> {
        self.end.get()
    }

    /// Whether it ended because its time was up.
    pub(super) fn timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Acquire)
    }

    fn time_is_up(&self) {
        self.timed_out.store(true, Ordering::Release);
        if let Err(errno) = self.signal(Signal::SIGKILL) {
            tracing::warn!(pid = self.pid, %errno, "cannot kill a process whose time is up");
        }
    }

    async fn pump(
        &self,
        stream: &Stream,
        limit: usize,
        kind: fn(Bytes) -> Output,
        release: &CancellationToken,
    ) {
        loop {
            let chunk = tokio::select! {
                biased;
                () = release.cancelled() => break,
                chunk = stream.read(limit) => chunk,
            };
            if chunk.is_empty() {
                return;
            }
            self.deliver(kind(chunk), release).await;
        }
        let mut left = LEFT_BEHIND;
        while let Some(chunk) = stream.read_now(limit.min(left)) {
            left = left.saturating_sub(chunk.len().max(LEAST_LEFT));
            self.deliver(kind(chunk), release).await;
            if left == 0 {
                return;
            }
        }
    }

    async fn deliver(&self, output: Output, release: &CancellationToken) {
        self.heard.lock().take(&output);
        self.fanout.deliver(output, release).await;
    }

    async fn pump_all(&self, sources: Sources, release: &CancellationToken) {
        match sources {
            Sources::Streams { stdout, stderr } => {
                // Each is closed as soon as it has ended.
                tokio::join!(
                    async move { self.pump(&stdout, PIPE_CHUNK, Output::Stdout, release).await },
                    async move { self.pump(&stderr, PIPE_CHUNK, Output::Stderr, release).await },
                );
            }
            Sources::Terminal(terminal) => {
                self.pump(&terminal, TERMINAL_CHUNK, Output::Pty, release).await;
            }
        }
    }
}

/// Sees a process through to its end. Its time stands still while the sandbox is paused.
pub(super) async fn watch(
    envd: Arc<Envd>,
    started: Started,
    deadline: Option<Instant>,
    trace: Option<TraceId>,
) {
    let Started { process, sources, exit, at, killed_before } = started;
    let release = CancellationToken::new();
    let pumps = process.pump_all(sources, &release);
    let expired = awake::sleep(deadline.unwrap_or(at).saturating_duration_since(at));
    tokio::pin!(pumps, exit, expired);
    let mut exited = None;
    let mut drained = false;
    let exit = loop {
        tokio::select! {
            () = &mut pumps, if !drained => drained = true,
            // The sender lives until the child has been collected.
            exit = &mut exit, if exited.is_none() => exited = Some(exit.unwrap_or(Exit::Code(-1))),
            () = process.signalled.cancelled(), if exited.is_some() && !release.is_cancelled() => {
                release.cancel();
            }
            () = &mut expired, if deadline.is_some() && !process.timed_out() => {
                process.time_is_up();
            }
        }
        if let (Some(exit), true) = (exited, drained) {
            break exit;
        }
    };
    process.input.end().await;
    let out_of_memory = exit::was_killed(exit) && envd.gauges.killed_for_memory() > killed_before;
    let heard = mem::take(&mut *process.heard.lock());
    let limit = deadline.filter(|_| process.timed_out());
    let of = Of::Ended {
        stdout: heard.stdout.text(),
        stderr: heard.stderr.text(),
        stdout_bytes: heard.stdout.bytes,
        stderr_bytes: heard.stderr.bytes,
        timeout_ms: limit.map(|deadline| millis(deadline.saturating_duration_since(at))),
        signal: exit::signal(exit),
    };
    drop(heard);
    let what = What::ProcessEnded {
        pid: process.pid,
        exit_code: exit::code(exit),
        duration_ms: millis(at.elapsed()),
        out_of_memory,
    };
    envd.reports.tell(what, &Detail { trace, of });
    let _ = process.end.set(exit::event(exit, out_of_memory));
    envd.processes.ended(&process);
    process.fanout.end();
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
