//! Somebody who watches what happens: first what is kept, from where they left off, then what comes.
//!
//! Nothing is missing and nothing comes twice where the one ends and the other begins: who watches
//! subscribes first, reads what is kept up to then, and passes over what they have read already.
//! One who is too slow for what comes goes back to what is kept, and is told what is no longer there.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use tokio::{sync::OwnedSemaphorePermit, time::sleep};

use super::{
    super::{Event, EventId, Next, Room, Subscription, Types},
    Filter, History, Line, Place, Query, Start,
};

/// Read at once of what is kept.
const PAGE: usize = 200;
/// Read on without a pause, to catch up with what comes.
const MOST_READY: usize = 4 * PAGE;
/// What may wait for one who is slow.
const ROOM: Room = Room { events: 1024, bytes: 1 << 20 };
/// Without anything else to say.
const QUIET: Duration = Duration::from_secs(15);

/// What somebody who watches sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A line as it stands in the file.
    Event(String),
    /// Some that would have come here are no longer there, nobody knows how many.
    Lost,
    /// Nothing has happened for a while.
    Quiet,
}

/// Among a tenant's own, and among all.
pub(super) type Seat = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

pub struct Watch {
    history: History,
    filter: Filter,
    types: Types,
    /// Read, and not seen yet.
    ready: VecDeque<String>,
    state: State,
    /// The last that came, wanted or not, if any did.
    last: Option<EventId>,
    _seat: Seat,
}

enum State {
    Kept(Start),
    Live {
        from: Subscription,
        /// Seen already.
        seen: HashSet<String>,
        /// Where that was, as long as nothing has come but what was seen there.
        end: Option<Place>,
    },
}

impl Watch {
    pub(super) fn new(history: History, filter: Filter, start: Option<Start>, seat: Seat) -> Self {
        let types = match &filter.kinds {
            None => Types::all(),
            // All of them are types there are; of none at all nothing comes.
            Some(kinds) => Types::of(kinds.iter().map(|kind| kind.name())).unwrap_or_default(),
        };
        let state = match start {
            Some(start) => State::Kept(start),
            // From before the first answer on.
            None => {
                State::Live { from: subscribe(&history, &types), seen: HashSet::new(), end: None }
            }
        };
        let ready = VecDeque::new();
        Self { history, filter, types, ready, state, last: None, _seat: seat }
    }

    /// `None`: there will be no more.
    pub async fn next(&mut self) -> Option<Sight> {
        let stop = self.history.0.stop.clone();
        stop.run_until_cancelled(self.sight()).await.flatten()
    }

    async fn sight(&mut self) -> Option<Sight> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Sight::Event(line));
            }
            match &mut self.state {
                State::Kept(start) => {
                    let start = start.clone();
                    if self.read(start).await {
                        return Some(Sight::Lost);
                    }
                }
                State::Live { from, seen, end } => {
                    let next = tokio::select! {
                        next = from.next() => next,
                        () = sleep(QUIET) => return Some(Sight::Quiet),
                    };
                    match next {
                        Next::Closed => return None,
                        // What it was too slow for is kept.
                        Next::Lost(_) => match (self.last, end.take()) {
                            (Some(last), _) => self.state = State::Kept(Start::After(last)),
                            (None, Some(end)) => self.state = State::Kept(Start::At(end)),
                            (None, None) => return Some(Sight::Lost),
                        },
                        Next::Event(event) => {
                            self.last = Some(event.id);
                            if !wants(&self.filter, &event) {
                                continue;
                            }
                            // What was read already is the front of what comes.
                            if !seen.is_empty() && seen.remove(&event.id.to_string()) {
                                continue;
                            }
                            seen.clear();
                            let line = String::from_utf8(event.line()).unwrap_or_default();
                            return Some(Sight::Event(line));
                        }
                    }
                }
            }
        }
    }

    /// Reads on in what is kept; whether some of it is missing.
    async fn read(&mut self, start: Start) -> bool {
        let page = self.page(start).await;
        let (gap, full) = (page.gap, page.more);
        self.ready.extend(page.lines);
        self.state = State::Kept(Start::At(page.end));
        if full {
            return gap;
        }
        let from = subscribe(&self.history, &self.types);
        let (mut seen, mut end) = (HashSet::new(), page.end);
        loop {
            let page = self.page(Start::At(end)).await;
            let ids = page.lines.iter().filter_map(|line| Line::read(line.as_bytes()));
            seen.extend(ids.map(|line| line.id.to_owned()));
            let last = !page.more;
            (end, _) = (page.end, self.ready.extend(page.lines));
            if last {
                break;
            }
            // More comes than is read: what there is goes out first, and it is tried again then.
            if self.ready.len() > MOST_READY {
                self.state = State::Kept(Start::At(end));
                return gap;
            }
        }
        (self.state, self.last) = (State::Live { from, seen, end: Some(end) }, None);
        gap
    }

    async fn page(&self, start: Start) -> super::Page {
        let query = Query { filter: self.filter.clone(), start, limit: PAGE, ..Query::default() };
        self.history.find(query).await
    }
}

fn wants(filter: &Filter, event: &Event) -> bool {
    let Filter { tenant, sandboxes, kinds, from, until } = filter;
    tenant.as_ref().is_none_or(|tenant| *tenant == event.tenant)
        && (sandboxes.is_empty() || sandboxes.contains(&event.sandbox))
        && kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.what.kind_of()))
        && from.is_none_or(|from| event.at >= from)
        && until.is_none_or(|until| event.at <= until)
}

fn subscribe(history: &History, types: &Types) -> Subscription {
    history.0.events.subscribe("watchers", types.clone(), ROOM)
}
