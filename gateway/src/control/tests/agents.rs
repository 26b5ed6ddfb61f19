//! What the sandboxes of agents use, as Evonic's pages ask for it.

use super::*;
use crate::agents::{Agent, Agents};

/// One that has sandboxes, and one that has none.
pub(super) fn known() -> Agents {
    let named = Agents::named(["admin"].into_iter()).unwrap();
    let admin = named.get("admin").unwrap();
    let admin = Agent { name: "Admin Assistant".into(), ..admin.clone() };
    let guest = Agent { id: "guest".into(), sandbox_enabled: false, ..admin.clone() };
    Agents::new(vec![admin, guest]).unwrap()
}

impl Bed {
    async fn of_admin(&self, more: Value) -> String {
        let mut metadata = json!({"agent_id": "admin"});
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.create(json!({"templateID": "base", "metadata": metadata})).await
    }
}

#[tokio::test]
async fn an_agent_has_its_sandboxes_told_with_the_keys_of_the_original() {
    let bed = bed();
    let none = bed.get("/api/agents/admin/sandbox/stats").await;
    assert_eq!(none.status, StatusCode::OK);
    assert_eq!(
        (&none.body["active_containers"], &none.body["containers"]),
        (&json!(0), &json!([]))
    );
    let session = json!({"session_id": "6c1d9542", "external_user_id": "user@example.com"});
    let id = bed.of_admin(session).await;
    let other = bed.create(base()).await;
    bed.backend.memory_used.store(142 << 20, Ordering::SeqCst);

    let early = bed.get("/api/agents/admin/sandbox/stats").await.body;
    let entry = &early["containers"][0];
    assert!(entry["error"].is_string() && entry.get("memory").is_none(), "{entry}");
    assert_eq!(early["aggregate"]["active_containers"], 1);

    let told = bed.get("/api/agents/admin/sandbox/stats?fresh=1").await.body;
    let name = told["containers"][0]["container_name"].clone();
    let container = json!({
        "session_id": "6c1d9542",
        "external_user_id": "user@example.com",
        "agent_id": "admin",
        "container_id": id,
        "container_name": name,
        "state": "running",
        "cpu_percent": 0.0,
        "memory": {
            "used": "142MiB", "limit": "1GiB", "percent": "13.87%",
            "used_bytes": 142 << 20, "limit_bytes": 1 << 30,
        },
        "network": {"input": "0B", "output": "0B", "input_bytes": 0, "output_bytes": 0},
        "block_io": {"read": "0B", "write": "0B", "read_bytes": 0, "write_bytes": 0},
        "pids": "1",
        "pids_current": 1,
    });
    let wanted = json!({
        "agent_id": "admin", "agent_name": "Admin Assistant", "sandbox_enabled": true,
        "active_containers": 1, "containers": [container],
        "aggregate": {
            "total_cpu_percent": 0.0, "active_containers": 1,
            "total_memory_bytes": 142 << 20, "total_pids": 1,
        },
    });
    assert_eq!(told, wanted);

    let pool = bed.get("/api/sandbox/stats").await.body;
    assert_eq!(pool["pool_size"], 2);
    assert_eq!(pool["max_containers"], testing::rules().max_sandboxes);
    assert_eq!(pool["aggregate"]["total_memory_bytes"], 284 << 20);
    let nobodys = &pool["containers"][1];
    assert_eq!((&nobodys["container_id"], &nobodys["session_id"]), (&json!(other), &json!(other)));
    assert_eq!((&nobodys["agent_id"], &nobodys["external_user_id"]), (&json!(null), &json!(null)));
}

#[tokio::test]
async fn one_whose_files_alone_are_kept_uses_nothing() {
    let bed = bed();
    let id = bed.of_admin(json!({})).await;
    bed.post(&format!("/sandboxes/{id}/pause"), json!({"memory": false})).await;
    let told = bed.get("/api/agents/admin/sandbox/stats?fresh=1").await.body;
    let entry = &told["containers"][0];
    assert_eq!((&entry["state"], &entry["pids"]), (&json!("paused"), &json!("0")));
    assert!(entry.get("error").is_none());
}

#[tokio::test]
async fn whoever_is_no_agent_or_has_no_sandboxes_is_told_so() {
    let bed = bed();
    for what in ["stats", "stats/history"] {
        let gone = bed.get(&format!("/api/agents/nosuch/sandbox/{what}")).await;
        assert_eq!(gone.status, StatusCode::NOT_FOUND);
        let disabled = bed.get(&format!("/api/agents/guest/sandbox/{what}")).await;
        assert_eq!(disabled.status, StatusCode::BAD_REQUEST);
        assert_eq!(message(&disabled), "Sandbox is disabled for agent \"guest\"");
        let invalid = bed.get(&format!("/api/agents/%ff/sandbox/{what}")).await;
        assert_eq!(invalid.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_history_is_told_since_when_it_is_asked_for() {
    let bed = bed();
    let id = bed.of_admin(json!({})).await;
    let look = async || bed.gateway.sandboxes().sample_if_older(Duration::ZERO).await;
    look().await;
    look().await;
    let told = bed.get("/api/agents/admin/sandbox/stats/history?since=0").await.body;
    assert_eq!(told["since"], "1970-01-01T00:00:00.000Z");
    let samples = told["containers"][0]["samples"].as_array().unwrap();
    assert_eq!((samples.len(), &told["containers"][0]["container_id"]), (1, &json!(id)));
    let at = samples[0]["timestamp"].as_u64().unwrap();
    for (since, there) in [(at, 1), (at + 1, 0)] {
        let told = bed.get(&format!("/api/sandbox/stats/history?since={since}")).await.body;
        assert_eq!(told["containers"][0]["samples"].as_array().unwrap().len(), there);
    }
}

/// Whatever of this can be answered besides what any call of that kind can be.
pub(super) async fn answers(bed: &Bed) {
    for what in ["stats", "stats/history"] {
        for agent in ["admin", "guest", "nosuch"] {
            bed.get(&format!("/api/agents/{agent}/sandbox/{what}")).await;
        }
        bed.get(&format!("/api/sandbox/{what}")).await;
        bed.get(&format!("/api/sandbox/{what}?fresh=x&since=x")).await;
    }
}
