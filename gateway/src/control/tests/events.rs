//! What happened, as it is told; and what agents tell.

use std::time::Instant;

use super::{tenants::bed_of_tenants, *};
use crate::events::{New, What};
use crate::sandbox::SandboxId;

fn emit(bed: &Bed, id: &str, what: What) -> String {
    let new = New::of(id.parse().unwrap(), "default".parse().unwrap(), "base", what);
    bed.gateway.sandboxes().events().emit(new).to_string()
}

fn completed(exit_code: i32) -> What {
    What::ExecCompleted {
        command: Some("npm test".into()),
        exit_code,
        duration_ms: 4521,
        stdout: None,
        stderr: None,
        pid: None,
    }
}

fn invoked() -> Value {
    let data = json!({"toolName": "search", "toolArgs": {"q": ["x", 1]}, "agentId": "a1"});
    json!({"type": "tool.invoked", "data": data})
}

impl Bed {
    async fn events(&self, path: &str) -> Vec<Value> {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {}", answer.body);
        answer.body.as_array().unwrap().clone()
    }
}

/// As often as it may be, and once more.
async fn too_often(bed: &Bed, id: &str) {
    let path = format!("/sandboxes/{id}/events");
    for _ in 0..100 {
        let rates = bed.gateway.history().rates();
        while rates.take(id.parse().unwrap(), Instant::now()).is_ok() {}
        // A busy machine may take until there is room for another.
        let answer = bed.post(&path, invoked()).await;
        if answer.status != StatusCode::CREATED {
            assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
            return;
        }
    }
    panic!("there is no bound");
}

/// Those of the document that nothing else here comes to.
pub(super) async fn every_status(bed: &Bed) {
    let id = bed.create(base()).await;
    let path = format!("/sandboxes/{id}/events");
    bed.post(&path, invoked()).await;
    too_often(bed, &id).await;
    bed.get("/events/sandboxes/watch").await;
    bed.get("/events/sandboxes/watch?after=x").await;
    let watch = || bed.gateway.history().watch(Default::default(), None);
    let all: Vec<_> = std::iter::from_fn(watch).collect();
    assert!(!all.is_empty());
    bed.get("/events/sandboxes/watch").await;
}

#[tokio::test]
async fn events_are_told_in_e2bs_shape_with_paging_order_and_types() {
    let bed = bed();
    let id = SandboxId::random().to_string();
    let ids: Vec<_> = (0..30).map(|n| emit(&bed, &id, completed(n))).collect();
    let killed = What::SandboxTerminated {
        total_runtime_ms: 1500,
        total_paused_ms: 0,
        reason: "user".into(),
        total_cost: None,
    };
    emit(&bed, &id, killed);
    let all = bed.events("/events/sandboxes").await;
    assert_eq!(all.len(), 10);
    assert_eq!(all[0]["type"], "sandbox.lifecycle.killed");
    assert_eq!(all[0]["eventData"]["execution"]["execution_time"], 1500);
    let path = format!("/events/sandboxes/{id}?types=exec.*&limit=2&offset=3");
    let newest = bed.events(&path).await;
    assert_eq!(newest.len(), 2);
    let expected = json!({
        "version": "v2",
        "id": ids[26],
        "type": "exec.completed",
        "timestamp": newest[0]["timestamp"],
        "eventData": {"command": "npm test", "exitCode": 26, "durationMs": 4521},
        "sandboxId": id,
        "sandboxExecutionId": id,
        "sandboxTemplateId": "base",
        "sandboxBuildId": "base",
        "sandboxTeamId": "default",
    });
    assert_eq!(newest[0], expected);
    let oldest = bed.events(&format!("{path}&orderAsc=true")).await;
    assert_eq!(
        (&oldest[0]["id"], &oldest[1]["id"]),
        (&ids[3].as_str().into(), &ids[4].as_str().into())
    );
    let behind = format!("/events/sandboxes?orderAsc=true&limit=1000&after={}", ids[27]);
    assert_eq!(bed.events(&behind).await.len(), 3);
    for (types, count) in [
        ("types=sandbox.lifecycle.killed", 1),
        ("types=sandbox.terminated", 1),
        ("types=exec.started&types=sandbox.lifecycle.*", 1),
        ("types=*.completed,sandbox.*", 31),
        ("types=no.such", 0),
        ("types=", 0),
        (&format!("sandboxId={id}"), 31),
        (&format!("sandboxId={}", SandboxId::random()), 0),
        ("sandboxId=none", 0),
        ("end=0", 0),
        ("start=0&end=9007199254740991", 31),
    ] {
        let found = bed.events(&format!("/events/sandboxes?limit=100&{types}")).await;
        assert_eq!(found.len(), count, "{types}");
    }
    for wrong in ["limit=0", "limit=1001", "offset=100001", "offset=-1", "orderAsc=yes", "after=x"]
    {
        let answer = bed.get(&format!("/events/sandboxes?{wrong}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn one_that_never_was_is_not_there_and_neither_is_another_tenants() {
    let bed = bed_of_tenants("", testing::rules());
    let made = bed.by("a", Method::POST, "/v2/sandboxes", base()).await;
    let id = made.body["sandboxID"].as_str().unwrap();
    let told = bed.by("a", Method::POST, &format!("/sandboxes/{id}/events"), invoked()).await;
    assert_eq!(told.status, StatusCode::CREATED, "{}", told.body);
    let status = async |key: &str, path: &str| {
        let answer = bed.by(key, Method::GET, path, json!({})).await;
        (answer.status, answer.body.as_array().map(Vec::len))
    };
    let path = format!("/events/sandboxes/{id}?types=tool.*");
    assert_eq!(status("a", &path).await, (StatusCode::OK, Some(1)));
    assert_eq!(status("b", &path).await, (StatusCode::NOT_FOUND, None));
    let all = "/events/sandboxes?types=tool.*";
    assert_eq!(status("a", all).await, (StatusCode::OK, Some(1)));
    assert_eq!(status("b", all).await, (StatusCode::OK, Some(0)));
    let narrow = format!("{all}&sandboxId={id}");
    assert_eq!(status("b", &narrow).await, (StatusCode::OK, Some(0)));
    let never = format!("/events/sandboxes/{}", SandboxId::random());
    assert_eq!(status("a", &never).await, (StatusCode::NOT_FOUND, None));
    let foreign = bed.by("b", Method::POST, &format!("/sandboxes/{id}/events"), invoked()).await;
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn agents_tell_what_they_do_within_bounds() {
    let bed = bed();
    let id = bed.create(base()).await;
    let path = format!("/sandboxes/{id}/events");
    let first = bed.post(&path, invoked()).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.body);
    let parent = first.body["id"].as_str().unwrap();
    let data = json!({"toolName": "search", "result": [1], "durationMs": 7});
    let done = json!({"type": "tool.completed", "data": data, "parentId": parent});
    assert_eq!(bed.post(&path, done).await.status, StatusCode::CREATED);
    let failed = json!({"type": "tool.failed", "data": {"toolName": "x", "error": "no"}});
    assert_eq!(bed.post(&path, failed).await.status, StatusCode::CREATED);
    let told = bed.events(&format!("/events/sandboxes/{id}?types=tool.*&orderAsc=true")).await;
    let of = |n: usize| (told[n]["type"].as_str().unwrap(), &told[n]["eventData"]["toolName"]);
    assert_eq!(of(0), ("tool.invoked", &"search".into()));
    assert_eq!(of(1), ("tool.completed", &"search".into()));
    assert_eq!(of(2), ("tool.failed", &"x".into()));
    assert_eq!(told[1]["parentId"], parent);
    assert_eq!(told[0]["eventData"]["toolArgs"], json!({"q": ["x", 1]}));
    let large = "x".repeat(17 << 10);
    for wrong in [
        json!({}),
        json!({"type": "exec.completed", "data": {"exitCode": 0}}),
        json!({"type": "tool.invoked"}),
        json!({"type": "tool.invoked", "data": {}}),
        json!({"type": "tool.invoked", "data": {"toolName": ""}}),
        json!({"type": "tool.invoked", "data": {"toolName": "x".repeat(257)}}),
        json!({"type": "tool.invoked", "data": {"toolName": "x", "toolArgs": large}}),
        json!({"type": "tool.invoked", "data": {"toolName": "x", "other": 1}}),
        json!({"type": "tool.invoked", "data": {"toolName": "x"}, "timestamp": 1}),
        json!({"type": "tool.completed", "data": {"toolName": "x", "durationMs": -1}}),
        json!({"type": "tool.failed", "data": {"toolName": "x", "error": large}}),
        json!({"type": "tool.failed", "data": {"toolName": "x", "error": "e"}, "parentId": "x"}),
    ] {
        let answer = bed.post(&path, wrong.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    too_often(&bed, &id).await;
    bed.call(Method::DELETE, &format!("/sandboxes/{id}"), Body::empty()).await;
    assert_eq!(bed.post(&path, invoked()).await.status, StatusCode::NOT_FOUND);
    // It can be asked what happened to it.
    assert_eq!(bed.events(&format!("/events/sandboxes/{id}?types=tool.*&limit=3")).await.len(), 3);
}

#[tokio::test]
async fn who_watches_is_told_what_happens_from_where_they_left_off() {
    let bed = bed();
    let id = SandboxId::random().to_string();
    let ids: Vec<_> = (0..5).map(|n| emit(&bed, &id, completed(n))).collect();
    let request = Request::get("/events/sandboxes/watch?types=exec.*")
        .header("x-api-key", KEY)
        .header("last-event-id", &ids[2]);
    let request = request.body(Body::empty()).unwrap();
    let answer = bed.router.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    emit(&bed, &id, completed(5));
    let mut text = String::new();
    while text.matches("\ndata: ").count() < 3 {
        let frame = body.frame().await.unwrap().unwrap();
        text += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    assert!(text.starts_with("retry: "), "{text}");
    let parts: Vec<_> = text.split("\n\n").filter(|part| part.starts_with("id: ")).collect();
    for (part, n) in parts.iter().zip(3..) {
        let (id, data) = part.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(id, format!("id: {}", data["id"].as_str().unwrap()));
        assert_eq!(data["eventData"]["exitCode"], n);
    }
    assert_eq!(parts.len(), 3);
}
