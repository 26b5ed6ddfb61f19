//! A context: one kernel, and those who wait for it. One execution at a time.
//!
//! ```text
//! no kernel --first use--> starting --it answers--> idle <--> running
//!     ^                       |                       |          |
//!     +------ it failed ------+------- it ended ------+----------+
//! ```
//! A task of its own sees to each. What orders say goes before all that waits. A kernel that ends by
//! itself is started again at once, unless it had only just begun.

use std::{
    collections::BTreeMap,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::timeout,
};

use super::{
    HOME,
    process::{Kernel, Unstarted},
    request::RequestId,
    run::{self, Ended},
    seldom::LOG,
    spec::KernelSpec,
};
use crate::{
    os::Exit,
    process::{exit_code, exit_words},
    state::Envd,
    trace::TraceId,
    wire::{self, Detail, Of, What},
};

/// For a kernel that is asked to end.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// A kernel that lived less is not started again before it is needed.
const YOUNG: Duration = Duration::from_secs(5);

/// As clients know it. Dropped, its kernel ends.
pub(super) struct Context {
    pub(super) id: String,
    pub(super) language: String,
    pub(super) cwd: String,
    tasks: mpsc::UnboundedSender<Task>,
    orders: mpsc::UnboundedSender<Order>,
}

/// Code to be run.
pub(super) struct Run {
    pub(super) code: String,
    pub(super) env: BTreeMap<String, String>,
    /// Where its lines go; closed when nobody reads them.
    pub(super) lines: mpsc::Sender<Chunk>,
    /// What it takes of what may wait.
    pub(super) room: OwnedSemaphorePermit,
    pub(super) trace: Option<TraceId>,
}

/// Lines on their way to a client. One that gets no last chunk did not get everything.
pub(super) struct Chunk {
    pub(super) lines: Bytes,
    pub(super) is_last: bool,
}

enum Task {
    Run(Run),
    Start(oneshot::Sender<Result<(), String>>),
}

/// What does not wait.
pub(super) enum Order {
    Restart(oneshot::Sender<Result<(), String>>),
    Delete(oneshot::Sender<()>),
}

#[derive(Debug)]
pub(super) struct Gone;

impl Context {
    pub(super) fn new(
        envd: Arc<Envd>,
        id: String,
        language: String,
        cwd: String,
        spec: KernelSpec,
    ) -> Arc<Self> {
        let (tasks, waiting) = mpsc::unbounded_channel();
        let (orders, ordered) = mpsc::unbounded_channel();
        let keeper = Keeper {
            envd,
            spec,
            language: language.clone(),
            cwd: cwd.clone(),
            kernel: None,
            started: Instant::now(),
            orders: Orders::coming(ordered),
        };
        tokio::spawn(keeper.keep(waiting));
        Arc::new(Self { id, language, cwd, tasks, orders })
    }

    /// Has the code run when its turn comes.
    pub(super) fn run(&self, run: Run) -> Result<(), Gone> {
        self.tasks.send(Task::Run(run)).map_err(|_| Gone)
    }

    /// Returns when its kernel answers.
    pub(super) async fn start(&self) -> Result<Result<(), String>, Gone> {
        let (told, answer) = oneshot::channel();
        self.tasks.send(Task::Start(told)).map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Returns when it has a new kernel that answers.
    pub(super) async fn restart(&self) -> Result<Result<(), String>, Gone> {
        let (told, answer) = oneshot::channel();
        self.orders.send(Order::Restart(told)).map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Returns when its kernel has ended.
    pub(super) async fn delete(&self) {
        let (told, answer) = oneshot::channel();
        if self.orders.send(Order::Delete(told)).is_ok() {
            // Dropped when it ended for another reason.
            let _ = answer.await;
        }
    }
}

/// Who sees to a context.
pub(super) struct Keeper {
    pub(super) envd: Arc<Envd>,
    spec: KernelSpec,
    language: String,
    cwd: String,
    pub(super) kernel: Option<Kernel>,
    /// When the kernel came to answer.
    started: Instant,
    pub(super) orders: Orders,
}

pub(super) struct Orders {
    coming: mpsc::UnboundedReceiver<Order>,
    /// What has come and is not obeyed yet.
    first: Option<Order>,
}

impl Orders {
    fn coming(coming: mpsc::UnboundedReceiver<Order>) -> Self {
        Self { coming, first: None }
    }

    #[cfg(test)]
    pub(super) fn to_be_given() -> (mpsc::UnboundedSender<Order>, Self) {
        let (give, coming) = mpsc::unbounded_channel();
        (give, Self::coming(coming))
    }

    /// Returns when there is one. Can be given up and called again.
    pub(super) async fn come(&mut self) {
        if self.first.is_none() {
            let order = self.coming.recv().await;
            // A context nobody can reach any more is as good as deleted.
            self.first = order.or_else(|| Some(Order::Delete(oneshot::channel().0)));
        }
    }

    /// Whether it is to go on with a new kernel.
    pub(super) fn go_on(&self) -> bool {
        matches!(self.first, Some(Order::Restart(_)))
    }
}

/// Why there is no kernel.
pub(super) enum Broken {
    Failed(String),
    Ordered,
}

impl Keeper {
    async fn keep(mut self, mut tasks: mpsc::UnboundedReceiver<Task>) {
        loop {
            if let Some(order) = self.orders.first.take() {
                if !self.obey(order).await {
                    break;
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.orders.come() => {}
                exit = idle(&mut self.kernel) => {
                    if self.died(exit) {
                        // Whoever needs it next hears why there is none.
                        let _ = self.ready().await;
                    }
                }
                task = tasks.recv() => match task {
                    Some(Task::Run(run)) => self.turn(run).await,
                    Some(Task::Start(told)) => {
                        let _ = match self.ready().await {
                            Ok(()) => told.send(Ok(())),
                            Err(Broken::Failed(why)) => told.send(Err(why)),
                            Err(Broken::Ordered) => Ok(()),
                        };
                    }
                    None => break,
                },
            }
        }
        tasks.close();
        while let Ok(task) = tasks.try_recv() {
            if let Task::Run(run) = task {
                let detail = told(&run);
                run::refuse(run);
                self.executed(true, Duration::ZERO, false, &detail);
            }
        }
    }

    /// Whether the context stays.
    async fn obey(&mut self, order: Order) -> bool {
        self.stop().await;
        match order {
            Order::Delete(told) => {
                // Who asked may have gone.
                let _ = told.send(());
                false
            }
            Order::Restart(told) => {
                HOME.clone_into(&mut self.cwd);
                let _ = match self.ready().await {
                    Ok(()) => told.send(Ok(())),
                    Err(Broken::Failed(why)) => told.send(Err(why)),
                    Err(Broken::Ordered) => told.send(Ok(())),
                };
                true
            }
        }
    }

    /// Returns with a kernel that answers.
    pub(super) async fn ready(&mut self) -> Result<(), Broken> {
        if self.kernel.is_some() {
            return Ok(());
        }
        let started = tokio::select! {
            biased;
            () = self.orders.come() => return Err(Broken::Ordered),
            started = Kernel::start(&self.envd, &self.spec, &self.language, &self.cwd) => started,
        };
        match started {
            Ok(kernel) => {
                self.kernel = Some(kernel);
                self.started = Instant::now();
                self.envd.reports.push(What::KernelStarted { language: self.language.clone() });
                Ok(())
            }
            Err(Unstarted { why, exit }) => {
                if LOG.has_turn(Instant::now()) {
                    let how = exit.map(exit_words).unwrap_or_default();
                    tracing::warn!(kernel = self.spec.name, how, "a kernel did not start");
                }
                Err(Broken::Failed(why))
            }
        }
    }

    async fn turn(&mut self, run: Run) {
        if run.lines.is_closed() {
            return;
        }
        let began = Instant::now();
        let repeated = self.envd.repeats.note((&self.language, &run.code), began);
        let detail = told(&run);
        let (ended, failed) = run::turn(run, self).await;
        if let Some(failed) = failed {
            self.executed(failed, began.elapsed(), repeated, &detail);
        }
        match ended {
            Ended::Whole => {}
            // Where it stands nobody knows, so it is not asked.
            Ended::Ordered => {
                if let Some(mut kernel) = self.kernel.take() {
                    kernel.life.kill();
                    let _ = timeout(SHUTDOWN, kernel.life.end()).await;
                    self.stopped();
                }
            }
            Ended::Died(exit) => {
                if self.died(exit) {
                    let _ = self.ready().await;
                }
            }
        }
    }

    /// Takes note of a kernel's end; `true` if it should be started again at once.
    fn died(&mut self, exit: Option<Exit>) -> bool {
        self.kernel = None;
        let code = exit.map_or(-1, exit_code);
        let how = exit.map_or_else(|| "it said nothing that can be read".to_owned(), exit_words);
        if LOG.has_turn(Instant::now()) {
            tracing::warn!(kernel = self.spec.name, how, "a kernel died");
        }
        self.envd
            .reports
            .push(What::KernelDied { language: self.language.clone(), exit_code: code });
        self.started.elapsed() > YOUNG
    }

    async fn stop(&mut self) {
        if let Some(mut kernel) = self.kernel.take() {
            kernel.life.shut_down();
            // What does not end by itself does when it is dropped.
            let _ = timeout(SHUTDOWN, kernel.life.end()).await;
            self.stopped();
        }
    }

    fn stopped(&self) {
        self.envd.reports.push(What::KernelStopped { language: self.language.clone() });
    }

    fn executed(&self, failed: bool, took: Duration, repeated: bool, detail: &Detail) {
        let what = What::CodeExecuted {
            language: self.language.clone(),
            failed,
            duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            repeated,
        };
        self.envd.reports.tell(what, detail);
    }
}

fn told(run: &Run) -> Detail {
    Detail { trace: run.trace, of: Of::Code { code: wire::text(&run.code) } }
}

/// Hears what a kernel says to nobody, and returns when it has ended, or speaks nonsense.
async fn idle(kernel: &mut Option<Kernel>) -> Option<Exit> {
    let Some(Kernel { shell, iopub, life, .. }) = kernel else { return pending().await };
    let nobody = RequestId::none();
    loop {
        tokio::select! {
            exit = life.end() => return Some(exit),
            said = iopub.next(&nobody) => if let Err(error) = said {
                return life.end_soon(&error).await;
            },
            said = shell.next(&nobody) => if let Err(error) = said {
                return life.end_soon(&error).await;
            },
        }
    }
}
