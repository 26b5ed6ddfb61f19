//! The document's word on what the data plane answers in the place of a sandbox, both ways round.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::ops::document::without_routes;

const NOWHERE: &str = "Host: 80-nosuch.localhost\r\n";
const PREFLIGHT: &str = "Origin: http://a.test\r\nAccess-Control-Request-Method: PUT\r\n";

struct Seen {
    document: Value,
    /// `SandboxPort 502`.
    statuses: BTreeSet<String>,
    messages: BTreeSet<String>,
}

impl Seen {
    /// Sends a request that is one of `item`, and finds what is answered in the document.
    async fn send(&mut self, world: &World, item: &str, request_line: &str, headers: &str) {
        let mut client = world.connect().await;
        client.write(&format!("{request_line} HTTP/1.1\r\n{headers}\r\n")).await;
        let head = client.head().await;
        let (status, method) = (&head[9..12], request_line.split(' ').next().unwrap());
        self.statuses.insert(format!("{item} {status}"));
        let components = &self.document["components"];
        let response = if method == "CONNECT" {
            &components["responses"]["Routed405"]
        } else {
            let path_item = &components["pathItems"][item];
            resolve(&self.document, &path_item[method.to_lowercase()]["responses"][status])
        };
        assert!(response.is_object(), "{request_line}: {status} is not in the document");
        let Some(content) = response.get("content") else { return };

        let retried = head.contains("should-retry: false");
        assert!(!retried || response["headers"]["should-retry"].is_object(), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        client.stream.read_exact(&mut body).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        fits(&body, resolve(&self.document, &content["application/json"]["schema"]));
        self.messages.insert(body["message"].as_str().unwrap().to_owned());
    }
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(at) => document.pointer(&at[1..]).unwrap(),
        None => value,
    }
}

/// As much of JSON Schema as these bodies need.
fn fits(body: &Value, schema: &Value) {
    for (name, value) in body.as_object().unwrap() {
        let property = &schema["properties"][name];
        match property["type"].as_str() {
            Some("string") => assert!(value.is_string(), "{name} of {body}"),
            Some("integer") => {
                assert!(value.as_u64() >= property["minimum"].as_u64(), "{name} of {body}");
                let most = property["maximum"].as_u64();
                assert!(most.is_none() || value.as_u64() <= most, "{name} of {body}");
            }
            _ => panic!("{name} of {body} is not in {schema}"),
        }
    }
    for name in schema["required"].as_array().unwrap() {
        assert!(body.get(name.as_str().unwrap()).is_some(), "no {name} in {body}");
    }
}

#[tokio::test]
async fn the_document_has_each_answer_that_comes_in_a_sandboxs_place_and_no_others() {
    let document = serde_json::to_value(without_routes()).unwrap();
    let mut seen = Seen { document, statuses: BTreeSet::new(), messages: BTreeSet::new() };
    let (port, file) = ("SandboxPort", "SandboxFile");

    let world = World::with(Router::new().fallback(async || "inside")).await;
    let (id, ours) = (world.id, format!("Host: gateway\r\n{}", world.to(8080)));
    let half = format!("Host: gateway\r\nE2b-Sandbox-Id: {id}\r\n");
    seen.send(&world, port, "GET /", &half).await;
    seen.send(&world, port, "DELETE /", "Host: 80-a_b.localhost\r\n").await;
    seen.send(&world, port, "PUT /", &format!("{half}E2b-Sandbox-Port: 0\r\n")).await;
    seen.send(&world, port, "GET /", &format!("Host: other\r\n{ours}")).await;
    let coded = format!("{ours}Transfer-Encoding: gzip, chunked\r\n");
    seen.send(&world, port, "POST /", &coded).await;
    let init = format!("Host: gateway\r\n{}", world.to(49983));
    seen.send(&world, port, "POST /init", &init).await;
    seen.send(&world, port, "PATCH /", NOWHERE).await;
    seen.send(&world, port, "OPTIONS /", NOWHERE).await;
    seen.send(&world, port, "OPTIONS /", &format!("{NOWHERE}{PREFLIGHT}")).await;
    let closed = format!("Host: gateway\r\n{}", world.to(8081));
    seen.send(&world, port, "TRACE /", &closed).await;
    seen.send(&world, "CONNECT", "CONNECT a.test:443", "Host: a.test:443\r\n").await;

    let (forged, token) = ("/files?signature=v1_AAAA", "Host: gateway\r\nX-Access-Token: no\r\n");
    seen.send(&world, file, &format!("GET {forged}"), "Host: gateway\r\n").await;
    seen.send(&world, file, "POST /files", token).await;
    seen.send(&world, file, "POST /files", &format!("Host: other\r\n{token}")).await;
    seen.send(&world, file, "OPTIONS /files", &format!("{token}{PREFLIGHT}")).await;

    // Nothing is in this one, and no answer of its tunnel's is one.
    let broken = World::new().await;
    broken.accept(broken.bind("tunnel.sock"), |mut stream| async move {
        let _ = stream.read_u16().await;
        let _ = stream.write_all(&[7]).await;
    });
    let token = format!("Host: gateway\r\nX-Access-Token: {TOKEN}\r\n");
    seen.send(&broken, file, "GET /files", &token).await;
    let broken_port = format!("Host: gateway\r\n{}", broken.to(8080));
    seen.send(&broken, port, "GET /", &broken_port).await;
    let mad = World::new().await;
    mad.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let _ = stream.write_all(b"what?\r\n\r\n").await;
    });
    seen.send(&mad, port, "GET /", &format!("Host: gateway\r\n{}", mad.to(8080))).await;

    let shut = World::new().await;
    let facts = shut.sandbox().facts().clone();
    shut.readmit(Facts { traffic_token: Some("shown to few".into()), ..facts });
    let shut_port = format!("Host: gateway\r\n{}", shut.to(8080));
    seen.send(&shut, port, "GET /", &shut_port).await;
    let wrong = format!("{shut_port}e2b-traffic-access-token: no\r\n");
    seen.send(&shut, port, "GET /", &wrong).await;

    let full = World::with(Router::new().fallback(async || "inside")).await;
    let facts = full.sandbox().facts().clone();
    let limits = crate::limits::Limits { streams: Some(0), ..facts.limits };
    full.readmit(Facts { limits, ..facts });
    let full_port = format!("Host: gateway\r\n{}", full.to(8080));
    seen.send(&full, port, "GET /", &full_port).await;
    let token = format!("Host: gateway\r\nX-Access-Token: {TOKEN}\r\n");
    seen.send(&full, file, "GET /files", &token).await;

    let components = &seen.document["components"];
    let mut documented = BTreeSet::from(["CONNECT 405".to_owned()]);
    for (name, item) in components["pathItems"].as_object().unwrap() {
        for responses in
            item.as_object().unwrap().values().filter_map(|each| each["responses"].as_object())
        {
            let own = responses.keys().filter(|status| *status != "default");
            documented.extend(own.map(|status| format!("{name} {status}")));
        }
    }
    assert_eq!(seen.statuses, documented);
    let responses = components["responses"].as_object().unwrap().values();
    let examples = responses.flat_map(|response| {
        response["content"]["application/json"]["examples"].as_object().unwrap().values()
    });
    let examples: BTreeSet<String> =
        examples.map(|example| example["value"]["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(seen.messages, examples);
}
