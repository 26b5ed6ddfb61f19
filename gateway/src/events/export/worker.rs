//! One exporter at work: what takes its events into the spool, and what sends them from there.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    task::{self, JoinHandle},
    time::{self, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Exporter, Failure,
    settings::Settings,
    spool::{Spool, Taken},
};
use crate::{
    events::{Event, Subscription},
    metrics::Exported,
};

/// Taken into the spool at once, and how long one waits for others: what a gateway that is killed
/// takes with it.
const INTAKE: usize = 1024;
const GATHER: Duration = Duration::from_millis(20);
/// What is sent at once (bytes).
const SENT_BYTES: usize = 4 << 20;
/// After the first failure, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The same after what was refused, which is not tried again.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// Whatever an exporter says of its own time.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between one look at a spool that could not be opened and the next, and from one line of the log
/// about the same trouble to the next.
const AGAIN: Duration = Duration::from_secs(10);
const REMINDER: Duration = Duration::from_secs(60);

/// What both halves share.
pub(super) struct Worker {
    settings: Settings,
    figures: Arc<Exported>,
    spool: Mutex<Spool>,
    waiting: Mutex<Waiting>,
    stirred: Notify,
    /// When it was last said that the spool cannot be written.
    told: Mutex<Option<Instant>>,
}

/// What there is to send.
#[derive(Clone, Copy, Default)]
struct Waiting {
    events: u64,
    /// That it may be sent from then on, however few it is.
    since: Option<Instant>,
}

impl Worker {
    /// Tries until it can open the spool. Events wait in the ring meanwhile, or are lost from it.
    async fn open(settings: Settings, dir: &Path, figures: Arc<Exported>) -> Option<Arc<Self>> {
        loop {
            let (of, room) = (dir.to_owned(), settings.spool);
            match task::spawn_blocking(move || Spool::open(&of, room)).await.ok()? {
                Ok((spool, lost)) => {
                    figures.dropped(lost);
                    figures.waits(spool.waiting(), spool.waiting_bytes());
                    // What has waited for a gateway does not wait for others.
                    let since = Instant::now().checked_sub(settings.interval);
                    let waiting = Waiting { events: spool.ready(), since };
                    if waiting.events > 0 {
                        tracing::info!(
                            exporter = settings.name,
                            events = waiting.events,
                            "events of before wait to be sent"
                        );
                    }
                    return Some(Arc::new(Self {
                        settings,
                        figures,
                        spool: Mutex::new(spool),
                        waiting: Mutex::new(waiting),
                        stirred: Notify::new(),
                        told: Mutex::default(),
                    }));
                }
                Err(error) => {
                    let (exporter, dir) = (&settings.name, dir.display());
                    tracing::error!(exporter, %error, "cannot use the spool {dir}");
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// On a thread that may block; `None` when there is none any more.
    async fn with_spool<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &mut Spool) -> T + Send + 'static,
    ) -> Option<T> {
        let worker = self.clone();
        let done = task::spawn_blocking(move || {
            let mut spool = worker.spool.lock();
            let done = work(&worker, &mut spool);
            worker.figures.waits(spool.waiting(), spool.waiting_bytes());
            let mut waiting = worker.waiting.lock();
            waiting.events = spool.ready();
            if waiting.events == 0 {
                waiting.since = None;
            } else {
                waiting.since.get_or_insert_with(Instant::now);
            }
            drop(waiting);
            worker.stirred.notify_one();
            done
        });
        done.await.ok()
    }

    /// From the ring to the spool, until nothing comes any more; once `stop` is said, what is there.
    async fn take_in(self: Arc<Self>, mut events: Subscription, stop: CancellationToken) {
        loop {
            let batch = tokio::select! {
                biased;
                batch = events.batch(INTAKE, GATHER) => batch,
                () = stop.cancelled() => match timeout(GATHER, events.batch(INTAKE, Duration::ZERO)).await {
                    Ok(batch) => batch,
                    Err(_) => return,
                },
            };
            self.figures.dropped(batch.lost);
            if !batch.events.is_empty() {
                let events = batch.events;
                if self.with_spool(move |worker, spool| worker.keep(spool, &events)).await.is_none()
                {
                    return;
                }
            }
            if batch.closed {
                return;
            }
        }
    }

    fn keep(&self, spool: &mut Spool, events: &[Arc<Event>]) {
        let kept = spool.keep(events.iter().map(|event| event.line()));
        self.figures.dropped(kept.lost);
        let Some(error) = kept.error else { return };
        let mut told = self.told.lock();
        if told.is_none_or(|told| told.elapsed() > REMINDER) {
            *told = Some(Instant::now());
            let exporter = &self.settings.name;
            tracing::error!(exporter, %error, "events are lost: the spool cannot be written");
        }
    }

    /// From the spool to where they go. Once `finish` is said, what is there, and nothing twice.
    async fn send_on(self: Arc<Self>, mut exporter: Box<dyn Exporter>, finish: CancellationToken) {
        let mut pace = Pace::default();
        while self.is_time(&finish).await {
            let most = self.settings.batch;
            let Some(batch) = self.with_spool(move |_, spool| Batch::take(spool, most)).await
            else {
                return;
            };
            self.figures.dropped(batch.lost);
            if !self.deliver(&mut *exporter, &batch.events, &mut pace, &finish).await {
                return;
            }
            let saved = self.with_spool(move |worker, spool| {
                worker.waiting.lock().since = None;
                spool.sent(&batch.taken)
            });
            match saved.await {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let exporter = &self.settings.name;
                    tracing::debug!(exporter, %error, "events may be sent again at the next start");
                }
                None => return,
            }
        }
    }

    /// Waits until a batch is full, or has waited long enough; false when there will be none.
    async fn is_time(&self, finish: &CancellationToken) -> bool {
        loop {
            let Waiting { events, since } = *self.waiting.lock();
            if finish.is_cancelled() || events >= self.settings.batch as u64 {
                return events > 0;
            }
            let waited = since.map(|since| since.elapsed());
            let left = waited.map(|waited| self.settings.interval.saturating_sub(waited));
            if events > 0 && left.is_none_or(|left| left.is_zero()) {
                return true;
            }
            tokio::select! {
                () = self.stirred.notified() => {}
                () = finish.cancelled() => {}
                () = sleep(left.unwrap_or(LONGEST_PAUSE)) => {}
            }
        }
    }

    /// Until each has arrived or is given up; false when it is time to finish before.
    async fn deliver(
        &self,
        exporter: &mut dyn Exporter,
        events: &[Arc<Event>],
        pace: &mut Pace,
        finish: &CancellationToken,
    ) -> bool {
        let name = &self.settings.name;
        // The last is the first to be sent.
        let mut parts = vec![events];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let count = part.len() as u64;
            let sent = timeout(PATIENCE, exporter.send(part)).await;
            let sent = sent.unwrap_or_else(|_| Err(Failure::later("it does not come back")));
            let pause = match sent {
                Ok(()) => {
                    self.figures.sent(count);
                    pace.succeeded(name, self.waiting.lock().events);
                    continue;
                }
                Err(Failure::Partly { refused, why }) => {
                    let refused = count.min(refused as u64);
                    self.figures.failed(refused);
                    self.figures.sent(count - refused);
                    pace.refused(name, refused, &why)
                }
                Err(Failure::Refused { why }) if part.len() == 1 => {
                    self.figures.failed(1);
                    pace.refused(name, 1, &why)
                }
                Err(Failure::Refused { .. }) => {
                    self.figures.retried();
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                    continue;
                }
                Err(Failure::Later { why, after }) => {
                    self.figures.retried();
                    parts.push(part);
                    pace.failed(name, &why).max(after.unwrap_or_default())
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = finish.cancelled() => return false,
            }
        }
        true
    }
}

/// What is under way.
struct Batch {
    events: Vec<Arc<Event>>,
    lost: u64,
    taken: Taken,
}

impl Batch {
    fn take(spool: &mut Spool, most: usize) -> Self {
        let mut taken = spool.take(most, SENT_BYTES);
        let lines = std::mem::take(&mut taken.lines);
        let all = lines.len();
        // What another version wrote may say nothing to this one.
        let events = lines.iter().filter_map(|line| serde_json::from_slice(line).ok());
        let events: Vec<_> = events.map(Arc::new).collect();
        let lost = taken.lost + (all - events.len()) as u64;
        Self { events, lost, taken }
    }
}

/// How often it is tried, and said that it fails.
#[derive(Default)]
struct Pace {
    failures: u32,
    refusals: u32,
    told: Option<Instant>,
}

impl Pace {
    fn succeeded(&mut self, name: &str, waiting: u64) {
        if self.failures > 0 {
            tracing::info!(exporter = name, waiting, "events arrive again");
        }
        *self = Self { told: self.told.filter(|_| self.failures == 0), ..Self::default() };
    }

    fn failed(&mut self, name: &str, why: &str) -> Duration {
        if self.is_to_be_told() {
            tracing::warn!(exporter = name, "events do not arrive, and wait in the spool: {why}");
        } else {
            tracing::debug!(exporter = name, "events do not arrive: {why}");
        }
        self.failures = self.failures.saturating_add(1);
        pause_after(self.failures, LONGEST_PAUSE)
    }

    fn refused(&mut self, name: &str, events: u64, why: &str) -> Duration {
        if self.is_to_be_told() {
            tracing::warn!(exporter = name, events, "not taken, and given up: {why}");
        } else {
            tracing::debug!(exporter = name, events, "not taken, and given up: {why}");
        }
        self.refusals = self.refusals.saturating_add(1);
        match self.refusals {
            1 => Duration::ZERO,
            more => pause_after(more - 1, REFUSED_PAUSE),
        }
    }

    fn is_to_be_told(&mut self) -> bool {
        let due = self.told.is_none_or(|told| told.elapsed() > REMINDER);
        if due {
            self.told = Some(Instant::now());
        }
        due
    }
}

/// Twice as long each time, and a random half of it less, so that those who have failed together do
/// not come back together.
fn pause_after(failures: u32, longest: Duration) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let mut random = [0; 2];
    // Without, they come back together.
    let _ = getrandom::fill(&mut random);
    let share = f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX);
    doubled.min(longest).mul_f64(1.0 - share / 2.0)
}

/// An exporter's two halves, until they are told to end.
pub(super) struct Running {
    pub(super) name: String,
    starting: JoinHandle<Option<(JoinHandle<()>, JoinHandle<()>)>>,
    stop: CancellationToken,
    finish: CancellationToken,
}

impl Running {
    pub(super) fn start(
        settings: Settings,
        exporter: Box<dyn Exporter>,
        dir: &Path,
        events: Subscription,
        figures: Arc<Exported>,
    ) -> Self {
        let (stop, finish) = (CancellationToken::new(), CancellationToken::new());
        let (name, dir) = (settings.name.clone(), dir.to_owned());
        let starting = tokio::spawn({
            let (stop, finish) = (stop.clone(), finish.clone());
            async move {
                let worker = Worker::open(settings, &dir, figures).await?;
                let intake = tokio::spawn(worker.clone().take_in(events, stop));
                Some((intake, tokio::spawn(worker.send_on(exporter, finish))))
            }
        });
        Self { name, starting, stop, finish }
    }

    /// What has happened is in the spool when this is over, and maybe sent: by `until` it is over.
    pub(super) async fn end(mut self, until: time::Instant) {
        self.stop.cancel();
        let started = timeout_at(until, &mut self.starting).await;
        let Some((mut intake, mut sender)) = started.ok().and_then(Result::ok).flatten() else {
            self.starting.abort();
            return;
        };
        if timeout_at(until, &mut intake).await.is_err() {
            tracing::warn!(exporter = self.name, "the last events are not in the spool");
            intake.abort();
        }
        self.finish.cancel();
        if timeout_at(until, &mut sender).await.is_err() {
            sender.abort();
        }
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
