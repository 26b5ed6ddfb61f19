//! Pools and batches as clients see them.

use super::{contract::Seen, tenants::bed_of_tenants, *};
use crate::sandbox::PoolRules;

const LITTLE: &str = "capacitySpec";

fn capacity(buffer: usize) -> Value {
    json!({"bufferMin": buffer, "bufferMax": buffer, "poolMin": 0, "poolMax": 50})
}

fn pool(name: &str) -> Value {
    json!({"name": name, "templateID": "base", LITTLE: capacity(2)})
}

fn with_pool() -> Bed {
    let sizes = std::collections::BTreeMap::from([("base".to_owned(), 1)]);
    let pool = PoolRules { sizes, memory: 1 << 30 };
    bed_with(Rules { pool, max_sandboxes: 100, ..testing::rules() })
}

fn put_in_the_way(bed: &Bed, name: &str) {
    let path = bed.dir.path().join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::write(path, "").unwrap();
}

async fn put(bed: &Bed, path: &str, body: Value) -> Answer {
    bed.call(Method::PUT, path, body.to_string()).await
}

async fn delete(bed: &Bed, path: &str) -> Answer {
    bed.call(Method::DELETE, path, Body::empty()).await
}

/// What a pool can be answered with.
pub(super) async fn pools() -> Seen {
    let bed = with_pool();
    let made = bed.post("/pools", pool("mine")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let id = made.body["id"].as_str().unwrap().to_owned();
    assert_eq!((&made.body["origin"], &made.body[LITTLE]), (&json!("api"), &capacity(2)));
    let status = ["total", "allocated", "available", "updated"];
    assert!(status.iter().all(|name| made.body["status"][name] == 0), "{}", made.body);
    let listed = bed.get("/pools").await.body;
    let names: Vec<&Value> =
        listed["items"].as_array().unwrap().iter().map(|pool| &pool["name"]).collect();
    assert_eq!(names, ["base", "mine"]);
    assert_eq!(listed["items"][0]["origin"], "settings");
    for (body, status) in [
        (pool("mine"), 409),
        (pool("base"), 409),
        (pool("Mine"), 400),
        (json!({"name": "x", "templateID": "nosuch", LITTLE: capacity(1)}), 404),
        (json!({"name": "later", "templateID": "building", LITTLE: capacity(1)}), 201),
        (json!({"name": "x", "templateID": "base"}), 400),
        (json!({"name": "x", "templateID": "base", LITTLE: capacity(2), "more": 1}), 400),
        (json!({"name": "x", "templateID": "base", LITTLE: capacity(1001)}), 400),
        (json!({"name": "x", "templateID": "base", LITTLE: capacity(2), "limits": "memory"}), 400),
        (json!({"name": "x", "templateID": "base", LITTLE: capacity(2), "limits": "cpus=9"}), 400),
        (json!({"name": "x", "templateID": "base", LITTLE: {"bufferMin": 1.5}}), 400),
    ] {
        let answer = bed.post("/pools", body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
    }
    let whole = json!({"bufferMin": 2.0, "bufferMax": 3.0, "poolMin": 0.0, "poolMax": 9.0});
    for name in [&id, "mine"] {
        let path = format!("/pools/{name}");
        assert_eq!(bed.get(&path).await.body["id"], *id);
        let changed = put(&bed, &path, json!({LITTLE: whole})).await;
        assert_eq!(
            (changed.status, &changed.body[LITTLE]["bufferMax"]),
            (StatusCode::OK, &json!(3))
        );
    }
    for (name, status) in [("base", 409), ("nosuch", 404), ("A_B", 400), ("%FF", 400)] {
        let path = format!("/pools/{name}");
        assert_eq!(put(&bed, &path, json!({LITTLE: capacity(1)})).await.status.as_u16(), status);
        assert_eq!(delete(&bed, &path).await.status.as_u16(), status, "{name}");
    }
    assert_eq!(delete(&bed, "/pools/later").await.status, StatusCode::NO_CONTENT);
    put_in_the_way(&bed, "pools");
    let failed = StatusCode::INTERNAL_SERVER_ERROR;
    assert_eq!(bed.post("/pools", pool("x")).await.status, failed);
    assert_eq!(put(&bed, "/pools/mine", json!({LITTLE: capacity(1)})).await.status, failed);
    assert_eq!(delete(&bed, "/pools/mine").await.status, failed);
    bed.document.into_seen()
}

fn batch(replicas: usize) -> Value {
    json!({"templateID": "base", "replicas": replicas})
}

/// What a batch can be answered with.
pub(super) async fn batches() -> Seen {
    let bed = with_pool();
    let body = json!({
        "templateID": "base", "replicas": 3, "timeout": 60, "metadata": {"a": "b"},
        "envVars": {"X": "1"}, "task": {"command": ["exit", "3"], "timeoutSeconds": 5.0},
    });
    let made = bed.post("/batches?wait=20", body).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let id = made.body["batchID"].as_str().unwrap().to_owned();
    for (name, count) in
        [("desired", 3), ("total", 3), ("allocated", 3), ("ready", 3), ("ended", 0)]
    {
        assert_eq!(made.body[name], count, "{name}");
    }
    let path = format!("/batches/{id}");
    let failed = async {
        while bed.get(&path).await.body["taskFailed"] != 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), failed).await.unwrap();
    let seen = bed.get(&path).await.body;
    assert_eq!(seen["taskLastErrorMessage"], "it said so");
    assert_eq!((&seen["state"], &seen["metadata"]), (&json!("Running"), &json!({"a": "b"})));
    for (index, sandbox) in seen["sandboxes"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&sandbox["index"], &sandbox["state"]), (&json!(index), &json!("Running")));
        assert_eq!((&sandbox["task"], &sandbox["exitCode"]), (&json!("Failed"), &json!(3)));
        let path = format!("/sandboxes/{}", sandbox["sandboxID"].as_str().unwrap());
        assert_eq!(bed.get(&path).await.body["metadata"], json!({"a": "b"}));
    }
    let spec = bed.backend.specs.lock()[0].clone();
    assert_eq!(spec.init.env_vars.unwrap()["X"], "1");
    let listed = bed.get("/batches").await.body;
    assert_eq!(
        (&listed["items"][0]["batchID"], listed["items"][0].get("sandboxes")),
        (&json!(id), None)
    );
    for (body, status) in [
        (json!({"templateID": "nosuch", "replicas": 1}), 404),
        (json!({"templateID": "building", "replicas": 1}), 503),
        (batch(0), 400),
        (batch(101), 400),
        (json!({"templateID": "base"}), 400),
        (json!({"templateID": "base", "replicas": 1, "autoPause": true}), 400),
        (json!({"templateID": "base", "replicas": 1, "task": {"command": []}}), 400),
        (json!({"templateID": "base", "replicas": 1, "task": {"command": ["\0"]}}), 400),
        (
            json!({"templateID": "base", "replicas": 1, "task": {"command": ["a"], "timeoutSeconds": 0}}),
            400,
        ),
        (
            json!({"templateID": "base", "replicas": 1, "metadata": {"coppice.limits": "cpus=9"}}),
            400,
        ),
    ] {
        let answer = bed.post("/batches", body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.body);
    }
    assert_eq!(bed.post("/batches?wait=61", batch(1)).await.status, StatusCode::BAD_REQUEST);
    let again = async |replicas: usize| {
        let request = Request::post("/batches").header("x-api-key", KEY);
        let request = request.header("idempotency-key", "k");
        bed.send(request.body(Body::from(batch(replicas).to_string())).unwrap()).await
    };
    let first = again(1).await.body["batchID"].clone();
    assert_eq!(again(1).await.body["batchID"], first);
    assert_eq!(again(2).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(delete(&bed, &path).await.status, StatusCode::NO_CONTENT);
    for path in [&path, "/batches/abc", "/batches/A_B"] {
        let status = if path.ends_with("A_B") { 400 } else { 404 };
        assert_eq!(bed.get(path).await.status.as_u16(), status, "{path}");
        assert_eq!(delete(&bed, path).await.status.as_u16(), status, "{path}");
    }
    let left = first.as_str().unwrap();
    let ready = async {
        while bed.get(&format!("/batches/{left}")).await.body["ready"] != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ready).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    put_in_the_way(&bed, "batches");
    let failed = StatusCode::INTERNAL_SERVER_ERROR;
    assert_eq!(bed.post("/batches", batch(1)).await.status, failed);
    assert_eq!(delete(&bed, &format!("/batches/{left}")).await.status, failed);
    bed.document.into_seen()
}

#[tokio::test]
async fn a_batch_of_another_tenant_is_as_one_that_never_was() {
    let bed = bed_of_tenants("", Rules { max_sandboxes: 100, ..testing::rules() });
    let made = bed.by("a", Method::POST, "/batches?wait=20", batch(2)).await;
    let id = made.body["batchID"].as_str().unwrap();
    let never = crate::sandbox::SandboxId::random().to_string();
    let told = |answer: &Answer, id: &str| (answer.status, answer.body.to_string().replace(id, ""));
    for method in [Method::GET, Method::DELETE] {
        let theirs = bed.by("b", method.clone(), &format!("/batches/{id}"), Value::Null).await;
        let none = bed.by("b", method, &format!("/batches/{never}"), Value::Null).await;
        assert_eq!(told(&theirs, id), told(&none, &never));
    }
    let listed = bed.by("b", Method::GET, "/batches", Value::Null).await;
    assert_eq!(listed.body, json!({"items": []}));
    let mine = bed.by("c", Method::GET, &format!("/batches/{id}"), Value::Null).await;
    assert_eq!((mine.status, &mine.body["ready"]), (StatusCode::OK, &json!(2)));
    let refused = bed.by("c", Method::DELETE, &format!("/batches/{id}"), Value::Null).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn no_more_is_asked_for_than_a_tenant_may_have_at_once() {
    let more = "[tenant.one]\nmax-sandboxes = 2\ncreates-per-minute = 100\n";
    let bed = bed_of_tenants(more, testing::rules());
    let refused = bed.by("a", Method::POST, "/batches", batch(3)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(message(&refused), "replicas must be between 1 and 2");
    let made = bed.by("a", Method::POST, "/batches?wait=20", batch(2)).await;
    assert_eq!((made.status, &made.body["ready"]), (StatusCode::CREATED, &json!(2)));
    let full = bed.by("a", Method::POST, "/v2/sandboxes", base()).await;
    assert_eq!(full.status, StatusCode::TOO_MANY_REQUESTS);
    // Another waits, and is told why.
    let second = bed.by("a", Method::POST, "/batches?wait=1", batch(1)).await;
    assert_eq!(second.body["state"], "Provisioning");
    assert_eq!(second.body["reason"], "capacity");
}
