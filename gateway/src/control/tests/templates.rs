//! Templates, as SDKs and the CLI read them.

use super::*;

#[tokio::test]
async fn templates_have_all_fields_that_clients_read() {
    let bed = bed();
    let list = bed.get("/templates?teamID=t").await;
    assert_eq!(list.status, StatusCode::OK);
    let [template] = list.body.as_array().unwrap().as_slice() else { panic!("{}", list.body) };
    for (field, value) in [
        ("templateID", json!("base")),
        ("cpuCount", json!(2)),
        ("memoryMB", json!(1024)),
        ("diskSizeMB", json!(5120)),
        ("public", json!(true)),
        ("aliases", json!(["base"])),
        ("names", json!(["base"])),
        ("createdAt", json!("2026-11-22T09:00:00.000Z")),
        ("updatedAt", json!("2026-11-22T09:00:00.000Z")),
        ("createdBy", Value::Null),
        ("lastSpawnedAt", Value::Null),
        ("spawnCount", json!(0)),
        ("buildCount", json!(1)),
        ("envdVersion", json!(envd::wire::ENVD_VERSION)),
        ("buildStatus", json!("ready")),
    ] {
        assert_eq!(template.get(field), Some(&value), "{field}");
    }
    let build = template["buildID"].as_str().unwrap();
    assert!(uuid::Uuid::parse_str(build).is_ok_and(|id| id.get_version_num() == 4), "{build}");

    let one = bed.get("/templates/base").await;
    for (field, value) in template.as_object().unwrap() {
        assert_eq!(&one.body[field], value, "{field}");
    }
    let [of_it] = one.body["builds"].as_array().unwrap().as_slice() else { panic!("{}", one.body) };
    assert_eq!((&of_it["buildID"], &of_it["status"]), (&json!(build), &json!("ready")));
    for field in ["createdAt", "updatedAt", "finishedAt", "cpuCount", "memoryMB"] {
        assert!(!of_it[field].is_null(), "{field}");
    }

    let paged = bed.get("/v2/templates?limit=1").await;
    assert_eq!(paged.body, list.body);
    assert!(!paged.headers.contains_key("x-next-token"));
    for wrong in ["limit=0", "limit=101", "nextToken=x", "nextToken=YWJj"] {
        let answer = bed.get(&format!("/v2/templates?{wrong}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let token = super::super::page::names::token("base");
    let after = bed.get(&format!("/v2/templates?nextToken={token}")).await;
    assert_eq!((after.status, after.body), (StatusCode::OK, json!([])));
}

#[tokio::test]
async fn a_name_is_taken_or_free_however_it_is_written() {
    let bed = bed();
    for (name, status) in [
        ("base", 200),
        ("BASE", 200),
        ("base%3Adefault", 200),
        ("base%3Av2", 404),
        ("team%2Fbase", 404),
        ("nosuch", 404),
        ("building", 503),
        ("broken", 503),
        ("a%20b", 400),
        ("%FF", 400),
    ] {
        for path in ["/templates/aliases", "/templates"] {
            let answer = bed.get(&format!("{path}/{name}")).await;
            assert_eq!(answer.status.as_u16(), status, "{path} {name}: {}", answer.body);
        }
    }
    let taken = bed.get("/templates/aliases/base").await.body;
    assert_eq!(taken, json!({"templateID": "base", "public": true}));
}
