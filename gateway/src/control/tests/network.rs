//! What clients say of the network, and read of it.

use super::*;
use crate::network::Cidr;

async fn put(bed: &Bed, id: &str, body: Value) -> Answer {
    bed.call(Method::PUT, &format!("/sandboxes/{id}/network"), body.to_string()).await
}

async fn network(bed: &Bed, id: &str) -> Value {
    bed.get(&format!("/sandboxes/{id}")).await.body["network"].clone()
}

#[tokio::test]
async fn a_network_is_read_as_it_was_said() {
    let bed = bed();
    let mut body = base();
    let said = json!({
        "allowOut": ["example.com", "*.a.test", "1.1.1.1"], "denyOut": ["0.0.0.0/0"],
        "dnsServers": ["9.9.9.9"], "allowPublicTraffic": false,
        "maskRequestHost": "localhost:${PORT}", "httpsPorts": [3000],
    });
    body["network"] = said.clone();
    let created = bed.post("/v2/sandboxes", body).await;
    let token = created.body["trafficAccessToken"].as_str().unwrap();
    assert_eq!(token.len(), 64);
    assert_ne!(token, created.body["envdAccessToken"]);
    let id = created.body["sandboxID"].as_str().unwrap();
    assert_eq!(network(&bed, id).await, said);
    let connected = bed.post(&format!("/v2/sandboxes/{id}/connect"), json!({})).await;
    assert_eq!(connected.body["trafficAccessToken"], token);

    // A change is of what it may reach alone, and of all of that.
    assert_eq!(put(&bed, id, json!({"denyOut": ["8.8.8.8"]})).await.status, StatusCode::NO_CONTENT);
    let mut after = said;
    let fields = after.as_object_mut().unwrap();
    fields.retain(|name, _| !["allowOut", "dnsServers"].contains(&name.as_str()));
    fields["denyOut"] = json!(["8.8.8.8"]);
    assert_eq!(network(&bed, id).await, after);
    let (_, filter) = bed.backend.networks.lock().last().unwrap().clone();
    assert_eq!(filter.denied, ["8.8.8.8".parse::<Cidr>().unwrap()]);
}

#[tokio::test]
async fn of_a_sandbox_that_says_nothing_nothing_is_told() {
    let bed = bed();
    let created = bed.post("/v2/sandboxes", base()).await;
    assert!(created.body.get("trafficAccessToken").is_none());
    let id = created.body["sandboxID"].as_str().unwrap();
    assert_eq!(network(&bed, id).await, Value::Null);
    assert!(bed.backend.networks.lock().is_empty(), "nor asked of the packet filter");
}

#[tokio::test]
async fn the_internet_is_closed_and_opened_again() {
    let bed = bed();
    let id = bed.create(base()).await;
    let path = format!("/sandboxes/{id}");
    for (body, access, denied) in [
        (json!({"allow_internet_access": false}), json!(false), vec![Cidr::ALL]),
        (json!({"allow_internet_access": true}), json!(true), vec![]),
        (json!({"allow_internet_access": null, "rules": {}}), json!(null), vec![]),
    ] {
        assert_eq!(put(&bed, &id, body).await.status, StatusCode::NO_CONTENT);
        assert_eq!(bed.get(&path).await.body["allowInternetAccess"], access);
        assert_eq!(bed.backend.networks.lock().last().unwrap().1.denied, denied);
    }
}

#[tokio::test]
async fn a_change_that_cannot_be_had_changes_nothing() {
    let bed = bed();
    let id = bed.create(base()).await;
    for (body, text) in [
        (json!({"denyOut": ["a.test"]}), "invalid denied CIDR a.test"),
        (json!({"allowOut": ["a.test"]}), "ALL_TRAFFIC"),
        (json!({"rules": {"a.test": []}}), "network.rules is not supported yet"),
        (json!({"egressProxy": {"address": "a:1"}}), "network.egressProxy is not supported yet"),
        (json!({"allowPublicTraffic": true}), "network.allowPublicTraffic"),
        (json!({"denyOut": "0.0.0.0/0"}), "invalid body"),
        (json!([]), "must be a JSON object"),
    ] {
        let refused = put(&bed, &id, body.clone()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(message(&refused).contains(text), "{}", refused.body);
    }
    assert!(bed.backend.networks.lock().is_empty());
    assert_eq!(put(&bed, NOT_OURS, json!({})).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_create_whose_network_cannot_be_had_makes_nothing() {
    let bed = bed();
    for (network, text) in [
        (json!({"denyOut": ["example.com"]}), "invalid denied CIDR example.com"),
        (json!({"allowOut": ["example.com"]}), "ALL_TRAFFIC"),
        (json!({"allowOut": ["1.1.1.1:80"]}), "port-specific rules"),
        (json!({"dnsServers": ["10.0.0.53"]}), "invalid DNS server 10.0.0.53"),
        (json!({"httpsPorts": [49983]}), "httpsPorts"),
        (json!({"httpsPorts": ["443"]}), "invalid body"),
        (json!({"maskRequestHost": "ü"}), "maskRequestHost"),
        (json!({"rules": {"a.test": [{}]}}), "network.rules"),
        (json!({"egressProxy": {"address": "a:1"}}), "network.egressProxy"),
        (json!("all"), "invalid body"),
    ] {
        let mut body = base();
        body["network"] = network;
        let refused = bed.post("/v2/sandboxes", body.clone()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(message(&refused).contains(text), "{body}: {}", refused.body);
    }
    assert_eq!(bed.made(), 0);
}
