//! Webhooks over the API: their shapes, whose they are, and that their secret is told to nobody.

use super::{tenants::bed_of_tenants, *};

const HOOKS: &str = "/events/webhooks";

fn hook() -> Value {
    json!({
        "name": "mine", "url": "https://example.com/hook", "signatureSecret": "not-to-be-told",
        "events": ["sandbox.lifecycle.created", "exec.*"]
    })
}

#[tokio::test]
async fn a_webhook_is_made_read_changed_and_deleted_in_e2bs_shape() {
    let bed = bed();
    let made = bed.post(HOOKS, hook()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let fields: BTreeSet<&str> = made.body.as_object().unwrap().keys().map(|it| &**it).collect();
    let wanted = ["id", "teamId", "name", "createdAt", "url", "enabled", "events"];
    assert_eq!(fields, wanted.into());
    assert_eq!((&made.body["teamId"], &made.body["enabled"]), (&json!("default"), &json!(true)));
    let id = made.body["id"].as_str().unwrap();
    let path = format!("{HOOKS}/{id}");
    assert_eq!(bed.get(&path).await.body, made.body);
    assert_eq!(bed.get(HOOKS).await.body, json!([made.body]));

    let change = json!({"enabled": false, "events": ["*"], "signatureSecret": "another"});
    let changed = bed.call(Method::PATCH, &path, change.to_string()).await;
    assert_eq!(changed.status, StatusCode::OK, "{}", changed.body);
    assert_eq!((&changed.body["enabled"], &changed.body["events"]), (&json!(false), &json!(["*"])));
    assert_eq!(changed.body["url"], "https://example.com/hook");
    assert_eq!(bed.get(&path).await.body, changed.body);

    let none = bed.get(&format!("{path}/deliveries")).await;
    assert_eq!(none.body, json!({"data": [], "nextCursor": null}));
    let stats = bed.get(&format!("{path}/stats")).await.body;
    assert_eq!(stats["durationMs"], json!({"minimum": 0.0, "average": 0.0, "maximum": 0.0}));
    assert_eq!((&stats["total"], &stats["buckets"]), (&json!(0), &json!([])));

    let gone = bed.call(Method::DELETE, &path, Body::empty()).await;
    assert_eq!((gone.status, gone.body), (StatusCode::OK, Value::Null));
    assert_eq!(bed.get(&path).await.status, StatusCode::NOT_FOUND);
    let again = bed.call(Method::DELETE, &path, Body::empty()).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_wrong_with_a_webhook_is_said_without_its_secret() {
    let bed = bed();
    for (field, value, why) in [
        ("url", json!("http://127.0.0.1:3000/"), "webhooks_allow"),
        ("url", json!("http://localhost/"), "webhooks_allow"),
        ("url", json!("http://169.254.169.254/latest"), "webhooks_allow"),
        ("url", json!("ftp://example.com"), "http:// or https://"),
        ("url", json!("https://u:p@example.com"), "signatureSecret"),
        ("events", json!([]), "1 to 64"),
        ("events", json!(["sandbox.lifecycle.create"]), "exec.completed"),
        ("events", json!("exec.*"), "expected a sequence"),
        ("name", json!(""), "name"),
        ("name", Value::Null, "expected a string"),
        ("signatureSecret", json!(""), "signatureSecret"),
    ] {
        let mut body = hook();
        body[field] = value;
        let refused = bed.post(HOOKS, body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{field}");
        assert!(message(&refused).contains(why), "{}", refused.body);
        assert!(!refused.body.to_string().contains("not-to-be-told"), "{}", refused.body);
    }
    assert_eq!(bed.get(HOOKS).await.body, json!([]));
}

#[tokio::test]
async fn a_webhook_of_another_tenant_is_as_one_that_never_was() {
    let bed = bed_of_tenants("", testing::rules());
    let made = bed.by("a", Method::POST, HOOKS, hook()).await;
    let id = made.body["id"].as_str().unwrap();
    assert_eq!(bed.by("b", Method::GET, HOOKS, Value::Null).await.body, json!([]));
    let never = "00000000-0000-4000-8000-000000000000";
    for (method, end) in [
        (Method::GET, ""),
        (Method::PATCH, ""),
        (Method::DELETE, ""),
        (Method::GET, "/deliveries"),
        (Method::GET, "/stats"),
    ] {
        let of = async |id: &str| {
            let path = format!("{HOOKS}/{id}{end}");
            let answer = bed.by("b", method.clone(), &path, json!({"enabled": false})).await;
            (answer.status, answer.body.to_string().replace(id, ""))
        };
        let (theirs, none) = (of(id).await, of(never).await);
        assert_eq!(theirs, none, "{method} {end}");
        assert_eq!(theirs.0, StatusCode::NOT_FOUND, "{method} {end}");
    }
    let own = bed.by("a", Method::GET, &format!("{HOOKS}/{id}"), Value::Null).await;
    assert_eq!(own.body, made.body);
}

/// The id of a new one.
pub(super) async fn made(bed: &Bed) -> String {
    bed.post(HOOKS, hook()).await.body["id"].as_str().unwrap().to_owned()
}

/// Each status that there can be, but for those of every call.
pub(super) async fn statuses(bed: &Bed) {
    let path = format!("{HOOKS}/{}", made(bed).await);
    bed.get(HOOKS).await;
    for end in ["", "/deliveries", "/stats"] {
        assert_eq!(bed.get(&format!("{path}{end}")).await.status, StatusCode::OK, "{end}");
    }
    for wrong in
        ["deliveries?limit=0", "deliveries?cursor=x", "deliveries?orderAsc=1", "stats?start=now"]
    {
        let refused = bed.get(&format!("{path}/{wrong}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let change = || json!({"name": "other"}).to_string();
    assert_eq!(bed.call(Method::PATCH, &path, change()).await.status, StatusCode::OK);
    let dir = bed.dir.path().join("webhooks");
    let file = dir.join(path.rsplit('/').next().unwrap()).with_extension("json");
    std::fs::rename(&file, dir.join("aside")).unwrap();
    std::fs::create_dir(&file).unwrap();
    for (method, path, body) in
        [(Method::PATCH, &path, change()), (Method::DELETE, &path, String::new())]
    {
        let failed = bed.call(method, path, body).await;
        assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", failed.body);
    }
    assert_eq!(bed.get(&path).await.body["name"], "other");
    std::fs::remove_dir(&file).unwrap();
    assert_eq!(bed.call(Method::DELETE, &path, Body::empty()).await.status, StatusCode::OK);
    std::fs::remove_dir_all(&dir).unwrap();
    let failed = bed.post(HOOKS, hook()).await;
    assert_eq!(failed.status, StatusCode::INTERNAL_SERVER_ERROR, "{}", failed.body);
    std::fs::create_dir(&dir).unwrap();
}
