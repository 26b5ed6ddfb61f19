//! Lists: their pages and their filters.

use super::*;

#[tokio::test]
async fn lists_come_in_pages_in_either_order() {
    let bed = bed();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(bed.create(base()).await);
    }
    for (order, expected) in
        [("asc", ids.clone()), ("desc", ids.iter().rev().cloned().collect::<Vec<_>>())]
    {
        let (mut seen, mut query) = (Vec::new(), format!("/v2/sandboxes?order={order}&limit=2"));
        for page in 0.. {
            let answer = bed.get(&query).await;
            let total = answer.headers.get("x-total-running").map(|total| total.to_str().unwrap());
            assert_eq!(total, (page == 0).then_some("5"));
            let of_page = answer.body.as_array().unwrap();
            seen.extend(of_page.iter().map(|s| s["sandboxID"].as_str().unwrap().to_owned()));
            let Some(token) = answer.headers.get("x-next-token") else {
                assert_eq!(page, 2);
                break;
            };
            let token = token.to_str().unwrap();
            query = format!("/v2/sandboxes?order={order}&limit=2&nextToken={token}");
        }
        assert_eq!(seen, expected, "{order}");
    }
    let exact = bed.get("/v2/sandboxes?limit=5").await;
    assert!(!exact.headers.contains_key("x-next-token"));
    assert_eq!(bed.get("/sandboxes").await.body[0]["sandboxID"], ids[4].as_str());
}

#[tokio::test]
async fn lists_are_filtered() {
    let bed = bed();
    let odd = "a&b=c d+é%";
    let a = bed.create(json!({"templateID": "base", "metadata": {"k": odd, "n": "1"}})).await;
    let b = bed.create(json!({"templateID": "base", "metadata": {"k": "x", "n": "1"}})).await;
    let escape = |text: &str| {
        percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
    };
    let thrice = escape(&format!("k={}&n=1", escape(&escape(odd))));
    let since = bed.get(&format!("/sandboxes/{b}")).await.body["startedAt"].clone();
    let since = escape(since.as_str().unwrap());
    let both = BTreeSet::from([a.clone(), b.clone()]);
    for (query, expected) in [
        (String::new(), both.clone()),
        (format!("metadata={thrice}"), BTreeSet::from([a.clone()])),
        ("metadata=n%3D1".into(), both.clone()),
        ("metadata=n%3D2".into(), BTreeSet::new()),
        ("state=running".into(), both.clone()),
        ("state=running,paused".into(), both.clone()),
        ("state=running%2Cpaused".into(), both.clone()),
        ("state=running&state=paused".into(), both.clone()),
        ("state=paused".into(), BTreeSet::new()),
        ("metadata=&template=&nextToken=".into(), both.clone()),
        ("template=base".into(), both.clone()),
        ("template=other".into(), BTreeSet::new()),
        ("startedAfter=2020-01-01T00%3A00%3A00Z".into(), both.clone()),
        ("startedAfter=2999-01-01T00%3A00%3A00%2B01%3A00".into(), BTreeSet::new()),
        (format!("startedAfter={since}&metadata=k%3Dx"), BTreeSet::from([b.clone()])),
    ] {
        let answer = bed.get(&format!("/v2/sandboxes?{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}: {}", answer.body);
        let found = answer.body.as_array().unwrap().iter();
        let found: BTreeSet<_> =
            found.map(|s| s["sandboxID"].as_str().unwrap().to_owned()).collect();
        assert_eq!(found, expected, "{query}");
        assert_eq!(answer.headers.contains_key("x-total-running"), query != "state=paused");
    }
    let old = bed.get(&format!("/sandboxes?metadata={thrice}")).await;
    assert_eq!(old.body.as_array().unwrap().len(), 1);
    for wrong in [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=",
        "order=",
        "state=",
        "startedAfter=",
        "order=up",
        "state=dead",
        "nextToken=x",
        "startedAfter=yesterday",
        "metadata=a",
        "metadata=a%3Db%3Dc",
    ] {
        let answer = bed.get(&format!("/v2/sandboxes?{wrong}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}
