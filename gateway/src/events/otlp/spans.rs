//! Events as spans. Each is one, named by its type, with its data as attributes; what begins and ends
//! by an event of its own (a command, a tool) is one span of both, from the one to the other.
//!
//! A span's id comes of its event's, so that what is sent twice is the same span. Its trace is that
//! of the request that it came of, and where there is none that of its sandbox, whose id is the
//! trace's. What an event came of is its span's parent, or, in another trace, a link.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use opentelemetry_proto::tonic::trace::v1::{
    Span, Status,
    span::{Link, SpanKind},
    status::StatusCode,
};
use serde_json::{Map, Value};

use super::{attribute, figures::Nanos};
use crate::{
    events::{Event, EventId, What},
    sandbox::SandboxId,
};

/// Events that are remembered: what has begun, and of all others their trace.
const MOST: usize = 16_384;
/// What those may weigh together (bytes).
const HEAVIEST: usize = 8 << 20;

type TraceBytes = [u8; 16];
type SpanBytes = [u8; 8];

/// What is remembered of events.
#[derive(Default)]
pub(super) struct Spans {
    known: HashMap<EventId, Known>,
    /// The oldest first.
    order: VecDeque<EventId>,
    weight: usize,
}

struct Known {
    trace: TraceBytes,
    /// Of those that begin something.
    begun: Option<Arc<Event>>,
    /// By which it has ended: told again, it ends it again.
    ended_by: Option<EventId>,
}

impl Spans {
    /// The spans of these events. The same events again give the same spans again.
    pub(super) fn of(&mut self, events: &[Arc<Event>]) -> Vec<Span> {
        let mut spans = Vec::with_capacity(events.len());
        for event in events {
            self.one(event, &mut spans);
        }
        self.forget(&mut spans);
        spans
    }

    fn one(&mut self, event: &Arc<Event>, spans: &mut Vec<Span>) {
        let trace = trace_of(event);
        if begins(&event.what) {
            return self.remember(event, trace, true);
        }
        if matches!(event.what, What::SandboxTerminated { .. }) {
            self.end_with_sandbox(event, spans);
        }
        let begun = event.parent.filter(|_| ends(&event.what)).and_then(|parent| {
            let known = self.known.get_mut(&parent)?;
            let begun = known.begun.clone()?;
            let by = known.ended_by.get_or_insert(event.id);
            (*by == event.id).then_some((begun, known.trace))
        });
        let span = match begun {
            Some((begun, trace)) => self.pair(&begun, trace, event),
            None => self.single(event, trace),
        };
        spans.push(span);
        self.remember(event, trace, false);
    }

    /// Of what began and ended.
    fn pair(&self, begun: &Event, trace: TraceBytes, ended: &Event) -> Span {
        let mut data = data_of(begun);
        data.extend(data_of(ended));
        let mut span = self.span(begun, trace, data);
        span.name = ended.what.kind().to_owned();
        span.end_time_unix_nano = nanos(ended).max(span.start_time_unix_nano);
        span.status = status(&ended.what);
        span.attributes.push(attribute("coppice.event.ended_by", ended.id.to_string()));
        span
    }

    fn single(&self, event: &Event, trace: TraceBytes) -> Span {
        let data = data_of(event);
        let took = took(&event.what, &data);
        // What began before this gateway, or long ago: the span is that of its beginning still.
        let unseen = event.parent.filter(|parent| {
            ends(&event.what) && took.is_some() && !self.known.contains_key(parent)
        });
        let mut span = self.span(event, trace, data);
        if let Some(began) = unseen {
            span.span_id = span_id(began).to_vec();
            (span.parent_span_id, span.links) = (Vec::new(), Vec::new());
        }
        let took = took.unwrap_or_default().saturating_mul(1_000_000);
        span.start_time_unix_nano = span.end_time_unix_nano.saturating_sub(took);
        span.status = status(&event.what);
        span
    }

    /// Of one event, at its instant.
    fn span(&self, event: &Event, trace: TraceBytes, data: Map<String, Value>) -> Span {
        let mut attributes = vec![
            attribute("coppice.event.id", event.id.to_string()),
            attribute("coppice.sandbox.id", event.sandbox.to_string()),
            attribute("coppice.tenant", event.tenant.name()),
        ];
        if !event.template.is_empty() {
            attributes.push(attribute("coppice.template", &*event.template));
        }
        attributes.extend(data.into_iter().map(|(name, value)| attribute(&name, value)));
        let (mut parent, mut links) = (Vec::new(), Vec::new());
        if let Some(of) = event.parent {
            // Of one that is not known any more: what has no trace of its own is in its sandbox's.
            let known = self.known.get(&of).map(|known| known.trace);
            let theirs = known.unwrap_or_else(|| own_trace(event.sandbox));
            if theirs == trace {
                parent = span_id(of).to_vec();
            } else {
                links.push(Link {
                    trace_id: theirs.to_vec(),
                    span_id: span_id(of).to_vec(),
                    ..Link::default()
                });
            }
        }
        Span {
            trace_id: trace.to_vec(),
            span_id: span_id(event.id).to_vec(),
            parent_span_id: parent,
            name: event.what.kind().to_owned(),
            kind: SpanKind::Internal as i32,
            start_time_unix_nano: nanos(event),
            end_time_unix_nano: nanos(event),
            attributes,
            links,
            ..Span::default()
        }
    }

    /// What had begun in a sandbox ends with it.
    fn end_with_sandbox(&mut self, event: &Arc<Event>, spans: &mut Vec<Span>) {
        let open = self.known.values_mut().filter_map(|known| {
            let begun = known.begun.clone().filter(|begun| begun.sandbox == event.sandbox)?;
            let by = known.ended_by.get_or_insert(event.id);
            (*by == event.id).then_some((begun, known.trace))
        });
        for (begun, trace) in open.collect::<Vec<_>>() {
            let mut span = self.span(&begun, trace, data_of(&begun));
            span.end_time_unix_nano = nanos(event).max(span.start_time_unix_nano);
            span.status = failed("the sandbox ended".to_owned());
            spans.push(span);
        }
    }

    fn remember(&mut self, event: &Arc<Event>, trace: TraceBytes, begun: bool) {
        if let Some(known) = self.known.get_mut(&event.id) {
            // Told before, by what did not arrive.
            known.trace = trace;
            return;
        }
        let begun = begun.then(|| event.clone());
        self.weight += begun.as_ref().map_or(0, |begun| begun.weight());
        self.known.insert(event.id, Known { trace, begun, ended_by: None });
        self.order.push_back(event.id);
    }

    /// The oldest beyond the bounds. What has not ended by then is told as having begun, by an id of
    /// its own: its end may come yet.
    fn forget(&mut self, spans: &mut Vec<Span>) {
        while self.order.len() > MOST || self.weight > HEAVIEST {
            let Some(id) = self.order.pop_front() else { return };
            let Some(known) = self.known.remove(&id) else { continue };
            let Some(begun) = known.begun else { continue };
            self.weight = self.weight.saturating_sub(begun.weight());
            if known.ended_by.is_none() {
                let mut span = self.span(&begun, known.trace, data_of(&begun));
                span.parent_span_id = std::mem::take(&mut span.span_id);
                span.span_id = hashed(&format!("{id} began")).to_vec();
                spans.push(span);
            }
        }
    }
}

fn begins(what: &What) -> bool {
    matches!(what, What::ExecStarted { .. } | What::ToolInvoked { .. })
}

fn ends(what: &What) -> bool {
    matches!(
        what,
        What::ExecCompleted { .. }
            | What::ExecTimedOut { .. }
            | What::ExecFailed { .. }
            | What::ToolCompleted { .. }
            | What::ToolFailed { .. }
    )
}

fn status(what: &What) -> Option<Status> {
    let why = match what {
        What::ExecCompleted { exit_code: 0, .. } => return None,
        What::ExecCompleted { exit_code, .. } => format!("exit code {exit_code}"),
        What::ExecTimedOut { timeout_ms, .. } => format!("timed out after {timeout_ms} ms"),
        What::ExecFailed { error, .. } | What::ToolFailed { error, .. } => error.clone(),
        What::SandboxFailed { reason, .. } => reason.clone(),
        What::CodeExecuted { error: true, .. } => "its answer had an error".to_owned(),
        _ => return None,
    };
    failed(why)
}

fn failed(message: String) -> Option<Status> {
    Some(Status { code: StatusCode::Error as i32, message })
}

/// How long it had taken by when it was told (ms).
fn took(what: &What, data: &Map<String, Value>) -> Option<u64> {
    let field = match what {
        What::SandboxStarted { .. } => "startupDurationMs",
        What::CostRuntime { .. } | What::CostStorage { .. } => return None,
        _ => "durationMs",
    };
    data.get(field)?.as_u64()
}

fn data_of(event: &Event) -> Map<String, Value> {
    match serde_json::to_value(&event.what) {
        Ok(Value::Object(mut what)) => match what.remove("data") {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        },
        _ => Map::new(),
    }
}

fn nanos(event: &Event) -> Nanos {
    u64::try_from(event.at.timestamp_millis()).unwrap_or_default().saturating_mul(1_000_000)
}

fn trace_of(event: &Event) -> TraceBytes {
    event.trace.map_or_else(|| own_trace(event.sandbox), |trace| trace.bytes())
}

/// The trace of all that came of no request: its id is the sandbox's.
fn own_trace(sandbox: SandboxId) -> TraceBytes {
    let mut bytes = [0; 16];
    // An id is 32 hex digits, so this cannot fail.
    let _ = hex::decode_to_slice(sandbox.to_string(), &mut bytes);
    bytes
}

fn span_id(event: EventId) -> SpanBytes {
    hashed(&event.to_string())
}

/// Not 0, which is no id.
fn hashed(text: &str) -> SpanBytes {
    let hash = blake3::hash(text.as_bytes());
    let mut id = [0; 8];
    id.copy_from_slice(&hash.as_bytes()[..8]);
    if id == [0; 8] { [1; 8] } else { id }
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
