//! Timeouts: setting, connecting and refreshing.

use super::*;

#[tokio::test]
async fn set_timeout_moves_the_deadline_both_ways() {
    let bed = bed();
    let id = bed.create(base()).await;
    let path = format!("/sandboxes/{id}/timeout");
    for (timeout, left) in [(10, 10), (1000, 1000), (2_000_000_000, 86_400)] {
        let answer = bed.post(&path, json!({"timeout": timeout})).await;
        assert_eq!((answer.status, answer.body), (StatusCode::NO_CONTENT, Value::Null));
        assert!((left - bed.seconds_left(&id).await).abs() <= 1);
    }
    for wrong in [
        json!({"timeout": -1}),
        json!({"timeout": 5e9 as i64}),
        json!({}),
        json!({"timeout": "5"}),
        json!([5]),
    ] {
        assert_eq!(bed.post(&path, wrong.clone()).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(bed.post(&path, json!({"timeout": 0})).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn connect_and_refresh_only_move_the_deadline_away() {
    let bed = bed();
    let created =
        bed.post("/v2/sandboxes", json!({"templateID": "base", "timeout": 100})).await.body;
    let id = created["sandboxID"].as_str().unwrap();
    let (v1, v2) = (format!("/sandboxes/{id}/connect"), format!("/v2/sandboxes/{id}/connect"));
    let refresh = format!("/sandboxes/{id}/refreshes");
    for (path, body, left) in [
        (&v1, "{\"timeout\":0}", 100),
        (&v1, "{\"timeout\":50}", 100),
        (&refresh, "", 100),
        (&refresh, "{\"duration\":1}", 100),
        (&v1, "{\"timeout\":150}", 150),
        (&refresh, "{\"duration\":200}", 200),
        (&v2, "", 300),
        (&v2, "null", 300),
        (&v2, "{}", 300),
        (&v2, "{\"timeout\":400,\"memory\":true}", 400),
        (&v2, "{}", 400),
    ] {
        let answer = bed.call(Method::POST, path, body).await;
        if *path == refresh {
            assert_eq!(answer.status, StatusCode::NO_CONTENT);
        } else {
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.body, created);
        }
        assert!((left - bed.seconds_left(id).await).abs() <= 1, "{path} {body}");
    }
    for (path, body) in [
        (&v1, "{}"),
        (&v1, ""),
        (&v1, "{\"timeout\":-1}"),
        (&v2, "{\"timeout\":90000}"),
        (&v2, "{\"timeout\":true}"),
        (&v2, "{"),
        (&refresh, "{\"duration\":3601}"),
        (&refresh, "{\"duration\":-1}"),
    ] {
        let answer = bed.call(Method::POST, path, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {body}");
    }
}
