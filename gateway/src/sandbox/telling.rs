//! What is told of a sandbox's life, and counted, where it happens.
//!
//! ```text
//!   created ◀── started ◀── paused ◀── resumed ◀── paused ◀── ..      an arrow leads to the parent
//!      ▲           │ adopted, updated, snapshotted, forked: of the start or resume it runs since
//!      └── terminated ◀── cost.total      the cost of a time: of what ended it
//! ```
//!
//! The ids of these events follow from the sandbox's own and from instants that its record keeps.
//! So a gateway that goes on with a sandbox knows the parents of what it tells, and tells an end
//! that the one before may not have told under the id that it would have had.
//!
//! Of one sandbox they are told in their order: each while the moment that it tells of still lasts,
//! with the lock held under which all moves are made. A pause that an end has overtaken, before its
//! record was written, is neither told nor counted.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};

use super::{
    Error, Facts, Phase, Reason, Sandbox, SandboxId, Sandboxes, Tenant,
    life::{Life, Moment, millis_between, whole},
    making::Asked,
    pausing::Woken,
};
use crate::events::{EventId, Kind, New, Period, Price, Resources, What};

/// Of the ids of one sandbox and millisecond: in the order in which they are told.
#[derive(Clone, Copy)]
enum Rank {
    Created,
    Started,
    Resumed,
    Storage,
    Paused,
    Runtime,
    Terminated,
    LastRuntime,
    LastStorage,
    Total,
}

impl Rank {
    fn kind(self) -> Kind {
        match self {
            Self::Created => Kind::SandboxCreated,
            Self::Started => Kind::SandboxStarted,
            Self::Resumed => Kind::SandboxResumed,
            Self::Paused => Kind::SandboxPaused,
            Self::Terminated => Kind::SandboxTerminated,
            Self::Runtime | Self::LastRuntime => Kind::CostRuntime,
            Self::Storage | Self::LastStorage => Kind::CostStorage,
            Self::Total => Kind::CostTotal,
        }
    }
}

/// The longest name of a template (bytes) that is told as a client gave it.
const LONGEST_NAME: usize = 128;
/// Of metadata (bytes): with more of it none is told.
const MOST_METADATA: usize = 16 << 10;

fn id(facts: &Facts, rank: Rank, at: DateTime<Utc>) -> EventId {
    EventId::derived(facts.id, at, rank as u16)
}

fn created(facts: &Facts) -> EventId {
    id(facts, Rank::Created, facts.started_at)
}

/// By which it has run since then.
fn run(facts: &Facts, since: DateTime<Utc>) -> EventId {
    if since <= whole(facts.started_at) {
        id(facts, Rank::Started, facts.started_at)
    } else {
        id(facts, Rank::Resumed, since)
    }
}

fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

fn told(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

impl Sandbox {
    /// The event that its life begins with.
    pub fn created_event(&self) -> EventId {
        created(self.facts())
    }

    /// The one that began the time it has run since it was made or last resumed: what happens in
    /// it comes of that.
    pub fn run_event(&self) -> EventId {
        run(self.facts(), self.life.now().runs_since)
    }

    /// Something that happens to it, or in it, now.
    pub fn event(&self, what: What) -> New {
        let facts = self.facts();
        New::of(facts.id, facts.tenant.clone(), self.image.clone(), what).parent(self.run_event())
    }
}

/// How long it has run and stood still until it was paused or ended (ms).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spans {
    ran: u64,
    stood: u64,
    /// Of these, since it was last resumed, and since it was last paused.
    ran_last: u64,
    stood_last: u64,
}

impl Spans {
    /// Of one that is to have stopped for good `end`.
    fn new(facts: &Facts, moment: &Moment, end: DateTime<Utc>) -> Self {
        let end = end.max(moment.runs_since);
        let stop = moment.paused.map_or(end, |pause| pause.at);
        let stood_last = millis_between(stop, end);
        Self {
            ran: millis_between(whole(facts.started_at), stop).saturating_sub(moment.stood),
            stood: moment.stood.saturating_add(stood_last),
            ran_last: millis_between(moment.runs_since, stop),
            stood_last,
        }
    }
}

/// What a sandbox costs, for whoever tells of it.
struct Bill<'a> {
    facts: &'a Facts,
    price: Price,
}

impl<'a> Bill<'a> {
    /// `None` where nothing costs anything.
    fn of(facts: &'a Facts) -> Option<Self> {
        let price = Price::of(facts.tariff, &facts.limits);
        (!facts.tariff.is_free()).then_some(Self { facts, price })
    }

    /// Of the time up to `spans.ran` since it was resumed.
    fn runtime(&self, spans: Spans) -> What {
        let Spans { ran, ran_last, .. } = spans;
        let before = self.price.runtime(ran.saturating_sub(ran_last));
        What::CostRuntime {
            duration_ms: ran_last,
            rate: self.price.runtime_rate(),
            cost: self.price.runtime(ran) - before,
        }
    }

    /// Of the time up to `spans.stood` since it was paused.
    fn storage(&self, spans: Spans) -> What {
        let Spans { stood, stood_last, .. } = spans;
        let before = self.price.storage(stood.saturating_sub(stood_last));
        What::CostStorage {
            duration_ms: stood_last,
            rate: self.price.storage_rate(),
            cost: self.price.storage(stood) - before,
        }
    }

    fn total(&self, spans: Spans) -> crate::events::Cost {
        [self.price.runtime(spans.ran), self.price.storage(spans.stood)].into_iter().sum()
    }

    fn whole(&self, spans: Spans, end: DateTime<Utc>) -> What {
        let period = Period { from: told(self.facts.started_at), to: told(end) };
        What::CostTotal { sandbox_cost: self.total(spans), period }
    }
}

/// Tells of one sandbox.
struct Teller<'a> {
    sandboxes: &'a Sandboxes,
    facts: &'a Facts,
}

impl Teller<'_> {
    fn tell(
        &self,
        at: DateTime<Utc>,
        rank: Rank,
        parent: Option<EventId>,
        what: impl FnOnce() -> What,
    ) -> EventId {
        let Facts { tenant, template, .. } = self.facts;
        let id = id(self.facts, rank, at);
        self.sandboxes.events().tell(rank.kind(), || {
            let new = New::of(self.facts.id, tenant.clone(), template.id.as_str(), what());
            new.id(id).at(at).parent(parent)
        });
        id
    }
}

impl Sandboxes {
    fn teller<'a>(&'a self, facts: &'a Facts) -> Teller<'a> {
        Teller { sandboxes: self, facts }
    }

    /// Nobody has seen it yet: it may still be ended, and is then told of as not made.
    pub(super) fn tell_created(&self, sandbox: &Sandbox, asked: Asked) {
        let facts = sandbox.facts();
        let size = facts.metadata.iter().map(|(name, value)| name.len() + value.len());
        let fits = size.sum::<usize>() <= MOST_METADATA;
        self.teller(facts).tell(facts.started_at, Rank::Created, None, || What::SandboxCreated {
            image: facts.template.id.clone(),
            resources: Resources {
                cpu_count: facts.limits.cpus,
                memory_mb: facts.limits.memory_bytes >> 20,
                disk_mb: facts.limits.disk_bytes.map(|bytes| bytes >> 20),
            },
            metadata: if fits { facts.metadata.clone() } else { BTreeMap::new() },
            from_pool: facts.from_pool,
            forked_from: asked.forked_from.map(|source| source.to_string()),
        });
    }

    /// It runs, and is about to be seen.
    pub(super) fn tell_started(&self, sandbox: &Sandbox, asked: Asked) {
        let took = asked.began.elapsed();
        self.0.metrics.sandbox_begun(took);
        let facts = sandbox.facts();
        let startup_duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let what = || What::SandboxStarted { startup_duration_ms, took_ns: nanos(took) };
        let created = Some(created(facts));
        self.teller(facts).tell(facts.started_at, Rank::Started, created, what);
    }

    /// A create has failed that was not refused for what it asked.
    pub(super) fn tell_not_made(&self, tenant: Tenant, template: &str, error: &Error) {
        if error.refuses_the_client() {
            return;
        }
        let reason = self.0.metrics.create_failed(error);
        self.0.events.tell(Kind::SandboxFailed, || {
            let template = if template.len() > LONGEST_NAME { "" } else { template };
            let id = match error {
                Error::EndedInCreation(id) => *id,
                // Of what was never there there is no id.
                _ => SandboxId::random(),
            };
            New::of(id, tenant, template, What::SandboxFailed { reason: reason.to_owned() })
        });
    }

    /// Nothing of it runs, and the next gateway would find it so.
    pub(super) fn tell_paused(&self, sandbox: &Sandbox, took: Duration) {
        let facts = sandbox.facts();
        sandbox.life.look(|moment, is_told| {
            let Some(pause) = moment.paused.filter(|_| moment.phase == Phase::Paused) else {
                return;
            };
            self.0.metrics.pause_succeeded(took);
            is_told.store(true, Ordering::Relaxed);
            let spans = Spans::new(facts, moment, pause.at);
            let teller = self.teller(facts);
            let what = || What::SandboxPaused {
                runtime_duration_ms: spans.ran_last,
                reason: pause.reason.code().to_owned(),
                took_ns: nanos(took),
            };
            let parent = run(facts, moment.runs_since);
            let paused = teller.tell(pause.at, Rank::Paused, Some(parent), what);
            if let Some(bill) = Bill::of(facts) {
                teller.tell(pause.at, Rank::Runtime, Some(paused), || bill.runtime(spans));
            }
        });
    }

    /// It runs again, as `moment` says.
    pub(super) fn tell_resumed(
        &self,
        facts: &Facts,
        moment: &Moment,
        was_told: &AtomicBool,
        woken: &Woken,
    ) {
        let was_told = was_told.swap(false, Ordering::Relaxed);
        let Some(pause) = woken.before.paused else { return };
        let took = woken.began.elapsed();
        self.0.metrics.resume_succeeded(took);
        let at = moment.runs_since;
        let spans = Spans::new(facts, &woken.before, at);
        let teller = self.teller(facts);
        let what = || What::SandboxResumed {
            paused_duration_ms: spans.stood_last,
            reason: moment.reason.unwrap_or(Reason::User).code().to_owned(),
            took_ns: nanos(took),
        };
        let paused = id(facts, Rank::Paused, pause.at);
        let resumed = Some(teller.tell(at, Rank::Resumed, Some(paused), what));
        if let Some(bill) = Bill::of(facts) {
            if !was_told {
                teller.tell(at, Rank::Runtime, resumed, || bill.runtime(spans));
            }
            teller.tell(at, Rank::Storage, resumed, || bill.storage(spans));
        }
    }

    /// It is being ended, by whoever made that move.
    pub(super) fn tell_ended(&self, facts: &Facts, life: &Life) {
        life.look(|moment, pause_is_told| {
            let end = moment.since;
            let spans = Spans::new(facts, moment, end);
            let bill = Bill::of(facts);
            let teller = self.teller(facts);
            let what = || What::SandboxTerminated {
                total_runtime_ms: spans.ran,
                total_paused_ms: spans.stood,
                reason: moment.reason.unwrap_or(Reason::User).code().to_owned(),
                total_cost: bill.as_ref().map(|bill| bill.total(spans)),
            };
            let ended = Some(teller.tell(end, Rank::Terminated, Some(created(facts)), what));
            let Some(bill) = bill else { return };
            if moment.paused.is_none() || !pause_is_told.load(Ordering::Relaxed) {
                teller.tell(end, Rank::LastRuntime, ended, || bill.runtime(spans));
            }
            if moment.paused.is_some() {
                teller.tell(end, Rank::LastStorage, ended, || bill.storage(spans));
            }
            teller.tell(end, Rank::Total, ended, || bill.whole(spans, end));
        });
    }

    /// What is removed is all that is known of it.
    pub(super) fn tell_lost(&self, id: SandboxId, reason: Reason) {
        self.0.events.tell(Kind::SandboxTerminated, || {
            let what = What::SandboxTerminated {
                total_runtime_ms: 0,
                total_paused_ms: 0,
                reason: reason.code().to_owned(),
                total_cost: None,
            };
            New::of(id, Tenant::default(), "", what)
        });
    }

    /// This gateway goes on with it.
    pub(super) fn tell_adopted(&self, sandbox: &Sandbox, phase: Phase) {
        let state = if phase == Phase::Paused { "paused" } else { "running" };
        self.tell_of(sandbox, What::SandboxAdopted { state: state.to_owned() });
    }

    /// Something of it was set anew.
    pub(super) fn tell_updated(
        &self,
        sandbox: &Sandbox,
        changed: &str,
        deadline: Option<DateTime<Utc>>,
    ) {
        let end_at = deadline.map(told);
        self.tell_of(sandbox, What::SandboxUpdated { changed: changed.to_owned(), end_at });
    }

    /// Something that happened to it, now.
    pub(super) fn tell_of(&self, sandbox: &Sandbox, what: What) {
        self.0.events.tell(what.kind_of(), || sandbox.event(what));
    }
}

#[cfg(test)]
#[path = "telling_tests.rs"]
mod tests;
