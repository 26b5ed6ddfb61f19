//! Snapshots in lists, and forks.

use super::*;

#[tokio::test]
async fn snapshots_are_listed_newest_first_in_pages_and_by_whose_they_are_and_their_name() {
    let bed = bed();
    let (one, two) = (bed.create(base()).await, bed.create(base()).await);
    let snapshot = async |id: &str, body| {
        let made = bed.post(&format!("/sandboxes/{id}/snapshots"), body).await;
        assert_eq!(made.status, StatusCode::CREATED);
        assert_eq!(made.body["memory"], false);
        made.body["snapshotID"].as_str().unwrap().to_owned()
    };
    let first = snapshot(&one, json!({})).await;
    let key = first.strip_suffix(":default").unwrap();
    let second = snapshot(&two, json!({"name": "mine", "memory": false})).await;
    let third = snapshot(&one, json!({"name": "mine:v2"})).await;
    assert_eq!((&*second, &*third), ("mine:default", "mine:v2"));
    let listed = async |query: &str| {
        let answer = bed.get(&format!("/snapshots?{query}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{query}");
        let ids = answer.body.as_array().unwrap().iter();
        let ids: Vec<String> =
            ids.map(|it| it["snapshotID"].as_str().unwrap().to_owned()).collect();
        let next = answer.headers.get("x-next-token").map(|it| it.to_str().unwrap().to_owned());
        (ids, next)
    };
    assert_eq!(listed("").await.0, [&third, &second, &first].map(String::clone));
    assert_eq!(listed(&format!("sandboxID={one}")).await.0, [third.clone(), first.clone()]);
    assert_eq!(listed("name=MINE").await.0, [third.clone(), second.clone()]);
    assert_eq!(listed("name=mine:v2").await.0, [third.as_str()]);
    assert_eq!(listed(&format!("name={key}")).await.0, [first.as_str()]);
    assert!(listed("name=no%20name").await.0.is_empty());
    let (page, next) = listed("limit=2").await;
    assert_eq!(page, [third, second]);
    let (page, next) = listed(&format!("limit=2&nextToken={}", next.unwrap())).await;
    assert_eq!((page, next), (vec![first], None));

    // What it is a template for, and what it is not.
    assert_eq!(bed.get("/templates/aliases/mine").await.body["templateID"], "mine");
    assert_eq!(bed.get("/templates/mine").await.status, StatusCode::NOT_FOUND);
    let made = bed.create(json!({"templateID": "mine:v2"})).await;
    assert_eq!(bed.get(&format!("/sandboxes/{made}")).await.body["templateID"], "mine");
    let used = bed.call(Method::DELETE, "/templates/mine", Body::empty()).await;
    assert_eq!(used.status, StatusCode::BAD_REQUEST);
    let taken = bed.post(&format!("/sandboxes/{one}/snapshots"), json!({"name": "base"})).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn each_fork_is_made_or_says_why_not() {
    let bed = bed_with(Rules { max_sandboxes: 4, ..testing::rules() });
    let (id, _other) = (bed.create(base()).await, bed.create(base()).await);
    let fork = async |body| bed.post(&format!("/sandboxes/{id}/fork"), body).await;
    for wrong in [json!({"count": 0}), json!({"count": 4}), json!({"timeout": 0})] {
        assert_eq!(fork(wrong).await.status, StatusCode::BAD_REQUEST);
    }
    let forked = fork(json!({"count": 3, "timeout": 60})).await;
    assert_eq!(forked.status, StatusCode::CREATED);
    let results = forked.body.as_array().unwrap();
    let (made, not): (Vec<_>, Vec<_>) = results.iter().partition(|it| it.get("error").is_none());
    assert_eq!((made.len(), not.len()), (2, 1));
    assert_eq!(not[0]["error"]["code"], 503);
    for made in made {
        let id = made["sandbox"]["sandboxID"].as_str().unwrap();
        assert!((59..=61).contains(&bed.seconds_left(id).await));
    }
}
