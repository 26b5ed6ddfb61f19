//! Delivering to one webhook: what waits for it in its spool, in order, a few at once, each until it
//! is taken or given up.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chrono::Utc;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{hook::Hook, intake::Waiting, post::Poster};
use crate::{
    events::{Event, Types, export::spool::Spool},
    metrics::Metrics,
};

/// How a spool's directory ends that nobody needs any more.
pub(super) const GONE: &str = "gone";
/// What may wait for one webhook (bytes). Beyond it the oldest goes.
const ROOM: u64 = 8 << 20;
/// Deliveries under way at once.
const AT_ONCE: usize = 8;
/// Of bodies that are under way (bytes).
const BODIES: usize = 1 << 20;
/// A receiver that answers, and not with success, is asked so often. One that does not answer is
/// waited for as long as there is room.
const ANSWERS: u32 = 8;
/// Nothing older is delivered.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// Between the first attempt and the second; doubled up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Whatever a receiver says of when to come again.
const LATEST: Duration = Duration::from_secs(300);

/// What delivers to one webhook, as long as it is enabled.
pub(super) struct Courier {
    hook: Arc<Hook>,
    types: Mutex<Types>,
    spool: Mutex<Spool>,
    dir: PathBuf,
    more: Notify,
    stop: CancellationToken,
}

impl Courier {
    /// Goes on with what the gateway before has left.
    pub(super) fn open(hook: Arc<Hook>, types: Types, dir: &Path) -> io::Result<Self> {
        let (spool, lost) = Spool::open(dir, ROOM)?;
        if lost > 0 {
            tracing::warn!("webhook {}: there is no room for {lost} events any more", hook.id);
        }
        let (more, stop) = (Notify::new(), CancellationToken::new());
        let spool = Mutex::new(spool);
        Ok(Self { hook, types: Mutex::new(types), spool, dir: dir.to_owned(), more, stop })
    }

    pub(super) fn types(&self) -> Types {
        self.types.lock().clone()
    }

    pub(super) fn want(&self, types: Types) {
        *self.types.lock() = types;
    }

    pub(super) fn wants(&self, event: &Event) -> bool {
        event.tenant == self.hook.tenant && self.types.lock().has(event.what.kind_of())
    }

    /// Says how many are lost for it.
    pub(super) async fn keep(self: &Arc<Self>, lines: Vec<Vec<u8>>) -> u64 {
        let kept = self.blocking(move |spool| spool.keep(lines)).await;
        self.more.notify_one();
        let Some(kept) = kept else { return 0 };
        if let Some(error) = kept.error {
            tracing::error!("webhook {}: cannot keep events: {error}", self.hook.id);
        }
        kept.lost
    }

    /// Nothing more is delivered, and what waits is forgotten.
    pub(super) fn end(&self) {
        self.stop.cancel();
        // Out of the way first: there may be another in its place before it is gone.
        let gone = self.dir.with_extension(format!("{}.{GONE}", Uuid::new_v4().simple()));
        if fs::rename(&self.dir, &gone).is_ok() {
            tokio::task::spawn_blocking(move || drop(fs::remove_dir_all(gone)));
        }
    }

    pub(super) async fn deliver(self: Arc<Self>, poster: Arc<Poster>, metrics: Arc<Metrics>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.deliver_all(&poster, &metrics) => {}
        }
    }

    async fn deliver_all(self: &Arc<Self>, poster: &Poster, metrics: &Metrics) {
        loop {
            let more = self.more.notified();
            let taken = self.blocking(|spool| spool.take(AT_ONCE, BODIES)).await;
            let Some(taken) = taken else { return };
            if taken.lines.is_empty() && taken.lost == 0 {
                more.await;
                continue;
            }
            metrics.webhook_events_lost(taken.lost);
            join_all(taken.lines.iter().map(|line| self.one(line, poster, metrics))).await;
            let sent = self.blocking(move |spool| spool.sent(&taken)).await;
            if let Some(Err(error)) = sent {
                tracing::warn!(
                    "webhook {}: what was delivered may be again: {error}",
                    self.hook.id
                );
            }
        }
    }

    /// Until it is taken or given up.
    async fn one(&self, line: &[u8], poster: &Poster, metrics: &Metrics) {
        let Ok(waiting) = serde_json::from_slice::<Waiting>(line) else {
            return metrics.webhook_events_lost(1);
        };
        let body = Bytes::copy_from_slice(waiting.body.get().as_bytes());
        let (mut pause, mut answers) = (PAUSE, 0);
        loop {
            let age = Utc::now().timestamp_millis().saturating_sub(waiting.at);
            if age > OLDEST.as_millis() as i64 || answers == ANSWERS {
                tracing::info!("webhook {}: event {} is given up", self.hook.id, waiting.id);
                return metrics.webhook_events_lost(1);
            }
            let changed = self.hook.changed.notified();
            let outcome = poster
                .send((self.hook.id, &self.hook.tenant), &self.hook.said(), &waiting, body.clone())
                .await;
            let failed = outcome.attempt.failed();
            answers += u32::from(outcome.attempt.answer.is_some());
            metrics.webhook_attempted(!failed);
            self.hook.deliveries.lock().note(outcome.attempt);
            if !failed {
                return;
            }
            let wait = outcome.after.unwrap_or(pause).clamp(pause, LATEST);
            tokio::select! {
                () = sleep(wait) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = changed => pause = PAUSE,
            }
        }
    }

    /// Files are waited for by threads that are there for it.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Option<T> {
        let own = self.clone();
        tokio::task::spawn_blocking(move || work(&mut own.spool.lock())).await.ok()
    }
}
