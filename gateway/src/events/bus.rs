//! The bus.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use chrono::Utc;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{
    Event, EventId, Kind, New, Scrub, Types,
    event::{FIRST, millis},
};

/// Names of subscribers that losses are told by.
const MOST_NAMES: usize = 64;
/// Of all that come after those.
const OTHERS: &str = "others";

/// Of what may wait for a subscriber, whatever it asks for.
const LEAST_BYTES: usize = 1 << 10;

/// How much may wait for a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub events: usize,
    /// As [`Event::weight`] has it; one event is kept whatever it weighs.
    pub bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { events: 10_000, bytes: 8 << 20 }
    }
}

/// Tells what happens; cheap to clone.
#[derive(Clone, Default)]
pub struct Events(Arc<Shared>);

struct Shared {
    /// What anybody subscribes to.
    wanted: AtomicU64,
    told: [AtomicU64; Kind::ALL.len()],
    scrub: OnceLock<Scrub>,
    bus: Mutex<Bus>,
}

#[derive(Default)]
struct Bus {
    rings: Vec<Arc<Ring>>,
    closed: bool,
    /// By the names of subscribers.
    lost: BTreeMap<String, Arc<AtomicU64>>,
    ids: Ids,
}

/// What new ids are made of.
#[derive(Default)]
struct Ids {
    millis: u64,
    number: u16,
    random: u64,
}

impl Ids {
    /// After all before, also where the clock was set back.
    fn next(&mut self, now: u64) -> EventId {
        if self.random == 0 {
            let mut bytes = [0; 8];
            // Without it ids would be told apart by time alone, which is no reason to tell nothing.
            let _ = getrandom::fill(&mut bytes);
            self.random = u64::from_ne_bytes(bytes) | 1;
        }
        if now > self.millis {
            (self.millis, self.number) = (now, FIRST);
        } else if self.number < 0xfff {
            self.number += 1;
        } else {
            (self.millis, self.number) = (self.millis + 1, FIRST);
        }
        // splitmix64: a random beginning, and no two alike from there.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        EventId::of(self.millis, self.number, mixed ^ (mixed >> 31))
    }
}

impl Default for Shared {
    fn default() -> Self {
        let told = std::array::from_fn(|_| AtomicU64::new(0));
        Self { wanted: AtomicU64::new(0), told, scrub: OnceLock::new(), bus: Mutex::default() }
    }
}

impl Events {
    /// Whether anybody subscribes to that type. Whoever has much to do for an event asks first, and
    /// where nobody does says [`Self::skip`].
    pub fn wants(&self, kind: Kind) -> bool {
        self.0.wanted.load(Relaxed) & kind.bit() != 0
    }

    /// Counts an event that nobody [wants](Self::wants).
    pub fn skip(&self, kind: Kind) {
        self.0.told[kind as usize].fetch_add(1, Relaxed);
    }

    /// What takes secrets out of whatever is told, in place of [`Scrub::default`]. For who begins:
    /// nothing has been told yet.
    pub fn scrub_by(&self, scrub: Scrub) {
        if self.0.scrub.set(scrub).is_err() {
            tracing::error!("events were told before it was known what is a secret in them");
        }
    }

    pub(crate) fn scrub(&self) -> &Scrub {
        self.0.scrub.get_or_init(Scrub::default)
    }

    /// Tells it to whoever wants it, without secrets. Never waits for any of them, and never fails.
    pub fn emit(&self, mut new: New) -> EventId {
        let kind = new.what.kind_of();
        self.skip(kind);
        // Whoever comes after this is too late for it.
        let wanted = self.wants(kind);
        if wanted {
            self.scrub().clean(&mut new.what);
        }
        let now = Utc::now();
        let mut bus = self.0.bus.lock();
        let id = match new.id {
            Some(id) => id,
            None => bus.ids.next(millis(now)),
        };
        let mut wanting = bus.rings.iter().filter(|ring| wanted && ring.types.has(kind)).peekable();
        if wanting.peek().is_some() {
            let event = Arc::new(new.told(id, now));
            let weight = event.weight();
            for ring in wanting {
                ring.put(event.clone(), weight);
            }
        }
        id
    }

    /// Tells what `new` makes, if anybody wants it.
    pub fn tell(&self, kind: Kind, new: impl FnOnce() -> New) {
        if self.wants(kind) {
            self.emit(new());
        } else {
            self.skip(kind);
        }
    }

    /// From here on all of those types wait for whoever holds the subscription, at most as many as
    /// there is `room` for: then the oldest goes, counted by the subscriber's `name`.
    pub fn subscribe(&self, name: impl Into<String>, types: Types, room: Room) -> Subscription {
        let mut bus = self.0.bus.lock();
        let name = name.into();
        let known = bus.lost.contains_key(&name) || bus.lost.len() < MOST_NAMES;
        let name = if known { name } else { OTHERS.to_owned() };
        let lost = bus.lost.entry(name).or_default().clone();
        let room = Room { events: room.events.max(1), bytes: room.bytes.max(LEAST_BYTES) };
        let waiting = Waiting { closed: bus.closed, wake_at: 1, ..Waiting::default() };
        let ring =
            Arc::new(Ring { types, room, lost, waiting: Mutex::new(waiting), more: Notify::new() });
        if !bus.closed {
            bus.rings.push(ring.clone());
            self.take_note(&bus);
        }
        Subscription { events: self.clone(), ring }
    }

    /// Nothing is told any more: subscribers get what waits for them, and then hear of the end.
    pub fn close(&self) {
        let mut bus = self.0.bus.lock();
        bus.closed = true;
        for ring in std::mem::take(&mut bus.rings) {
            ring.waiting.lock().closed = true;
            ring.more.notify_one();
        }
        self.take_note(&bus);
    }

    fn take_note(&self, bus: &Bus) {
        let wanted = bus.rings.iter().fold(0, |all, ring| all | ring.types.bits());
        self.0.wanted.store(wanted, Relaxed);
    }

    /// How many there were of each type, whether or not anybody wanted them.
    pub(crate) fn told(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.into_iter().zip(&self.0.told).map(|(kind, told)| (kind, told.load(Relaxed)))
    }

    /// Tells how many each subscriber has lost. No event is told meanwhile.
    pub fn each_lost(&self, mut tell: impl FnMut(&str, u64)) {
        for (name, lost) in &self.0.bus.lock().lost {
            tell(name, lost.load(Relaxed));
        }
    }
}

/// What waits for a subscriber.
struct Ring {
    types: Types,
    room: Room,
    lost: Arc<AtomicU64>,
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
    /// Since the subscriber was told last.
    lost: u64,
    closed: bool,
    /// The subscriber need not be woken for fewer.
    wake_at: usize,
}

impl Ring {
    fn put(&self, event: Arc<Event>, weight: usize) {
        let mut waiting = self.waiting.lock();
        waiting.bytes += weight;
        waiting.events.push_back((event, weight));
        while waiting.events.len() > 1
            && (waiting.events.len() > self.room.events || waiting.bytes > self.room.bytes)
        {
            if let Some((_, weight)) = waiting.events.pop_front() {
                waiting.bytes -= weight;
                waiting.lost += 1;
                self.lost.fetch_add(1, Relaxed);
            }
        }
        let wake = waiting.events.len() >= waiting.wake_at || self.is_filling(&waiting);
        drop(waiting);
        if wake {
            self.more.notify_one();
        }
    }
}

impl Ring {
    /// Whether whoever waits for more had better not.
    fn is_filling(&self, waiting: &Waiting) -> bool {
        waiting.events.len() >= self.room.events || waiting.bytes >= self.room.bytes / 2
    }
}

impl Waiting {
    fn pop(&mut self) -> Option<Arc<Event>> {
        let (event, weight) = self.events.pop_front()?;
        self.bytes -= weight;
        Some(event)
    }
}

/// What a subscriber hears.
#[derive(Debug)]
pub enum Next {
    Event(Arc<Event>),
    /// So many are gone that would have come here.
    Lost(u64),
    /// There will be no more.
    Closed,
}

/// What a subscriber has heard in a while.
#[derive(Debug, Default)]
pub struct Batch {
    pub events: Vec<Arc<Event>>,
    /// So many are gone that would have come before these.
    pub lost: u64,
    /// There will be no more after these.
    pub closed: bool,
}

/// One that wants to know; dropped, it does no more.
pub struct Subscription {
    events: Events,
    ring: Arc<Ring>,
}

impl Subscription {
    /// The next one. Dropped before it is there, it loses nothing.
    pub async fn next(&mut self) -> Next {
        self.news(1).await;
        let mut waiting = self.ring.waiting.lock();
        match std::mem::take(&mut waiting.lost) {
            0 => waiting.pop().map_or(Next::Closed, Next::Event),
            lost => Next::Lost(lost),
        }
    }

    /// As soon as there are `most`, or `wait` after the first has come, those there are. Dropped
    /// before, it loses nothing.
    pub async fn batch(&mut self, most: usize, wait: Duration) -> Batch {
        let most = most.max(1);
        self.news(1).await;
        // In time, or with fewer: either way it is what there is.
        let _ = timeout_at(Instant::now() + wait, self.news(most)).await;
        let mut waiting = self.ring.waiting.lock();
        let count = most.min(waiting.events.len());
        let events: Vec<_> = (0..count).filter_map(|_| waiting.pop()).collect();
        let lost = std::mem::take(&mut waiting.lost);
        let closed = waiting.closed && waiting.events.is_empty();
        Batch { events, lost, closed }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.ring.waiting.lock().events.len()
    }

    /// Returns when so many wait, some are lost, or there will be no more.
    async fn news(&self, count: usize) {
        loop {
            let more = self.ring.more.notified();
            {
                let mut waiting = self.ring.waiting.lock();
                let few = waiting.events.len() < count && !self.ring.is_filling(&waiting);
                if !few || waiting.closed || (count == 1 && waiting.lost > 0) {
                    return;
                }
                waiting.wake_at = count;
            }
            more.await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut bus = self.events.0.bus.lock();
        bus.rings.retain(|ring| !Arc::ptr_eq(ring, &self.ring));
        self.events.take_note(&bus);
    }
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
