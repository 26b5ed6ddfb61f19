//! From the bus to the spools of those webhooks that want it. There is one subscription for all of
//! them, and none where there is no webhook: then events cost what they cost without.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::{Inner, courier::Courier, payload};
use crate::{
    events::{Event, EventId, Events, Room, Subscription, Types},
    sandbox::Sandboxes,
};

/// What is put down at once.
const BATCH: usize = 500;
const WAIT: Duration = Duration::from_millis(20);

/// What waits to be delivered, as a line of a spool.
#[derive(Serialize, Deserialize)]
pub(super) struct Waiting {
    /// The event's.
    pub(super) id: String,
    pub(super) sandbox: String,
    /// By its name for receivers.
    pub(super) kind: String,
    /// Milliseconds since the epoch.
    pub(super) at: i64,
    /// What is posted, to the byte.
    pub(super) body: Box<RawValue>,
}

impl Waiting {
    fn new(event: &Event, sandboxes: &Sandboxes) -> Option<Self> {
        Some(Self {
            id: event.id.to_string(),
            sandbox: event.sandbox.to_string(),
            kind: payload::name_of(event.what.kind_of()).to_owned(),
            at: event.at.timestamp_millis(),
            body: RawValue::from_string(payload::body(event, sandboxes)).ok()?,
        })
    }
}

/// Until there are no more events.
pub(super) async fn take_in(
    inner: Arc<Inner>,
    events: Events,
    sandboxes: Sandboxes,
    mut asked: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
) {
    let mut subscription: Option<(Types, Subscription)> = None;
    // What came by the subscription before, and comes by this one too.
    let mut twice: HashSet<EventId> = HashSet::new();
    loop {
        let changed = inner.changed.notified();
        let wanted = inner.wanted();
        if subscription.as_ref().map(|(types, _)| types) != wanted.as_ref() {
            let room = Room::default();
            let next =
                wanted.map(|types| (types.clone(), events.subscribe("webhooks", types, room)));
            let before = std::mem::replace(&mut subscription, next);
            if let Some((_, mut before)) = before {
                let waiting = before.waiting();
                if waiting > 0 {
                    let rest = before.batch(waiting, Duration::ZERO).await.events;
                    twice = rest.iter().map(|event| event.id).collect();
                    put_down(&inner, rest, &sandboxes).await;
                }
            }
        }
        let Some((_, subscription)) = &mut subscription else {
            tokio::select! {
                () = changed => {}
                // There is nothing to put down.
                Some(done) = asked.recv() => drop(done.send(())),
            }
            continue;
        };
        let batch = tokio::select! {
            batch = subscription.batch(BATCH, WAIT) => batch,
            () = changed => continue,
            Some(done) = asked.recv() => {
                let waiting = subscription.waiting();
                if waiting > 0 {
                    let heard = subscription.batch(waiting, Duration::ZERO).await.events;
                    put_down(&inner, heard, &sandboxes).await;
                }
                let _ = done.send(());
                continue;
            }
        };
        let mut heard = batch.events;
        heard.retain(|event| !twice.remove(&event.id));
        if batch.lost > 0 {
            tracing::warn!("webhooks lack {} events: there were too many at once", batch.lost);
            sandboxes.metrics().webhook_events_lost(batch.lost);
        }
        put_down(&inner, heard, &sandboxes).await;
        if batch.closed {
            return;
        }
    }
}

async fn put_down(inner: &Inner, events: Vec<Arc<Event>>, sandboxes: &Sandboxes) {
    let couriers = inner.couriers();
    let mut bags: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
    for event in &events {
        let mut line = None;
        for (n, courier) in couriers.iter().enumerate() {
            if !courier.wants(event) {
                continue;
            }
            let line = line.get_or_insert_with(|| {
                let waiting = Waiting::new(event, sandboxes);
                waiting.and_then(|waiting| serde_json::to_vec(&waiting).ok()).unwrap_or_default()
            });
            if !line.is_empty() {
                bags.entry(n).or_default().push(line.clone());
            }
        }
    }
    for (n, lines) in bags {
        let courier: Arc<Courier> = couriers[n].clone();
        let lost = courier.keep(lines).await;
        if lost > 0 {
            sandboxes.metrics().webhook_events_lost(lost);
        }
    }
}
