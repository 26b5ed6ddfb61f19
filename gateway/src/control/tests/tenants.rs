//! Tenants are strangers to each other, and a key is good for what it is for.

use super::{contract::operations, *};
use crate::metrics::{self, Format};

/// A gateway with a file of keys: of two tenants, and of the first with less than all scopes.
const KEYS: [(&str, &str, &str); 5] = [
    ("a", "one", "\"read\", \"exec\""),
    ("b", "two", "\"read\", \"exec\""),
    ("c", "one", "\"read\""),
    ("d", "one", "\"exec\""),
    ("e", "one", "\"admin\""),
];

fn secret(name: &str) -> String {
    format!("e2b_{}", name.repeat(40))
}

pub(super) fn bed_of_tenants(more: &str, rules: Rules) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(TestBackend::default());
    let sandboxes = testing::sandboxes(dir.path(), &backend, rules);
    let keys = keys(&dir, more);
    bed_of(dir, backend, sandboxes, keys)
}

fn keys(dir: &TempDir, more: &str) -> Keys {
    let path = dir.path().join("keys.toml");
    let entries = KEYS.map(|(name, tenant, scopes)| {
        let hash = blake3::hash(secret(name).as_bytes()).to_hex();
        format!(
            "[[key]]\nid = \"{name}\"\nhash = \"blake3:{hash}\"\ntenant = \"{tenant}\"\n\
             scopes = [{scopes}]\n"
        )
    });
    std::fs::write(&path, entries.concat() + more).unwrap();
    Keys::parse("").unwrap().with_file(&path).unwrap()
}

impl Bed {
    pub(super) async fn by(&self, key: &str, method: Method, path: &str, body: Value) -> Answer {
        let request = Request::builder().method(method).uri(path).header("X-API-KEY", secret(key));
        let body = if body.is_null() { Body::empty() } else { body.to_string().into() };
        self.send(request.body(body).unwrap()).await
    }

    async fn made_by(&self, key: &str) -> String {
        let answer = self.by(key, Method::POST, "/v2/sandboxes", base()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body["sandboxID"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_sandbox_of_another_tenant_is_as_one_that_never_was_for_every_call_there_is() {
    let bed = bed_of_tenants("", Rules { max_sandboxes: 100, ..testing::rules() });
    let document = bed.document.get(&bed).await.clone();
    let running = bed.made_by("a").await;
    let paused = bed.made_by("a").await;
    bed.by("a", Method::POST, &format!("/sandboxes/{paused}/pause"), json!({})).await;
    let ended = bed.made_by("a").await;
    bed.by("a", Method::DELETE, &format!("/sandboxes/{ended}"), Value::Null).await;
    let never = crate::sandbox::SandboxId::random().to_string();
    let told = |answer: &Answer, id: &str| (answer.status, answer.body.to_string().replace(id, ""));
    let mut calls = 0;
    for (method, path, _) in operations(&document) {
        if !path.contains("sandboxes/{id}") {
            continue;
        }
        for body in [Value::Null, json!({"timeout": 60}), json!({"timeout": "x"}), json!([])] {
            let at = |id: &str| path.replace("{id}", id);
            let expected = bed.by("b", method.clone(), &at(&never), body.clone()).await;
            for id in [&running, &paused, &ended] {
                let answer = bed.by("b", method.clone(), &at(id), body.clone()).await;
                assert_eq!(told(&answer, id), told(&expected, &never), "{method} {path} {body}");
            }
            calls += 1;
        }
        let unknown = bed.by("b", method, &path.replace("{id}", &running), Value::Null).await;
        assert!(matches!(unknown.status.as_u16(), 404 | 501), "{path}: {}", unknown.status);
    }
    assert!(calls > 40, "{calls}");
    // And nothing of it did anything.
    let info = bed.by("a", Method::GET, &format!("/sandboxes/{running}"), Value::Null).await;
    assert_eq!(info.body["state"], "running");
    let info = bed.by("a", Method::GET, &format!("/sandboxes/{paused}"), Value::Null).await;
    assert_eq!(info.body["state"], "paused");
    let seen = bed.by("a", Method::GET, &format!("/v1/sandboxes/{ended}"), Value::Null).await;
    assert_eq!(seen.status, StatusCode::OK);
}

#[tokio::test]
async fn lists_totals_figures_and_snapshots_are_a_tenants_own() {
    let bed = bed_of_tenants("", Rules { max_sandboxes: 100, ..testing::rules() });
    let mut ones = Vec::new();
    for _ in 0..3 {
        ones.push(bed.made_by("a").await);
    }
    let twos = bed.made_by("b").await;
    let ids = |answer: &Answer| -> BTreeSet<String> {
        let all = answer.body.as_array().unwrap().iter();
        all.map(|it| it["sandboxID"].as_str().unwrap().to_owned()).collect()
    };
    for path in ["/sandboxes", "/v2/sandboxes", "/v2/sandboxes?order=asc&state=running"] {
        let listed = bed.by("a", Method::GET, path, Value::Null).await;
        assert_eq!(ids(&listed), ones.iter().cloned().collect(), "{path}");
        let listed = bed.by("b", Method::GET, path, Value::Null).await;
        assert_eq!(ids(&listed), [twos.clone()].into(), "{path}");
        let total = listed.headers.get("x-total-running").map(|it| it.to_str().unwrap());
        assert_eq!(total, path.starts_with("/v2").then_some("1"), "{path}");
    }
    // A page ends where the tenant's own end, and a token leads to no other's.
    let page = bed.by("a", Method::GET, "/v2/sandboxes?limit=2", Value::Null).await;
    let token = page.headers["x-next-token"].to_str().unwrap();
    let path = format!("/v2/sandboxes?nextToken={token}");
    let rest = bed.by("a", Method::GET, &path, Value::Null).await;
    assert!(ids(&rest).len() == 1 && !rest.headers.contains_key("x-next-token"));
    assert!(
        ids(&bed.by("b", Method::GET, &path, Value::Null).await).is_subset(&[twos.clone()].into())
    );

    let figures = format!("/sandboxes/metrics?sandbox_ids={},{twos}", ones.join(","));
    let told = bed.by("b", Method::GET, &figures, Value::Null).await;
    let told = told.body["sandboxes"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(told.iter().all(|id| *id == twos), "{told:?}");

    // The same name is another snapshot, which the other neither sees, uses nor deletes.
    let at = format!("/sandboxes/{}/snapshots", ones[0]);
    let made = bed.by("a", Method::POST, &at, json!({"name": "mine"})).await;
    assert_eq!(made.body["snapshotID"], "mine:default");
    let listed = async |key| bed.by(key, Method::GET, "/snapshots", Value::Null).await.body;
    assert_eq!((listed("a").await.as_array().unwrap().len(), listed("b").await), (1, json!([])));
    let mine = json!({"templateID": "mine"});
    let unknown = bed.by("b", Method::POST, "/v2/sandboxes", mine.clone()).await;
    assert_eq!(message(&unknown), "template 'mine' not found");
    for (method, path) in
        [(Method::DELETE, "/templates/mine"), (Method::GET, "/templates/aliases/mine")]
    {
        let unknown = bed.by("b", method, path, Value::Null).await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND, "{path}");
    }
    let at = format!("/sandboxes/{twos}/snapshots");
    bed.by("b", Method::POST, &at, json!({"name": "mine"})).await;
    let gone = bed.by("b", Method::DELETE, "/templates/mine", Value::Null).await;
    assert_eq!((gone.status, listed("b").await), (StatusCode::NO_CONTENT, json!([])));
    let over = bed.by("a", Method::POST, "/v2/sandboxes", mine).await;
    assert_eq!(over.status, StatusCode::CREATED, "{}", over.body);
}

#[tokio::test]
async fn the_same_idempotency_key_of_another_tenant_gives_another_sandbox() {
    let bed = bed_of_tenants("", testing::rules());
    let create = async |key: &str| {
        let request = Request::post("/v2/sandboxes")
            .header("authorization", format!("Bearer {}", secret(key)))
            .header("Idempotency-Key", "k")
            .body(Body::from(base().to_string()));
        bed.send(request.unwrap()).await.body["sandboxID"].clone()
    };
    let (one, two) = (create("a").await, create("b").await);
    assert!(one.is_string() && one != two);
    // Whichever of the tenant's keys it comes with.
    assert_eq!(create("d").await, one);
}

#[tokio::test]
async fn a_key_is_let_do_what_its_scopes_are_for_and_told_what_it_lacks() {
    let bed = bed_of_tenants("", Rules { max_sandboxes: 100, ..testing::rules() });
    let document = bed.document.get(&bed).await.clone();
    let id = bed.made_by("d").await;
    for (method, path, operation) in operations(&document) {
        let path = path.replace("{id}", &id);
        let open = operation["security"].as_array().unwrap().contains(&json!({}));
        for (key, scope) in [("c", "read"), ("d", "exec"), ("e", "admin")] {
            let needed = match path.as_str() {
                "/metrics" => "admin",
                path if path.starts_with("/admin/") => "admin",
                _ if method == Method::GET => "read",
                _ => "exec",
            };
            // What takes two scopes is told by the one that lacks.
            let takes_two = path.starts_with("/pools");
            // What a key that may would do is for others to try.
            if scope == needed && needed != "admin" && !takes_two {
                continue;
            }
            let good = path == "/admin/log-level" && method == Method::PUT;
            let body = if good { json!({"level": "debug"}) } else { Value::Null };
            let answer = bed.by(key, method.clone(), &path, body).await;
            if open || (scope == needed && !takes_two) {
                assert!(answer.status.is_success(), "{method} {path} by {scope}");
                continue;
            }
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path} by {scope}");
            let lacking = if scope == needed { "admin" } else { needed };
            let lacks = format!("lacks the scope '{lacking}'");
            assert!(message(&answer).contains(&lacks), "{}", answer.body);
        }
    }
    // Looking does not let one in.
    let path = format!("/sandboxes/{id}");
    let looked = bed.by("c", Method::GET, &path, Value::Null).await;
    assert_eq!((looked.status, looked.body.get("envdAccessToken")), (StatusCode::OK, None));
    assert!(bed.by("a", Method::GET, &path, Value::Null).await.body["envdAccessToken"].is_string());
}

#[tokio::test]
async fn a_template_that_a_key_may_not_use_is_not_there() {
    let hash = blake3::hash(secret("f").as_bytes()).to_hex();
    let more = format!(
        "[[key]]\nid = \"f\"\nhash = \"blake3:{hash}\"\ntenant = \"one\"\n\
         scopes = [\"read\", \"exec\"]\ntemplates = [\"other\", \"mine\"]\n"
    );
    let bed = bed_of_tenants(&more, testing::rules());
    let refused = bed.by("f", Method::POST, "/v2/sandboxes", base()).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    assert_eq!(message(&refused), "template 'base' not found");
    for path in ["/templates/base", "/templates/aliases/base"] {
        let refused = bed.by("f", Method::GET, path, Value::Null).await;
        assert_eq!(refused.status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/templates", "/v2/templates"] {
        assert_eq!(bed.by("f", Method::GET, path, Value::Null).await.body, json!([]));
    }
    // Its tenant's sandboxes are there, and no others can be made from theirs.
    let id = bed.made_by("a").await;
    let fork = format!("/sandboxes/{id}/fork");
    let forked = bed.by("f", Method::POST, &fork, json!({})).await;
    assert_eq!(forked.status, StatusCode::NOT_FOUND);
    bed.by("a", Method::POST, &format!("/sandboxes/{id}/snapshots"), json!({"name": "mine"})).await;
    let made = bed.by("f", Method::POST, "/v2/sandboxes", json!({"templateID": "mine"})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    // Neither are snapshots of other names, nor can what is not there be deleted.
    let theirs = json!({"name": "theirs"});
    bed.by("a", Method::POST, &format!("/sandboxes/{id}/snapshots"), theirs).await;
    for path in ["/snapshots", &format!("/snapshots?sandboxID={id}"), "/snapshots?name=theirs"] {
        let listed = bed.by("f", Method::GET, path, Value::Null).await.body;
        assert!(!listed.to_string().contains("theirs"), "{path}: {listed}");
        let all = bed.by("a", Method::GET, path, Value::Null).await.body;
        assert!(all.to_string().contains("theirs:default"), "{path}: {all}");
    }
    for name in ["base", "theirs", "theirs%3Adefault", "base%3Adefault"] {
        let refused = bed.by("f", Method::DELETE, &format!("/templates/{name}"), json!(null)).await;
        let never = name.replace("base", "never").replace("theirs", "never");
        let unknown =
            bed.by("f", Method::DELETE, &format!("/templates/{never}"), json!(null)).await;
        let told = message(&refused).replace("base", "never").replace("theirs", "never");
        assert_eq!((refused.status, told.as_str()), (unknown.status, message(&unknown)), "{name}");
    }
    let all = bed.by("a", Method::GET, "/snapshots?name=theirs", Value::Null).await.body;
    assert_eq!(all.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_client_may_have_less_than_it_would_and_never_more() {
    let more = "[tenant.one]\nsandbox-memory = 256\nsandbox-net-out = 100\n";
    let bed = bed_of_tenants(more, testing::rules());
    let ask = async |text: &str| {
        let body = json!({"templateID": "base", "metadata": {"coppice.limits": text}});
        bed.by("a", Method::POST, "/v2/sandboxes", body).await
    };
    let made = ask("memory=128,net-out=99,open-files=64,cpus=2").await;
    assert_eq!(made.status, StatusCode::CREATED);
    let spec = bed.backend.specs.lock()[0].limits;
    assert_eq!((spec.memory_bytes, spec.net_out), (128 << 20, Some(99 << 10)));
    assert_eq!((spec.open_files, spec.cpus, spec.net_in), (Some(64), 2, None));
    for (text, why) in [
        ("memory=257", "memory: 257 MiB is more than the 256 MiB that each sandbox of the tenant"),
        ("cpus=3", "cpus: 3 is more than the 2 that a sandbox of this template"),
        ("net-out=101", "the 100 KiB a second"),
        ("disk-read=1024", "disk-read: this host has nothing that enforces it"),
        ("memory", "metadata: coppice.limits must be a list such as"),
        ("memory=", "metadata: coppice.limits must be memory from 1"),
    ] {
        let refused = ask(text).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{text}");
        assert!(message(&refused).contains(why), "{}", message(&refused));
    }
    // Nothing has failed that an operator is to be woken for.
    let figures = metrics::tell(&bed.gateway.0.sandboxes, Format::Plain);
    let failed: Vec<_> =
        figures.lines().filter(|line| line.starts_with("coppice_create_failures_total{")).collect();
    assert!(!failed.is_empty() && failed.iter().all(|line| line.ends_with(" 0")), "{failed:?}");
    // What was made goes on as it was made, whatever its tenant may have by then.
    let id = made.body["sandboxID"].as_str().unwrap();
    let forked = bed.by("a", Method::POST, &format!("/sandboxes/{id}/fork"), json!({})).await;
    assert_eq!(forked.status, StatusCode::CREATED, "{}", forked.body);
    assert_eq!(bed.backend.specs.lock()[1].limits, spec);
}

#[tokio::test]
async fn a_tenant_has_what_it_may_and_the_others_are_none_the_worse() {
    let more = "[tenant.one]\nmax-sandboxes = 2\nsandbox-cpus = 1\nsandbox-memory = 256\n\
                sandbox-disk = 512\n[tenant.two]\ncreates-per-minute = 2\n";
    let bed = bed_of_tenants(more, testing::rules());
    let ids = [bed.made_by("a").await, bed.made_by("d").await];
    let info = bed.by("a", Method::GET, &format!("/sandboxes/{}", ids[0]), Value::Null).await.body;
    let told = ["cpuCount", "memoryMB", "diskSizeMB"].map(|name| info[name].clone());
    assert_eq!(told, [json!(1), json!(256), json!(512)]);
    let spec = bed.backend.specs.lock()[0].limits;
    assert_eq!((spec.cpus, spec.memory_bytes, spec.disk_bytes), (1, 256 << 20, Some(512 << 20)));
    let told =
        bed.by("a", Method::GET, &format!("/v1/sandboxes/{}", ids[0]), Value::Null).await.body;
    let limits = json!({"cpus": 1, "memory": 256, "swap": 0, "processes": 1024, "disk": 512});
    assert_eq!(told["limits"], limits);
    let full = bed.by("a", Method::POST, "/v2/sandboxes", base()).await;
    assert_eq!(full.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(message(&full), "tenant 'one' has 2 sandboxes, as many as it may have at once");
    for count in [2, 100] {
        let fork = format!("/sandboxes/{}/fork", ids[0]);
        let many = bed.by("a", Method::POST, &fork, json!({"count": count})).await;
        assert_eq!(many.status, StatusCode::BAD_REQUEST);
    }
    let fork = format!("/sandboxes/{}/fork", ids[0]);
    let forked = bed.by("a", Method::POST, &fork, json!({})).await.body;
    assert_eq!(forked[0]["error"]["code"], 429, "{forked}");

    let twos = bed.made_by("b").await;
    bed.made_by("b").await;
    for path in ["/sandboxes", "/v2/sandboxes", &format!("/sandboxes/{twos}/fork")] {
        let often = bed.by("b", Method::POST, path, base()).await;
        assert_eq!(often.status, StatusCode::TOO_MANY_REQUESTS, "{path}");
        let after: u32 = often.headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=30).contains(&after), "{after}");
    }
    // A place is a tenant's own again when its sandbox is gone.
    bed.by("a", Method::DELETE, &format!("/sandboxes/{}", ids[1]), Value::Null).await;
    bed.made_by("a").await;
}

#[tokio::test]
async fn sandboxes_are_the_same_tenants_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(TestBackend::default());
    let gateway = |dir: &TempDir| testing::sandboxes(dir.path(), &backend, testing::rules());
    let before = gateway(&dir);
    let keys_of = keys(&dir, "");
    let bed = bed_of(dir, backend.clone(), before, keys_of.clone());
    let id = bed.made_by("a").await;
    let Bed { dir, gateway: ended, router, .. } = bed;
    // Whoever keeps its events lets go of them.
    drop((ended, router));
    let after = gateway(&dir);
    after.adopt_all().await.unwrap();
    let bed = bed_of(dir, backend.clone(), after, keys_of);
    let path = format!("/sandboxes/{id}");
    assert_eq!(bed.by("a", Method::GET, &path, Value::Null).await.status, StatusCode::OK);
    assert_eq!(bed.by("b", Method::GET, &path, Value::Null).await.status, StatusCode::NOT_FOUND);
    assert_eq!(bed.by("b", Method::GET, "/sandboxes", Value::Null).await.body, json!([]));
    let listed = bed.by("a", Method::GET, "/sandboxes", Value::Null).await.body;
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn each_request_that_changes_something_is_in_the_audit_trail_and_no_secret_is() {
    let bed = bed_of_tenants("[tenant.two]\nmax-sandboxes = 0\n", testing::rules());
    let id = bed.made_by("a").await;
    let token = bed.by("a", Method::GET, &format!("/sandboxes/{id}"), Value::Null).await;
    let token = token.body["envdAccessToken"].as_str().unwrap().to_owned();
    let snapshot = json!({"name": "mine", "memory": false});
    bed.by("d", Method::POST, &format!("/sandboxes/{id}/snapshots"), snapshot).await;
    bed.by("c", Method::DELETE, &format!("/sandboxes/{id}"), Value::Null).await;
    bed.by("b", Method::DELETE, &format!("/sandboxes/{id}"), Value::Null).await;
    bed.by("b", Method::POST, "/sandboxes", base()).await;
    let forked = bed.by("a", Method::POST, &format!("/sandboxes/{id}/fork"), json!({})).await.body;
    let fork = &forked[0]["sandbox"]["sandboxID"];
    bed.by("a", Method::DELETE, "/templates/mine%3Adefault", Value::Null).await;
    let unknown = Request::post("/sandboxes").header("x-api-key", secret("f"));
    bed.send(unknown.body(Body::empty()).unwrap()).await;
    bed.gateway.audit().settle(Duration::from_secs(10)).await;

    let text = ["one", "two"].map(|tenant| trail(&bed, tenant)).concat();
    assert!(!text.contains("e2b_") && !text.contains(&token), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let names = ["key", "tenant", "method", "route", "object", "made", "status"];
            json!(names.map(|name| line[name].clone()))
        })
        .collect();
    let sandbox = "/sandboxes/{id}";
    let of = |what: &str| format!("{sandbox}/{what}");
    let expected = [
        json!(["a", "one", "POST", "/v2/sandboxes", null, [id], 201]),
        json!(["d", "one", "POST", of("snapshots"), id, ["mine:default"], 201]),
        json!(["c", "one", "DELETE", sandbox, id, null, 403]),
        json!(["a", "one", "POST", of("fork"), id, [fork], 201]),
        json!(["a", "one", "DELETE", "/templates/{id}", "mine:default", null, 204]),
        json!(["b", "two", "DELETE", sandbox, id, null, 404]),
        json!(["b", "two", "POST", "/sandboxes", null, null, 429]),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_a_client_that_has_hung_up_asked_for_is_in_the_audit_trail() {
    let bed = bed_of_tenants("", testing::rules());
    *bed.backend.create_takes.lock() = Duration::from_secs(60);
    let create = bed.by("a", Method::POST, "/sandboxes", base());
    assert!(tokio::time::timeout(Duration::from_millis(50), create).await.is_err());
    bed.gateway.audit().settle(Duration::from_secs(10)).await;
    let text = trail(&bed, "one");
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!((&line["route"], &line["status"]), (&json!("/sandboxes"), &json!(0)));
}

fn trail(bed: &Bed, tenant: &str) -> String {
    std::fs::read_to_string(bed.dir.path().join(format!("audit/{tenant}.jsonl"))).unwrap()
}
