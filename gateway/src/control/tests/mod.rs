//! The protocol, driven through the router: every status and every shape.

mod agents;
mod contract;
mod deadlines;
mod events;
mod lists;
mod network;
mod opensandbox;
mod pages;
mod pools;
mod snapshots;
mod status;
mod templates;
mod tenants;
mod webhooks;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use contract::Document;

use crate::{
    Gateway, Parts,
    audit::Audit,
    auth::Keys,
    events::{
        store::{History, Settings},
        webhooks::{Reach, Webhooks},
    },
    logging::Log,
    sandbox::{
        Rules, Sandboxes,
        testing::{self, TestBackend},
    },
    template::Available,
};

const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";
const NOT_OURS: &str = "i0123456789abcdefghij";

struct Bed {
    gateway: Gateway,
    dir: TempDir,
    backend: Arc<TestBackend>,
    router: Router,
    document: Document,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

fn bed_with(rules: Rules) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(TestBackend::default());
    let sandboxes = testing::sandboxes(dir.path(), &backend, rules);
    bed_of(dir, backend, sandboxes, Keys::parse(KEY).unwrap())
}

fn without_keys() -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(TestBackend::default());
    let sandboxes = testing::sandboxes(dir.path(), &backend, testing::rules());
    bed_of(dir, backend, sandboxes, Keys::parse("").unwrap())
}

fn bed_of(dir: TempDir, backend: Arc<TestBackend>, sandboxes: Sandboxes, keys: Keys) -> Bed {
    let gateway = Gateway::new(Parts {
        audit: Audit::open(dir.path(), sandboxes.metrics()).unwrap(),
        history: history(dir.path(), &sandboxes),
        webhooks: Webhooks::open(dir.path(), Reach::default()).unwrap(),
        sandboxes,
        templates: Box::new(|| {
            let template = Arc::new(testing::template());
            vec![Available { template, built_at: "2026-11-22T09:00:00Z".parse().unwrap() }]
        }),
        keys,
        agents: agents::known(),
        domain: "sandboxes.test".into(),
        max_timeout: Some(Duration::from_secs(24 * 3600)),
        disk_bytes: 5 << 30,
        log: Log::unheard(),
    });
    let router = crate::router(gateway.clone());
    Bed { gateway, dir, backend, router, document: Document::default() }
}

fn history(dir: &Path, sandboxes: &Sandboxes) -> History {
    History::open(&Settings::of(dir), sandboxes.events(), CancellationToken::new()).unwrap()
}

fn bed() -> Bed {
    bed_with(testing::rules())
}

impl Bed {
    /// Whatever is answered has to be in the document.
    async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = self.answer(request).await;
        self.document.look_up(self, &method, &path, answer.status).await;
        answer
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let kind = parts.headers.get("content-type").map(|it| it.as_bytes());
        if kind == Some(b"text/event-stream") {
            // It does not end.
            return Answer { status: parts.status, headers: parts.headers, body: Value::Null };
        }
        let bytes = body.collect().await.unwrap().to_bytes();
        let text =
            parts.headers.get("content-type").is_some_and(|it| it.as_bytes().starts_with(b"text/"));
        let body = match bytes.is_empty() {
            true => Value::Null,
            false if text => std::str::from_utf8(&bytes).unwrap().into(),
            false => serde_json::from_slice(&bytes).unwrap(),
        };
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        if answer.status.as_u16() >= 400 {
            assert_eq!(answer.body["code"], answer.status.as_u16(), "{}", answer.body);
            assert!(answer.body["message"].is_string(), "{}", answer.body);
        }
        let later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        assert_eq!(answer.headers.contains_key("retry-after"), later.contains(&answer.status));
        answer
    }

    async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(path).header("X-API-KEY", KEY);
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Body::empty()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, body.to_string()).await
    }

    /// The id of a new sandbox.
    async fn create(&self, body: Value) -> String {
        let answer = self.post("/v2/sandboxes", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body["sandboxID"].as_str().unwrap().to_owned()
    }

    async fn seconds_left(&self, id: &str) -> i64 {
        let info = self.get(&format!("/sandboxes/{id}")).await.body;
        let end: chrono::DateTime<chrono::Utc> = info["endAt"].as_str().unwrap().parse().unwrap();
        (end - chrono::Utc::now()).num_seconds() + 1
    }

    fn made(&self) -> usize {
        self.backend.specs.lock().len()
    }
}

fn base() -> Value {
    json!({"templateID": "base"})
}

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().unwrap()
}

#[tokio::test]
async fn a_created_sandbox_has_all_fields_that_clients_read() {
    let bed = bed();
    let body = json!({
        "templateID": "base", "metadata": {"a": "b"}, "envVars": {"X": "1"},
        "allow_internet_access": false, "timeout": 60
    });
    let created = bed.post("/v2/sandboxes", body).await;
    assert_eq!(created.status, StatusCode::CREATED);
    let id = created.body["sandboxID"].as_str().unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(created.body["templateID"], "base");
    assert_eq!(created.body["alias"], "base");
    assert!(created.body["clientID"].is_string());
    assert_eq!(created.body["envdVersion"], envd::wire::ENVD_VERSION);
    assert_eq!(created.body["domain"], "sandboxes.test");
    assert_eq!(created.body["envdAccessToken"].as_str().unwrap().len(), 64);

    let info = bed.get(&format!("/sandboxes/{id}")).await;
    assert_eq!(info.status, StatusCode::OK);
    for (field, value) in [
        ("sandboxID", json!(id)),
        ("templateID", json!("base")),
        ("cpuCount", json!(2)),
        ("memoryMB", json!(1024)),
        ("diskSizeMB", json!(5120)),
        ("state", json!("running")),
        ("metadata", json!({"a": "b"})),
        ("allowInternetAccess", json!(false)),
        ("lifecycle", json!({"autoResume": false, "onTimeout": "kill"})),
        ("envdAccessToken", created.body["envdAccessToken"].clone()),
        ("domain", json!("sandboxes.test")),
    ] {
        assert_eq!(info.body[field], value, "{field}");
    }
    for field in ["startedAt", "endAt"] {
        let time = info.body[field].as_str().unwrap();
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
    }
    assert!((59..=61).contains(&bed.seconds_left(id).await));
    let listed = &bed.get("/v2/sandboxes").await.body[0];
    for field in ["clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB", "state"] {
        assert_eq!(listed[field], info.body[field], "{field}");
    }
    assert!(listed.get("envdAccessToken").is_none());
}

#[tokio::test]
async fn each_generation_of_create_has_its_own_default_timeout() {
    let bed = bed();
    let old = bed.post("/sandboxes", base()).await;
    assert_eq!(old.status, StatusCode::CREATED);
    let old = old.body["sandboxID"].as_str().unwrap();
    assert!((14..=16).contains(&bed.seconds_left(old).await));
    let new = bed.create(base()).await;
    assert!((299..=301).contains(&bed.seconds_left(&new).await));
}

#[tokio::test]
async fn what_sdks_send_by_default_passes() {
    let bed = bed_with(Rules { max_sandboxes: 100, ..testing::rules() });
    for more in [
        json!({"metadata": {}, "envVars": {}}),
        json!({"metadata": null, "envVars": null, "timeout": null}),
        json!({"timeout": 300, "secure": true, "allow_internet_access": true}),
        json!({"secure": false, "autoPause": false, "autoPauseMemory": true}),
        json!({"autoResume": {"enabled": false}, "autoResume2": null}),
        json!({"network": null, "volumeMounts": [], "iam": {"tokens": {}}, "mcp": null}),
        json!({"network": {"allowOut": [], "denyOut": null, "allowPublicTraffic": true, "rules": {}}}),
        json!({"network": {"allowPublicTraffic": null, "maskRequestHost": ""}}),
        json!({"templateID": " Base:default "}),
        json!({"timeout": 60.0}),
    ] {
        let mut body = base();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bed.create(body).await;
    }
}

#[tokio::test]
async fn a_create_that_cannot_be_honoured_is_refused_by_name_and_makes_nothing() {
    let bed = bed();
    for (more, expected) in [
        (json!({"autoPauseMemory": false}), "autoPauseMemory"),
        (json!({"autoPause": "yes"}), "invalid body"),
        (json!({"autoResume": true}), "invalid body"),
        (json!({"volumeMounts": [{"name": "v", "path": "/v"}]}), "volumeMounts"),
        (json!({"iam": {"tokens": {"a": {}}}}), "iam"),
        (json!({"mcp": {"x": {}}}), "mcp"),
        (json!({"fieldOfTheFuture": 5}), "fieldOfTheFuture"),
        (json!({"timeout": 0}), "Timeout must be greater than 0"),
        (json!({"timeout": -5}), "Timeout must be greater than 0"),
        (json!({"timeout": 86401}), "Timeout cannot be greater than 24 hours"),
        (json!({"timeout": 1e15 as i64}), "Timeout cannot be greater than 24 hours"),
        (json!({"timeout": 1.5}), "invalid body"),
        (json!({"timeout": "60"}), "invalid body"),
        (json!({"timeout": 1e300}), "invalid body"),
        (json!({"secure": "yes"}), "invalid body"),
        (json!({"metadata": {"a": 1}}), "invalid body"),
        (json!({"metadata": ["a"]}), "invalid body"),
        (json!({"envVars": {"A=B": "c"}}), "envVars"),
        (json!({"envVars": {"": "c"}}), "envVars"),
        (json!({"envVars": {"A": "\u{0}"}}), "envVars"),
        (json!({"templateID": null}), "invalid body"),
        (json!({"templateID": 5}), "invalid body"),
        (json!({"templateID": ""}), "templateID"),
        (json!({"templateID": "../etc"}), "templateID"),
        (json!({"templateID": "a b"}), "templateID"),
    ] {
        let mut body = base();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        for path in ["/sandboxes", "/v2/sandboxes"] {
            let answer = bed.post(path, body.clone()).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
            assert!(message(&answer).contains(expected), "{body}: {}", answer.body);
        }
    }
    for malformed in
        ["{", "[]", "[\"base\", 15]", "null", "\"base\"", "", "  ", "{\"templateID\":\"base\"}x"]
    {
        let answer = bed.call(Method::POST, "/v2/sandboxes", malformed).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{malformed}");
    }
    assert_eq!(bed.made(), 0);
}

#[tokio::test]
async fn templates_that_are_not_there_are_named() {
    let bed = bed();
    for (template, status, expected) in [
        ("nosuch", 404, "template 'nosuch' not found"),
        ("team/base", 404, "template 'team/base' not found"),
        ("base:v2", 404, "tag 'v2' does not exist for template 'base'"),
        ("building", 503, "template 'building' is being built: unpacking, 40 %"),
        ("broken", 503, "template 'broken' could not be built"),
    ] {
        let answer = bed.post("/v2/sandboxes", json!({"templateID": template})).await;
        assert_eq!(answer.status.as_u16(), status, "{template}");
        assert!(message(&answer).contains(expected), "{}", answer.body);
        let lasting = answer.headers.get("should-retry").is_some_and(|value| value == "false");
        assert_eq!(lasting, template == "broken");
    }
    assert_eq!(bed.made(), 0);
}

#[tokio::test]
async fn a_full_gateway_says_so_and_when_to_come_again() {
    let bed = bed_with(Rules { max_sandboxes: 1, ..testing::rules() });
    let id = bed.create(base()).await;
    let answer = bed.post("/v2/sandboxes", base()).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.body["error_code"], "sandbox_capacity_unavailable");
    bed.call(Method::DELETE, &format!("/sandboxes/{id}"), Body::empty()).await;
    bed.create(base()).await;
}

#[tokio::test]
async fn what_failed_inside_is_not_told() {
    let bed = bed();
    bed.backend.failing_creates.store(1, Ordering::SeqCst);
    let answer = bed.post("/v2/sandboxes", base()).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!answer.body.to_string().contains("secret"));
}

#[tokio::test]
async fn the_same_idempotency_key_gives_the_same_sandbox() {
    let bed = bed();
    let create = async |key: &str, body: Value| {
        let request = Request::post("/v2/sandboxes")
            .header("authorization", format!("Bearer {KEY}"))
            .header("Idempotency-Key", key)
            .body(Body::from(body.to_string()));
        bed.send(request.unwrap()).await
    };
    let first = create("k", base()).await;
    let second = create("k", base()).await;
    assert_eq!(second.status, StatusCode::CREATED);
    assert_eq!(first.body, second.body);
    let other = create("k", json!({"templateID": "base", "timeout": 5})).await;
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_ne!(create("l", base()).await.body, first.body);
    assert_eq!(create(&"x".repeat(256), base()).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(bed.made(), 2);
}

#[tokio::test]
async fn a_killed_sandbox_is_gone_for_every_call() {
    let bed = bed();
    let id = bed.create(base()).await;
    let path = format!("/sandboxes/{id}");
    let killed = bed.call(Method::DELETE, &path, Body::empty()).await;
    assert_eq!((killed.status, killed.body), (StatusCode::NO_CONTENT, Value::Null));
    assert!(bed.backend.cells.lock().is_empty());
    for id in [&id, NOT_OURS, &format!("{id}-6532622b")] {
        for (method, path, body) in [
            (Method::DELETE, format!("/sandboxes/{id}"), ""),
            (Method::GET, format!("/sandboxes/{id}"), ""),
            (Method::POST, format!("/sandboxes/{id}/timeout"), "{\"timeout\":5}"),
            (Method::POST, format!("/sandboxes/{id}/refreshes"), ""),
            (Method::POST, format!("/sandboxes/{id}/connect"), "{\"timeout\":5}"),
            (Method::POST, format!("/v2/sandboxes/{id}/connect"), "{}"),
        ] {
            let answer = bed.call(method, &path, body).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
            let bare = id.split('-').next().unwrap();
            let expected =
                format!("Sandbox \"{bare}\" doesn't exist or you don't have access to it");
            assert_eq!(message(&answer), expected);
        }
    }
}

#[tokio::test]
async fn ids_no_sandbox_could_have_are_refused() {
    let bed = bed();
    for id in ["ABC", "a_b", "a-", "-a", "a-b-c", "a%2Fb", "%ff", "a.b", "%00"] {
        let answer = bed.get(&format!("/sandboxes/{id}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{id}");
        assert_eq!(message(&answer), "Invalid sandbox ID");
    }
}

#[tokio::test]
async fn a_client_id_behind_the_id_is_dropped() {
    let bed = bed();
    let id = bed.create(base()).await;
    assert_eq!(bed.get(&format!("/sandboxes/{id}-6532622b")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn without_a_key_nothing_is_done() {
    let bed = bed();
    for (name, key, expected) in [
        ("x-other", "", "authorization header is missing"),
        ("x-api-key", "", "authorization header is missing"),
        ("x-api-key", "e2b_00", "invalid API key"),
        ("authorization", "Bearer e2b_00", "invalid API key"),
    ] {
        for (method, path) in [
            (Method::POST, "/v2/sandboxes"),
            (Method::GET, "/sandboxes/..."),
            (Method::GET, "/templates"),
            (Method::GET, "/volumes"),
        ] {
            let request = Request::builder().method(method).uri(path).header(name, key);
            let answer = bed.send(request.body(Body::from(base().to_string())).unwrap()).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
            assert_eq!(message(&answer), expected);
        }
    }
    assert_eq!(bed.made(), 0);
    let health = bed.send(Request::get("/health").body(Body::empty()).unwrap()).await;
    assert_eq!((health.status, health.body), (StatusCode::OK, json!({"status": "healthy"})));
}

#[tokio::test]
async fn large_bodies_are_refused_with_and_without_a_length() {
    let bed = bed();
    let large = format!("{{\"templateID\":\"base\",\"x\":\"{}\"}}", "a".repeat(super::MAX_BODY));
    let answer = bed.call(Method::POST, "/v2/sandboxes", large.clone()).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(large)]);
    let answer = bed.call(Method::POST, "/v2/sandboxes", Body::from_stream(chunks)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(bed.made(), 0);
}

#[tokio::test]
async fn unknown_routes_and_methods_are_answered_in_json() {
    let bed = bed();
    for path in
        ["/", "/nosuch", "/sandboxes/", "/v2/sandboxes/", "/v9/sandboxes", "/sandboxes/a/b/c"]
    {
        assert_eq!(bed.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    for (method, path) in [
        (Method::PUT, "/sandboxes"),
        (Method::DELETE, "/v2/sandboxes"),
        (Method::PATCH, "/sandboxes/abc"),
        (Method::GET, "/sandboxes/abc/timeout"),
        (Method::POST, "/health"),
    ] {
        let answer = bed.call(method, path, Body::empty()).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

#[tokio::test]
async fn what_comes_later_says_so_by_name() {
    let bed = bed();
    for (method, path, what) in [
        (Method::POST, "/v3/templates", "templates"),
        (Method::PATCH, "/v2/templates/team%2Fname%3Av1", "templates"),
        (Method::POST, "/v2/templates/a/builds/b", "templates"),
        (Method::GET, "/volumes", "volumes"),
        (Method::PUT, "/volumecontent/a/file?path=/x", "volumes"),
        (Method::GET, "/secrets", "secrets"),
        (Method::GET, "/teams", "teams"),
    ] {
        let answer = bed.call(method, path, Body::empty()).await;
        assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED, "{path}");
        assert!(message(&answer).contains(what), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn what_is_paused_is_told_so_and_goes_on_when_connected_to() {
    let bed = bed();
    let wanted = json!({"templateID": "base", "autoPause": true, "autoResume": {"enabled": true}});
    let id = bed.create(wanted).await;
    let at = |what: &str| format!("/sandboxes/{id}{what}");
    let before = bed.get(&at("")).await.body;
    assert_eq!(before["lifecycle"], json!({"autoResume": true, "onTimeout": "pause"}));
    let paused = bed.call(Method::POST, &at("/pause"), Body::empty()).await;
    assert_eq!(paused.status, StatusCode::NO_CONTENT);
    let info = bed.get(&at("")).await.body;
    assert_eq!((&info["state"], &info["startedAt"]), (&json!("paused"), &before["startedAt"]));
    let paused_for = -bed.seconds_left(&id).await;
    assert!((-1..=2).contains(&paused_for), "{paused_for}");
    for (query, there) in [("", 1), ("?state=paused", 1), ("?state=running", 0)] {
        let listed = bed.get(&format!("/v2/sandboxes{query}")).await;
        assert_eq!(listed.body.as_array().unwrap().len(), there, "{query}");
        let running = listed.headers.get("x-total-running").map(|count| count.to_str().unwrap());
        assert_eq!(running, (query != "?state=paused").then_some("0"), "{query}");
    }
    assert_eq!(bed.get("/sandboxes").await.body, json!([]));
    assert_eq!(info["domain"], Value::Null);
    let again = bed.post(&at("/pause"), json!({})).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    assert_eq!(message(&again), format!("Sandbox {id} is already paused"));
    for path in ["/timeout", "/refreshes"] {
        let absent = bed.post(&at(path), json!({"timeout": 9})).await;
        assert_eq!(absent.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!((&info["pauseMode"], before.get("pauseMode")), (&json!("full"), None));

    let resumed = bed.post(&at("/connect"), json!({"timeout": 60})).await;
    assert_eq!(resumed.status, StatusCode::CREATED);
    assert_eq!(resumed.body["envdAccessToken"], before["envdAccessToken"]);
    assert!((59..=61).contains(&bed.seconds_left(&id).await));
    let again = bed.post(&at("/connect"), json!({"timeout": 60})).await;
    assert_eq!(again.status, StatusCode::OK);
    bed.post(&at("/pause"), json!({"memory": true})).await;
    let resumed = bed.call(Method::POST, &at("/resume"), Body::empty()).await;
    assert_eq!(resumed.status, StatusCode::CREATED);
    assert!((14..=16).contains(&bed.seconds_left(&id).await));

    let healthy = json!({"requireHealthyGuest": true, "memory": false});
    let paused = bed.post(&at("/pause"), healthy).await;
    assert_eq!(paused.status, StatusCode::NO_CONTENT);
    assert_eq!(bed.get(&at("")).await.body["pauseMode"], "filesystem");
    let booted = bed.post(&at("/connect"), json!({"timeout": 60})).await;
    assert_eq!(booted.status, StatusCode::CREATED);
    assert_eq!(booted.body["envdAccessToken"], before["envdAccessToken"]);
}

#[tokio::test]
async fn what_runs_cannot_be_resumed() {
    let bed = bed();
    let id = bed.create(base()).await;
    let answer = bed.post(&format!("/sandboxes/{id}/resume"), json!({"timeout": 15})).await;
    assert_eq!(answer.status, StatusCode::CONFLICT);
    assert_eq!(message(&answer), format!("Sandbox {id} is already running"));
    let gone = bed.post(&format!("/sandboxes/{NOT_OURS}/resume"), json!({})).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
}
