//! Where sandboxes stand, as OpenSandbox tells it, and what is refused in each phase.

use super::*;
use crate::sandbox::idle::IDLE_TIMEOUT;

impl Bed {
    async fn status(&self, id: &str) -> Value {
        let answer = self.get(&format!("/v1/sandboxes/{id}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.body["status"].clone()
    }
}

fn stands(status: &Value) -> (&str, Option<&str>) {
    (status["state"].as_str().unwrap(), status["reason"].as_str())
}

#[tokio::test]
async fn a_sandbox_is_told_in_opensandboxs_shape() {
    let bed = bed();
    let metadata = json!({"team": "backend"});
    let body = json!({"templateID": "base", "timeout": 60, "metadata": metadata});
    let id = bed.create(body).await;
    let told = bed.get(&format!("/v1/sandboxes/{id}")).await.body;
    assert_eq!((&told["id"], &told["metadata"]), (&json!(id), &metadata));
    assert_eq!(told["entrypoint"], json!(["coppice", "envd"]));
    assert_eq!(stands(&told["status"]), ("Running", None));
    assert!(told["status"]["message"].is_string());
    let time =
        |text: &Value| -> chrono::DateTime<chrono::Utc> { text.as_str().unwrap().parse().unwrap() };
    assert_eq!((time(&told["expiresAt"]) - time(&told["createdAt"])).num_seconds(), 60);
    let since = time(&told["status"]["lastTransitionAt"]);
    assert!(since >= time(&told["createdAt"]) && since <= chrono::Utc::now());
    let none = bed.get(&format!("/v1/sandboxes/{NOT_OURS}")).await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn each_phase_has_its_reason_and_an_end_is_remembered() {
    let bed = bed();
    let id = bed.create(base()).await;
    bed.post(&format!("/sandboxes/{id}/pause"), json!({})).await;
    assert_eq!(stands(&bed.status(&id).await), ("Paused", Some("user")));
    let told = bed.get(&format!("/v1/sandboxes/{id}")).await.body;
    assert!(told.get("expiresAt").is_none(), "its time stands still: {told}");
    bed.post(&format!("/v2/sandboxes/{id}/connect"), json!({})).await;
    assert_eq!(stands(&bed.status(&id).await), ("Running", Some("user")));
    bed.call(Method::DELETE, &format!("/sandboxes/{id}"), Body::empty()).await;
    assert_eq!(stands(&bed.status(&id).await), ("Terminated", Some("user")));
    // To E2B's clients it is gone.
    assert_eq!(bed.get(&format!("/sandboxes/{id}")).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_being_ended_is_in_nobodys_way_and_in_nobodys_reach() {
    let bed = bed();
    let id = bed.create(base()).await;
    bed.backend.failing_stops.store(1000, Ordering::SeqCst);
    let path = format!("/sandboxes/{id}");
    let killed = bed.call(Method::DELETE, &path, Body::empty()).await;
    assert_eq!(killed.status, StatusCode::NO_CONTENT);
    assert_eq!(stands(&bed.status(&id).await), ("Stopping", Some("user")));
    for (what, body) in [
        ("/connect", json!({"timeout": 60})),
        ("/resume", json!({})),
        ("/pause", json!({})),
        ("/timeout", json!({"timeout": 60})),
        ("/refreshes", json!({})),
    ] {
        let refused = bed.post(&format!("{path}{what}"), body).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{what}");
        assert_eq!(message(&refused), format!("Sandbox \"{id}\" is being killed"), "{what}");
    }
    for method in [Method::GET, Method::DELETE] {
        let gone = bed.call(method, &path, Body::empty()).await;
        assert_eq!(gone.status, StatusCode::NOT_FOUND);
        let text = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
        assert_eq!(message(&gone), text);
    }
}

#[tokio::test]
async fn an_idle_timeout_is_a_number_of_seconds() {
    let bed = bed();
    let with = |value: &str| json!({"templateID": "base", "metadata": {IDLE_TIMEOUT: value}});
    let id = bed.create(with("600")).await;
    let info = bed.get(&format!("/sandboxes/{id}")).await.body;
    assert_eq!(info["metadata"], json!({IDLE_TIMEOUT: "600"}));
    for bad in ["", "0", "soon", "1.5", "-3"] {
        let refused = bed.post("/v2/sandboxes", with(bad)).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{bad}");
        assert!(message(&refused).contains(IDLE_TIMEOUT), "{}", refused.body);
    }
    assert_eq!(bed.made(), 1);
}
