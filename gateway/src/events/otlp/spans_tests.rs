//! What becomes of events, by hand.

use opentelemetry_proto::tonic::common::v1::any_value::Value as Told;

use super::*;
use crate::events::{Events, New, Room, TraceId, Types};

struct Bed {
    events: Events,
    subscription: crate::events::Subscription,
    sandbox: SandboxId,
}

fn bed() -> Bed {
    let events = Events::default();
    let subscription = events.subscribe("test", Types::all(), Room::default());
    Bed { events, subscription, sandbox: SandboxId::random() }
}

impl Bed {
    /// At so many milliseconds.
    fn happened(&self, at: i64, what: What) -> New {
        let at = chrono::DateTime::from_timestamp_millis(1_700_000_000_000 + at).unwrap();
        New::of(self.sandbox, crate::sandbox::Tenant::default(), "base", what).at(at)
    }

    fn tell(&self, new: New) -> EventId {
        self.events.emit(new)
    }

    async fn heard(&mut self) -> Vec<Arc<Event>> {
        self.subscription.batch(1000, std::time::Duration::ZERO).await.events
    }
}

/// With what need not be there left out.
fn what(kind: &str, data: serde_json::Value) -> What {
    serde_json::from_value(serde_json::json!({"type": kind, "data": data})).unwrap()
}

fn started(command: &str) -> What {
    what("exec.started", serde_json::json!({"command": command, "cwd": "/home"}))
}

fn completed(exit_code: i32, duration_ms: u64) -> What {
    let data = serde_json::json!({"exitCode": exit_code, "durationMs": duration_ms, "stdout": "o"});
    what("exec.completed", data)
}

fn adopted(state: &str) -> What {
    what("sandbox.adopted", serde_json::json!({"state": state}))
}

fn told<'a>(span: &'a Span, name: &str) -> &'a Told {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    let value = found.unwrap_or_else(|| panic!("no {name} in {span:?}"));
    value.value.as_ref().unwrap().value.as_ref().unwrap()
}

#[tokio::test]
async fn a_beginning_and_its_end_are_one_span_whose_parent_is_what_they_came_of() {
    let mut bed = bed();
    let first = bed
        .tell(bed.happened(0, what("port.exposed", serde_json::json!({"port": 80, "url": "u"}))));
    let begun = bed.tell(bed.happened(10, started("npm test")).parent(first));
    let mut spans = Spans::default();
    let of_beginning = spans.of(&bed.heard().await);
    assert_eq!(of_beginning.len(), 1, "what has begun is told with its end");
    bed.tell(bed.happened(260, completed(3, 249)).parent(begun));
    let ended = bed.heard().await;
    let all = spans.of(&ended);
    let [span] = &all[..] else { panic!("{all:?}") };
    assert_eq!(span.name, "exec.completed");
    assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 250_000_000);
    assert_eq!(
        (span.span_id.as_slice(), span.parent_span_id.as_slice()),
        (&span_id(begun)[..], &span_id(first)[..])
    );
    assert_eq!(hex::encode(&span.trace_id), bed.sandbox.to_string());
    assert_eq!(told(span, "command"), &Told::StringValue("npm test".into()));
    assert_eq!(told(span, "exitCode"), &Told::IntValue(3));
    assert_eq!(told(span, "coppice.event.id"), &Told::StringValue(begun.to_string()));
    let status = span.status.as_ref().unwrap();
    assert_eq!((status.code, &*status.message), (StatusCode::Error as i32, "exit code 3"));
    // Sent again, since it did not arrive: the same.
    assert_eq!(spans.of(&ended), all);
}

#[tokio::test]
async fn an_end_whose_beginning_is_not_known_any_more_is_the_same_span_by_its_duration() {
    let mut bed = bed();
    let begun = bed.tell(bed.happened(0, started("true")));
    bed.heard().await;
    bed.tell(bed.happened(260, completed(0, 250)).parent(begun));
    // Another gateway's.
    let all = Spans::default().of(&bed.heard().await);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].span_id, span_id(begun));
    assert_eq!(all[0].end_time_unix_nano - all[0].start_time_unix_nano, 250_000_000);
    assert_eq!((&all[0].status, all[0].parent_span_id.len()), (&None, 0));
}

#[tokio::test]
async fn what_came_of_a_request_is_in_its_trace_and_linked_to_the_sandboxs() {
    let mut bed = bed();
    let trace: TraceId = "0af7651916cd43dd8448eb211c80319c".parse().unwrap();
    let first = bed.tell(bed.happened(0, adopted("running")));
    let begun = bed.tell(bed.happened(1, started("true")).parent(first).trace(trace));
    bed.tell(bed.happened(2, completed(0, 1)).parent(begun).trace(trace));
    let all = Spans::default().of(&bed.heard().await);
    let span = all.last().unwrap();
    assert_eq!((span.trace_id.as_slice(), span.parent_span_id.len()), (&trace.bytes()[..], 0));
    assert_eq!(hex::encode(&span.links[0].trace_id), bed.sandbox.to_string());
    assert_eq!(span.links[0].span_id, span_id(first));
}

#[tokio::test]
async fn what_had_begun_ends_with_its_sandbox_and_is_told_once() {
    let mut bed = bed();
    bed.tell(bed.happened(0, started("sleep inf")));
    bed.tell(bed.happened(5, adopted("paused")));
    let data = serde_json::json!({"totalRuntimeMs": 9, "totalPausedMs": 0, "reason": "user"});
    bed.tell(bed.happened(9, what("sandbox.terminated", data)));
    let mut spans = Spans::default();
    let all = spans.of(&bed.heard().await);
    let names: Vec<&str> = all.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["sandbox.adopted", "exec.started", "sandbox.terminated"]);
    assert_eq!(all[1].end_time_unix_nano - all[1].start_time_unix_nano, 9_000_000);
    assert_eq!(all[1].status.as_ref().unwrap().code, StatusCode::Error as i32);
}

#[tokio::test]
async fn what_is_remembered_is_bounded_and_what_is_forgotten_is_told() {
    let mut bed = bed();
    let mut spans = Spans::default();
    let mut told = Vec::new();
    let long = "x".repeat(4000);
    for n in 0..3000 {
        bed.tell(bed.happened(n, started(&long)));
        told.extend(spans.of(&bed.heard().await));
    }
    assert!(spans.weight <= HEAVIEST && spans.order.len() <= MOST);
    assert_eq!(told.len() + spans.order.len(), 3000);
    assert!(told.iter().all(|span| span.name == "exec.started" && span.parent_span_id.len() == 8));
}

#[tokio::test]
async fn one_of_each_type_is_a_span_by_its_name_and_no_id_comes_twice() {
    let mut bed = bed();
    for (n, what) in crate::events::event::tests::each().into_iter().enumerate() {
        bed.tell(bed.happened(n as i64, what));
    }
    let heard = bed.heard().await;
    let all = Spans::default().of(&heard);
    let begun = heard.iter().filter(|event| begins(&event.what)).count();
    assert!(all.len() >= heard.len() - begun, "{}", all.len());
    let ids: std::collections::HashSet<_> = all.iter().map(|span| span.span_id.clone()).collect();
    assert_eq!(ids.len(), all.len());
    for span in &all {
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
        assert_ne!(span.span_id, [0; 8]);
    }
}
