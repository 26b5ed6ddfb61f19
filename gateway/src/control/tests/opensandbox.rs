//! What OpenSandbox's clients ask.

use bytes::Bytes;
use http_body_util::BodyExt;

use super::*;

/// A stream of events, as it comes.
struct Events(Body);

impl Bed {
    async fn watch(&self, id: &str, query: &str) -> Events {
        let path = format!("/sandboxes/{id}/metrics/watch{query}");
        let request = Request::get(path).header("X-API-KEY", KEY).body(Body::empty()).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Events(answer.into_body())
    }

    async fn looked_at(&self) {
        // Closer looks are not told.
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert!(self.gateway.sandboxes().sample_if_older(Duration::ZERO).await);
    }

    async fn patch(&self, id: &str, body: Value) -> Answer {
        let path = format!("/v1/sandboxes/{id}/metadata");
        self.call(Method::PATCH, &path, body.to_string()).await
    }
}

impl Events {
    /// `None` at the end.
    async fn next(&mut self) -> Option<String> {
        let frame = tokio::time::timeout(Duration::from_secs(5), self.0.frame()).await.unwrap()?;
        let data: Bytes = frame.unwrap().into_data().unwrap();
        Some(String::from_utf8(data.to_vec()).unwrap())
    }
}

fn data(event: &str) -> Value {
    let line = event.lines().find_map(|line| line.strip_prefix("data: ")).expect(event);
    serde_json::from_str(line).unwrap()
}

#[tokio::test]
async fn figures_are_five_fields_and_are_watched_until_the_end() {
    let bed = bed();
    let id = bed.create(base()).await;
    bed.backend.memory_used.store(3 << 20, Ordering::SeqCst);
    let now = bed.get(&format!("/sandboxes/{id}/metrics/now")).await;
    let (mut known, timestamp) = (now.body.clone(), now.body["timestamp"].as_i64().unwrap());
    assert!((chrono::Utc::now().timestamp_millis() - timestamp).abs() < 2000);
    known.as_object_mut().unwrap().remove("timestamp");
    let wanted = json!({
        "cpu_count": 2.0, "cpu_used_pct": 0.0, "mem_total_mib": 1024.0, "mem_used_mib": 3.0,
    });
    assert_eq!(known, wanted);

    let mut events = bed.watch(&id, "").await;
    let first = events.next().await.unwrap();
    assert!(first.starts_with("id: ") && first.ends_with("\n\n"), "{first}");
    assert_eq!(data(&first)["mem_used_mib"], 3.0);
    bed.backend.memory_used.store(4 << 20, Ordering::SeqCst);
    bed.looked_at().await;
    assert_eq!(data(&events.next().await.unwrap())["mem_used_mib"], 4.0);
    // Nobody looks any more.
    assert_eq!(events.next().await.unwrap(), ": heartbeat\n\n");
    bed.post(&format!("/sandboxes/{id}/pause"), json!({})).await;
    bed.looked_at().await;
    let paused = events.next().await.unwrap();
    assert_eq!(paused, "event: state\ndata: {\"state\":\"Paused\"}\n\n");
    bed.looked_at().await;
    assert!(events.next().await.unwrap().starts_with(": "));
    bed.post(&format!("/sandboxes/{id}/connect"), json!({"timeout": 60})).await;
    bed.looked_at().await;
    let resumed = events.next().await.unwrap();
    assert!(
        resumed.starts_with("event: state\ndata: {\"state\":\"Running\"}\n\nid: "),
        "{resumed}"
    );
    bed.call(Method::DELETE, &format!("/sandboxes/{id}"), Body::empty()).await;
    let end = events.next().await.unwrap();
    assert!(end.starts_with("event: end\n") && data(&end)["reason"] == "user", "{end}");
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_stream_of_so_many_ends_after_them() {
    let bed = bed();
    let id = bed.create(base()).await;
    let mut events = bed.watch(&id, "?count=2").await;
    data(&events.next().await.unwrap());
    bed.looked_at().await;
    data(&events.next().await.unwrap());
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn metadata_is_patched_as_rfc_7396_has_it() {
    let bed = bed();
    let metadata = json!({"a": "1", "two words": "2"});
    let id = bed.create(json!({"templateID": "base", "metadata": metadata})).await;
    let patch = json!({"a": "x", "two words": null, "new": "3", "none": null});
    let patched = bed.patch(&id, patch).await;
    let wanted = json!({"a": "x", "new": "3"});
    assert_eq!((patched.status, &patched.body["metadata"]), (StatusCode::OK, &wanted));
    assert_eq!(bed.patch(&id, json!({})).await.body["metadata"], wanted);
    for wrong in [json!({"a": 1}), json!({"a b": "x"}), json!({"coppice.limits": "x"}), json!([])] {
        assert_eq!(bed.patch(&id, wrong).await.status, StatusCode::BAD_REQUEST);
    }
    for (filter, there) in [("a=x", 1), ("a=1", 0)] {
        let listed =
            bed.get(&format!("/v2/sandboxes?metadata={}", filter.replace('=', "%3D"))).await;
        assert_eq!(listed.body.as_array().unwrap().len(), there, "{filter}");
    }
    assert_eq!(bed.get(&format!("/sandboxes/{id}")).await.body["metadata"], wanted);
}

#[tokio::test]
async fn an_expiration_is_renewed_to_later_and_never_to_sooner() {
    let bed = bed();
    let id = bed.create(json!({"templateID": "base", "timeout": 60})).await;
    let renew = async |at: Value| {
        bed.post(&format!("/v1/sandboxes/{id}/renew-expiration"), json!({"expiresAt": at})).await
    };
    let from_now =
        |seconds| (chrono::Utc::now() + chrono::TimeDelta::seconds(seconds)).to_rfc3339();
    let renewed = renew(json!(from_now(600))).await;
    assert_eq!(renewed.status, StatusCode::OK);
    assert_eq!(renewed.body.as_object().unwrap().len(), 1);
    assert_eq!(
        renewed.body,
        json!({"expiresAt": bed.get(&format!("/v1/sandboxes/{id}")).await.body["expiresAt"]})
    );
    assert!((599..=601).contains(&bed.seconds_left(&id).await));
    for wrong in [json!(from_now(300)), json!(from_now(-5)), json!("soon"), json!(5)] {
        assert_eq!(renew(wrong.clone()).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert!((599..=601).contains(&bed.seconds_left(&id).await));
}

#[tokio::test]
async fn an_endpoint_is_a_host_or_this_one_with_headers() {
    let bed = bed();
    let network = json!({"allowPublicTraffic": false});
    let made = bed.post("/v2/sandboxes", json!({"templateID": "base", "network": network})).await;
    let id = made.body["sandboxID"].as_str().unwrap();
    let token = &made.body["trafficAccessToken"];
    let at = |rest: &str| format!("/v1/sandboxes/{id}/endpoints/{rest}");
    let host = bed.get(&at("8080")).await;
    assert_eq!(host.body["endpoint"], format!("8080-{id}.sandboxes.test"));
    assert_eq!(host.body["headers"], json!({"e2b-traffic-access-token": token}));
    let request = Request::get(at("8080?use_server_proxy=true"))
        .header("host", "here:3000")
        .header("open-sandbox-api-key", KEY);
    let here = bed.send(request.body(Body::empty()).unwrap()).await;
    let headers = json!({
        "e2b-traffic-access-token": token, "E2b-Sandbox-Id": id, "E2b-Sandbox-Port": "8080",
    });
    assert_eq!(here.body, json!({"endpoint": "here:3000", "headers": headers}));
    for wrong in ["0", "65536", "x", "+1", "80?use_server_proxy=x", "80?expires=1"] {
        assert_eq!(bed.get(&at(wrong)).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn diagnostics_are_text_of_the_scope_that_was_asked_for() {
    let bed = bed();
    let id = bed.create(base()).await;
    bed.post(&format!("/sandboxes/{id}/pause"), json!({})).await;
    for version in ["", "/v1"] {
        let path = format!("{version}/sandboxes/{id}/diagnostics/events?scope=lifecycle");
        let told = bed.get(&path).await.body;
        let text = told["content"].as_str().unwrap();
        assert!(text.contains(" lifecycle Normal paused phase=Paused reason=user"), "{text}");
        assert_eq!(told["contentLength"], text.len());
        for (field, value) in [
            ("sandboxId", json!(id)),
            ("kind", json!("events")),
            ("scope", json!("lifecycle")),
            ("delivery", json!("inline")),
            ("contentType", json!("text/plain; charset=utf-8")),
            ("truncated", json!(false)),
        ] {
            assert_eq!(told[field], value, "{field}");
        }
        assert!(told.get("warnings").is_none());
        let process = path.replace("lifecycle", "process");
        assert_eq!(bed.get(&process).await.body["content"], "");
        for wrong in ["", "scope=network"] {
            let wrong = path.replace("scope=lifecycle", wrong);
            assert_eq!(bed.get(&wrong).await.status, StatusCode::BAD_REQUEST, "{wrong}");
        }
    }
    bed.call(Method::DELETE, &format!("/sandboxes/{id}"), Body::empty()).await;
    let logs = bed.get(&format!("/v1/sandboxes/{id}/diagnostics/logs?scope=all")).await.body;
    assert!(logs["content"].as_str().unwrap().contains(" lifecycle info ended"), "{logs}");
    assert_eq!(logs["warnings"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn their_key_is_as_good_as_any_where_they_ask_and_nowhere_else() {
    let bed = bed();
    let id = bed.create(base()).await;
    let by = async |path: &str, key: &str| {
        let request = Request::get(path).header("open-sandbox-api-key", key);
        bed.send(request.body(Body::empty()).unwrap()).await.status
    };
    assert_eq!(by(&format!("/v1/sandboxes/{id}"), KEY).await, StatusCode::OK);
    assert_eq!(by(&format!("/sandboxes/{id}/ping"), KEY).await, StatusCode::OK);
    assert_eq!(by(&format!("/v1/sandboxes/{id}"), "wrong").await, StatusCode::UNAUTHORIZED);
    assert_eq!(by(&format!("/sandboxes/{id}"), KEY).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn health_says_what_it_hangs_on_to_whoever_asks() {
    let bed = bed();
    let ask = async |query: &str| {
        let request = Request::get(format!("/health{query}")).body(Body::empty()).unwrap();
        bed.send(request).await
    };
    for plain in ["", "?verbose=0"] {
        assert_eq!(ask(plain).await.body, json!({"status": "healthy"}));
    }
    let verbose = ask("?verbose=1").await;
    assert_eq!(verbose.status, StatusCode::OK);
    let checks = verbose.body["checks"].as_object().unwrap();
    let names: Vec<&String> = checks.keys().collect();
    assert_eq!(names, ["disk", "events", "kernel", "memory", "template"]);
    let known = [json!("ok"), json!("low")];
    assert!(checks.values().all(|check| known.contains(check)), "{checks:?}");
}

/// Whatever of this can be answered besides what any call of that kind can be.
pub(super) async fn answers(bed: &Bed) {
    bed.get("/health?verbose=1").await;
    bed.get("/health?verbose=x").await;
    let id = bed.create(base()).await;
    let at = |what: &str| format!("/sandboxes/{id}/{what}");
    bed.patch(&id, json!({"a": "b"})).await;
    let later = (chrono::Utc::now() + chrono::TimeDelta::hours(2)).to_rfc3339();
    let renewal = json!({"expiresAt": later});
    bed.post(&format!("/v1{}", at("renew-expiration")), renewal.clone()).await;
    for version in ["", "/v1"] {
        for kind in ["logs", "events"] {
            bed.get(&format!("{version}{}?scope=all", at(&format!("diagnostics/{kind}")))).await;
        }
    }
    bed.get(&at("metrics/now")).await;
    bed.get(&at("metrics/watch?count=1")).await;
    bed.get(&at("metrics/watch?count=0")).await;
    bed.get(&format!("/sandboxes/{NOT_OURS}/metrics/watch")).await;
    let mut open = Vec::new();
    for _ in 0..16 {
        open.push(bed.watch(&id, "").await);
    }
    let refused = bed.get(&at("metrics/watch")).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    drop(open);
    bed.backend.mute.store(true, Ordering::SeqCst);
    assert_eq!(bed.get(&at("ping")).await.status, StatusCode::SERVICE_UNAVAILABLE);
    bed.backend.mute.store(false, Ordering::SeqCst);
    bed.post(&at("pause"), json!({"memory": false})).await;
    assert_eq!(bed.get(&at("ping")).await.status, StatusCode::CONFLICT);
    let refused = bed.post(&format!("/v1{}", at("renew-expiration")), renewal).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    bed.looked_at().await;
    let unknown = bed.get(&at("metrics/now")).await;
    assert_eq!(unknown.status, StatusCode::SERVICE_UNAVAILABLE, "{}", unknown.body);
    bed.backend.failing_stops.store(1000, Ordering::SeqCst);
    bed.call(Method::DELETE, &format!("/sandboxes/{id}"), Body::empty()).await;
    assert_eq!(bed.patch(&id, json!({"a": "b"})).await.status, StatusCode::CONFLICT);
    bed.backend.failing_stops.store(0, Ordering::SeqCst);
}
