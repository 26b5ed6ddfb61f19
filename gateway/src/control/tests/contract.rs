//! `/openapi.json` against the routes and what they answer.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::{tenants::bed_of_tenants, *};
use crate::template::FindError;

/// `GET /path`, and a status.
pub(super) type Seen = BTreeSet<(String, u16)>;

/// The document of a bed, and what the bed has answered.
#[derive(Default)]
pub(super) struct Document {
    document: OnceCell<Value>,
    seen: Mutex<Seen>,
}

impl Document {
    pub(super) async fn get(&self, bed: &Bed) -> &Value {
        let fetch = || async {
            let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
            bed.answer(request).await.body
        };
        self.document.get_or_init(fetch).await
    }

    pub(super) fn into_seen(self) -> Seen {
        self.seen.into_inner()
    }

    /// Fails where the document does not say that this may be answered.
    pub(super) async fn look_up(&self, bed: &Bed, method: &Method, path: &str, status: StatusCode) {
        let document = self.get(bed).await;
        let operation = template_of(document, path)
            .map(|path| (path, &document["paths"][path][method.as_str().to_lowercase()]))
            .filter(|(_, operation)| operation.is_object());
        let Some((path, operation)) = operation else {
            let unknown = matches!(status.as_u16(), 404 | 405);
            assert!(unknown, "{method} {path} is not in the document and answered {status}");
            return;
        };
        let known = operation["responses"].get(status.as_str()).is_some();
        assert!(known, "{method} {path} answered {status}, which the document does not say");
        self.seen.lock().insert((format!("{method} {path}"), status.as_u16()));
    }
}

/// `/sandboxes/{id}` of `/sandboxes/abc`; names beat parameters.
fn template_of<'a>(document: &'a Value, path: &str) -> Option<&'a str> {
    let fits = |template: &str| {
        let (mut theirs, mut ours) = (template.split('/'), path.split('/'));
        loop {
            match (theirs.next(), ours.next()) {
                (None, None) => return true,
                (Some(t), Some(o)) if t == o || (t.starts_with('{') && !o.is_empty()) => {}
                _ => return false,
            }
        }
    };
    let paths = document["paths"].as_object().unwrap().keys().map(String::as_str);
    paths.filter(|template| fits(template)).min_by_key(|template| template.matches('{').count())
}

/// Method, path as in the document, operation.
pub(super) fn operations(document: &Value) -> Vec<(Method, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let each = paths.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(move |(method, operation)| {
            let method = method.to_uppercase().parse().unwrap();
            (method, path.as_str(), operation)
        })
    });
    each.collect()
}

/// A path of that template which a handler looks into.
fn concrete(template: &str) -> String {
    let segments = template.split('/');
    let named = segments.map(|segment| if segment.starts_with('{') { NOT_OURS } else { segment });
    named.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn each_path_of_the_document_answers_the_methods_of_the_document_and_no_others() {
    let bed = bed();
    let document = bed.document.get(&bed).await.clone();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            assert!(
                operation["responses"].as_object().is_some_and(|all| !all.is_empty()),
                "{path}"
            );
            let id = operation["operationId"].as_str().unwrap().to_owned();
            assert!(ids.insert(id.clone()), "{path}: {id} came before");
        }
        let request = Request::builder().method("PROPFIND").uri(concrete(path));
        let answer = bed.answer(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed = answer.headers["allow"].to_str().unwrap().to_lowercase();
        let allowed: BTreeSet<&str> =
            allowed.split(',').filter(|method| *method != "head").collect();
        let documented: BTreeSet<&str> =
            item.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(allowed, documented, "{path}");
    }
}

#[tokio::test]
async fn the_document_has_all_it_refers_to_and_the_bounds_of_this_gateway() {
    let bed = bed();
    let document = bed.document.get(&bed).await;
    let text = document.to_string();
    let refs = text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
    let dangling: Vec<_> = refs.filter(|at| document.pointer(at).is_none()).collect();
    assert!(dangling.is_empty(), "{dangling:?}");
    let timeout = &document["components"]["schemas"]["NewSandbox"]["properties"]["timeout"];
    assert_eq!((&timeout["minimum"], &timeout["maximum"]), (&json!(1), &json!(86_400)));
}

/// The other way round, as far as text can tell: no route can come about without its document.
#[test]
fn routes_come_from_documented_handlers_only() {
    let sources =
        [include_str!("../mod.rs"), include_str!("../../ops/mod.rs"), include_str!("../../lib.rs")];
    for source in sources {
        for way in [".route(", ".route_service(", ".nest(", ".nest_service(", "Router::new()"] {
            let found = source.matches(way).count() - source.matches(&format!("Api{way}")).count();
            assert_eq!(found, 0, "{way}");
        }
    }
    let handlers = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/control")).unwrap();
    for file in handlers.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        let source = std::fs::read_to_string(&file).unwrap();
        assert!(!source.contains(".route("), "{}", file.display());
    }
}

#[tokio::test]
async fn every_status_of_the_document_can_come() {
    let bed = bed_with(Rules { max_sandboxes: 100, ..testing::rules() });
    let document = bed.document.get(&bed).await.clone();
    let mut seen = BTreeSet::new();
    seen.extend(without_a_key(&document).await);
    seen.extend(by_a_foreign_name(&document).await);
    seen.extend(before_there_is_a_template().await);
    seen.extend(too_often().await);
    seen.extend(pools::pools().await);
    seen.extend(pools::batches().await);
    bodies_that_are_late_or_large(&bed, &document).await;
    creates(&bed).await;
    pauses(&bed).await;
    ends(&bed).await;
    copies(&bed).await;
    networks(&bed).await;
    super::events::every_status(&bed).await;
    opensandbox::answers(&bed).await;
    agents::answers(&bed).await;
    super::webhooks::statuses(&bed).await;
    everything_else(&bed, &document).await;
    seen.extend(bed.document.seen.lock().iter().cloned());

    let mut documented = Seen::new();
    for (method, path, operation) in operations(&document) {
        for status in operation["responses"].as_object().unwrap().keys() {
            documented.insert((format!("{method} {path}"), status.parse().unwrap()));
        }
    }
    let never: Vec<_> = documented.difference(&seen).collect();
    assert!(never.is_empty(), "in the document, and never answered: {never:#?}");
}

async fn without_a_key(document: &Value) -> Seen {
    let bed = bed();
    for (method, path, operation) in operations(document) {
        let request = Request::builder().method(method).uri(concrete(path));
        let answer = bed.send(request.body(Body::empty()).unwrap()).await;
        let guarded = answer.status == StatusCode::UNAUTHORIZED;
        let ways = operation["security"].as_array().unwrap();
        assert_eq!(guarded, ways.iter().all(|way| way != &json!({})), "{path}");
    }
    bed.document.seen.into_inner()
}

async fn by_a_foreign_name(document: &Value) -> Seen {
    let bed = without_keys();
    for (method, path, _) in operations(document) {
        let request = Request::builder().method(method).uri(concrete(path)).header("host", "evil");
        bed.send(request.header("x-api-key", "k").body(Body::empty()).unwrap()).await;
    }
    bed.document.seen.into_inner()
}

async fn before_there_is_a_template() -> Seen {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(TestBackend::default());
    let building = |_: &str| Err(FindError::Building("at it".into()));
    let (rules, inside) = (testing::rules(), testing::inside(&backend));
    let sandboxes = Sandboxes::new(dir.path(), backend.clone(), rules, Box::new(building), inside);
    let bed = bed_of(dir, backend, sandboxes, Keys::parse(KEY).unwrap());
    bed.get("/health").await;
    bed.document.seen.into_inner()
}

async fn too_often() -> Seen {
    let bed = bed_of_tenants(
        "[tenant.one]\ncreates-per-minute = 1\nmax-snapshots = 0\n",
        testing::rules(),
    );
    let made = bed.by("a", Method::POST, "/v2/sandboxes", base()).await;
    let id = made.body["sandboxID"].as_str().unwrap();
    for path in [
        "/sandboxes",
        "/v2/sandboxes",
        &format!("/sandboxes/{id}/fork"),
        &format!("/sandboxes/{id}/snapshots"),
    ] {
        bed.by("a", Method::POST, path, base()).await;
    }
    let batch = json!({"templateID": "base", "replicas": 1});
    bed.by("a", Method::POST, "/batches", batch).await;
    bed.document.seen.into_inner()
}

async fn bodies_that_are_late_or_large(bed: &Bed, document: &Value) {
    let id = bed.create(base()).await;
    let hook = super::webhooks::made(bed).await;
    for (method, path, operation) in operations(document) {
        if operation.get("requestBody").is_none() {
            continue;
        }
        let of = if path.starts_with("/events/webhooks") { &hook } else { &id };
        let path = path.replace("{id}", of);
        let large = "x".repeat(super::super::MAX_BODY + 1);
        bed.call(method.clone(), &path, large).await;
        tokio::time::pause();
        let never = futures_util::stream::pending::<Result<String, std::io::Error>>();
        bed.call(method, &path, Body::from_stream(never)).await;
        tokio::time::resume();
    }
}

async fn creates(bed: &Bed) {
    for path in ["/sandboxes", "/v2/sandboxes"] {
        for template in ["base", "nosuch", "building", "no template"] {
            bed.post(path, json!({"templateID": template})).await;
        }
        bed.backend.failing_creates.store(1, Ordering::SeqCst);
        bed.post(path, base()).await;
        for failure in [&bed.backend.late_creates, &bed.backend.full_disks] {
            failure.store(1, Ordering::SeqCst);
            bed.post(path, base()).await;
        }
        for timeout in [20, 30] {
            let request = Request::post(path)
                .header("x-api-key", KEY)
                .header("idempotency-key", path)
                .body(Body::from(json!({"templateID": "base", "timeout": timeout}).to_string()));
            bed.send(request.unwrap()).await;
        }
        killed_before_it_was_ready(bed, path).await;
    }
}

async fn killed_before_it_was_ready(bed: &Bed, path: &str) {
    let ids = || -> BTreeSet<String> {
        let entries = std::fs::read_dir(bed.dir.path().join("sandboxes")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let before = ids();
    *bed.backend.create_takes.lock() = Duration::from_secs(1);
    let kill = async {
        let new = loop {
            if let Some(new) = ids().difference(&before).next() {
                break new.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        bed.call(Method::DELETE, &format!("/sandboxes/{new}"), Body::empty()).await;
    };
    let (created, ()) = tokio::join!(bed.post(path, base()), kill);
    assert_eq!(created.status, StatusCode::CONFLICT);
    *bed.backend.create_takes.lock() = Duration::ZERO;
}

async fn pauses(bed: &Bed) {
    let id = bed.create(base()).await;
    let old = |what: &str| format!("/sandboxes/{id}/{what}");
    for failure in [&bed.backend.failing_freezes, &bed.backend.late_freezes] {
        failure.store(1, Ordering::SeqCst);
        bed.post(&old("pause"), json!({})).await;
    }
    *bed.backend.freeze_takes.lock() = Duration::from_secs(1);
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for (what, body) in [("timeout", json!({"timeout": 9})), ("refreshes", json!({}))] {
            let early = bed.post(&old(what), body).await;
            assert_eq!(early.status, StatusCode::CONFLICT, "{what}");
        }
    };
    tokio::join!(async { bed.post(&old("pause"), json!({})).await }, meanwhile);
    *bed.backend.freeze_takes.lock() = Duration::ZERO;
    for path in [old("resume"), old("connect"), format!("/v2/sandboxes/{id}/connect")] {
        // Twice: the second time it is paused already.
        for _ in 0..2 {
            bed.post(&old("pause"), json!({})).await;
        }
        for failure in [&bed.backend.failing_thaws, &bed.backend.late_thaws] {
            failure.store(1, Ordering::SeqCst);
            bed.post(&path, json!({"timeout": 60})).await;
        }
        let resumed = bed.post(&path, json!({"timeout": 60})).await;
        assert_eq!(resumed.status, StatusCode::CREATED, "{path}");

        bed.backend.mute.store(true, Ordering::SeqCst);
        bed.post(&old("pause"), json!({"memory": false})).await;
        bed.post(&old("pause"), json!({})).await;
        let refused = bed.post(&path, json!({"timeout": 60})).await;
        assert_eq!(refused.body["error_code"], "sandbox_snapshot_guest_agent_unresponsive");
        bed.backend.mute.store(false, Ordering::SeqCst);
        for failure in [&bed.backend.full_creates, &bed.backend.full_disks] {
            failure.store(1, Ordering::SeqCst);
            bed.post(&path, json!({"timeout": 60, "memory": false})).await;
        }
        let booted = bed.post(&path, json!({"timeout": 60})).await;
        assert_eq!(booted.status, StatusCode::CREATED, "{path}");
    }
}

async fn copies(bed: &Bed) {
    let id = bed.create(base()).await;
    for path in [format!("/sandboxes/{id}/snapshots"), format!("/sandboxes/{id}/fork")] {
        let backend = &bed.backend;
        for failure in [&backend.failing_copies, &backend.late_copies, &backend.full_disks] {
            failure.store(1, Ordering::SeqCst);
            bed.post(&path, json!({})).await;
        }
        *bed.backend.copy_takes.lock() = Duration::from_secs(1);
        let both = tokio::join!(bed.post(&path, json!({})), bed.post(&path, json!({})));
        let mut both = [both.0.status, both.1.status];
        both.sort_unstable();
        assert_eq!(both, [StatusCode::CREATED, StatusCode::SERVICE_UNAVAILABLE], "{path}");
        *bed.backend.copy_takes.lock() = Duration::ZERO;
        bed.post(&format!("/sandboxes/{id}/pause"), json!({})).await;
        assert_eq!(bed.post(&path, json!({})).await.status, StatusCode::CONFLICT, "{path}");
        bed.post(&format!("/sandboxes/{id}/connect"), json!({"timeout": 60})).await;
        for wrong in [json!({"memory": true}), json!({"count": 0, "name": "not a name"})] {
            bed.post(&path, wrong).await;
        }
    }
    let named = bed.post(&format!("/sandboxes/{id}/snapshots"), json!({"name": "Mine:V1"})).await;
    assert_eq!(named.body["snapshotID"], "mine:v1");
    assert_eq!(named.body["names"], json!(["mine:v1"]));
    let over = bed.create(json!({"templateID": "mine:v1"})).await;
    let statuses = [("base", 403), ("mine%3Av1", 400), ("mine%3Av1", 204), ("mine%3Av1", 404)];
    for (reference, status) in statuses {
        if status == 204 {
            bed.call(Method::DELETE, &format!("/sandboxes/{over}"), Body::empty()).await;
        }
        let path = format!("/templates/{reference}");
        let deleted = bed.call(Method::DELETE, &path, Body::empty()).await;
        assert_eq!(deleted.status.as_u16(), status, "{reference}");
    }
}

async fn networks(bed: &Bed) {
    let id = bed.create(base()).await;
    let path = format!("/sandboxes/{id}/network");
    let put = |body: Value| bed.call(Method::PUT, &path, body.to_string());
    bed.backend.failing_networks.store(1, Ordering::SeqCst);
    let failed = put(json!({"denyOut": ["8.8.8.8"]})).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(bed.get(&format!("/sandboxes/{id}")).await.body.get("network").is_none());
    bed.backend.late_networks.store(1, Ordering::SeqCst);
    assert_eq!(put(json!({})).await.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(put(json!({})).await.status, StatusCode::NO_CONTENT);
    bed.post(&format!("/sandboxes/{id}/pause"), json!({})).await;
    assert_eq!(put(json!({})).await.status, StatusCode::CONFLICT);
}

/// Of one whose end takes its time.
async fn ends(bed: &Bed) {
    let id = bed.create(base()).await;
    bed.backend.failing_stops.store(1000, Ordering::SeqCst);
    bed.call(Method::DELETE, &format!("/sandboxes/{id}"), Body::empty()).await;
    for path in [format!("/sandboxes/{id}/connect"), format!("/v2/sandboxes/{id}/connect")] {
        let refused = bed.post(&path, json!({"timeout": 60})).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{path}");
    }
    bed.backend.failing_stops.store(0, Ordering::SeqCst);
}

/// Good and bad of every operation there is left.
async fn everything_else(bed: &Bed, document: &Value) {
    let id = bed.create(base()).await;
    for (method, path, _) in operations(document) {
        let good = match path {
            _ if method == Method::DELETE => continue,
            // What is answered there has no end.
            _ if path.ends_with("/watch") => continue,
            "/templates/{id}" | "/templates/aliases/{alias}" => {
                for name in ["nosuch", "building", "%FF"] {
                    let path = path.replace("{id}", name).replace("{alias}", name);
                    bed.call(method.clone(), &path, Body::empty()).await;
                }
                path.replace("{id}", "base").replace("{alias}", "base")
            }
            "/admin/log-level" => {
                bed.call(method.clone(), path, json!({"level": "debug"}).to_string()).await;
                path.to_owned()
            }
            "/sandboxes/metrics" => {
                bed.call(method.clone(), path, Body::empty()).await;
                format!("{path}?sandbox_ids={id}")
            }
            _ => {
                for id in [NOT_OURS, "A_B"] {
                    let body = json!({"timeout": 600}).to_string();
                    let path = path.replace("{id}", id).replace("{port}", "80");
                    bed.call(method.clone(), &path.replace("{agent}", "admin"), body).await;
                }
                let path = path.replace("{id}", &id).replace("{port}", "80");
                path.replace("{agent}", "admin")
            }
        };
        bed.call(method.clone(), &good, json!({"timeout": 600}).to_string()).await;
        // What was paused by that goes on.
        bed.post(&format!("/v2/sandboxes/{id}/connect"), json!({})).await;
        bed.call(method, &format!("{good}?limit=x&metadata=x"), "{").await;
    }
    for (method, path, _) in operations(document) {
        if method == Method::DELETE {
            for id in ["A_B", NOT_OURS, &id] {
                bed.call(method.clone(), &path.replace("{id}", id), Body::empty()).await;
            }
        }
    }
}
