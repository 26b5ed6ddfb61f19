//! Which requests reach which port, and what the others are told.

use axum::{Router, extract::Request, http::HeaderMap, routing::any};

use super::*;
use crate::data::signed::tests::sign;

fn echo() -> Router {
    Router::new().fallback(async |request: Request| {
        let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
        format!("{} {} {}", request.method(), request.uri(), host.unwrap_or_default())
    })
}

#[tokio::test]
async fn headers_and_host_lead_to_the_port() {
    let world = World::with(echo()).await;
    assert_eq!(world.ask(49983, "GET /health HTTP/1.1").await.body, "GET /health gateway");
    assert_eq!(world.ask(8080, "PUT /a?b=c HTTP/1.1").await.body, "PUT /a?b=c gateway");
    assert_eq!(world.ask(8080, "OPTIONS * HTTP/1.1").await.body, "OPTIONS * gateway");
    for port in [49983, 8080] {
        let host = format!("{port}-{}.localhost:3000", world.id);
        let mut client = world.connect().await;
        // On one connection, one request after another; headers do not count on such a host.
        for headers in ["", "E2b-Sandbox-Id: other\r\n", "E2b-Sandbox-Port: 1\r\n"] {
            client.write(&format!("GET /x HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n")).await;
            assert_eq!(client.answer().await.body, format!("GET /x {host}"));
        }
        client.write(&format!("GET http://{host}/y HTTP/1.1\r\nHost: gateway\r\n\r\n")).await;
        assert_eq!(client.answer().await.body, format!("GET /y {host}"));
    }
    let mut client = world.connect().await;
    client.write("GET /sandboxes HTTP/1.1\r\nHost: api.localhost\r\n\r\n").await;
    assert_eq!(client.answer().await.body, "control plane");
}

#[tokio::test]
async fn head_has_no_body_and_connect_is_refused() {
    let world = World::with(echo()).await;
    let mut client = world.send(8080, "HEAD / HTTP/1.1", "").await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 14"), "{head}");
    client.write(&format!("GET /next HTTP/1.1\r\nHost: g\r\n{}\r\n", world.to(8080))).await;
    assert_eq!(client.answer().await.body, "GET /next g");

    let mut client = world.connect().await;
    client.write("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n").await;
    assert!(client.head().await.starts_with("http/1.1 405"));
}

#[tokio::test]
async fn malformed_addresses_are_refused() {
    let world = World::with(echo()).await;
    let id = world.id;
    for headers in [
        format!("E2b-Sandbox-Id: {id}\r\n"),
        "E2b-Sandbox-Port: 80\r\n".into(),
        format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 0\r\n"),
        format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 65536\r\n"),
        format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: http\r\n"),
        "E2b-Sandbox-Id: ../../etc\r\nE2b-Sandbox-Port: 80\r\n".into(),
        format!("E2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Id: {id}\r\nE2b-Sandbox-Port: 80\r\n"),
        "Host: second\r\n".into(),
        "Host: \u{e9}\r\n".into(),
    ] {
        let mut client = world.connect().await;
        client.write(&format!("GET / HTTP/1.1\r\nHost: gateway\r\n{headers}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{headers}");
        assert!(answer.body.starts_with(r#"{"code":400,"message":""#), "{}", answer.body);
    }
    let mut client = world.connect().await;
    client.write(&format!("GET / HTTP/1.1\r\nHost: 99999-{id}.localhost\r\n\r\n")).await;
    let answer = client.answer().await;
    assert_eq!(answer.body, r#"{"code":400,"message":"invalid sandbox port"}"#);
}

#[tokio::test]
async fn a_sandbox_or_port_that_is_not_there_has_the_texts_sdks_know() {
    let world = World::with(echo()).await;
    let mut client = world.connect().await;
    for id in [SandboxId::random().to_string(), "i4mnotasandbox".into()] {
        client.write(&format!("GET / HTTP/1.1\r\nHost: 80-{id}.localhost\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 502);
        assert!(answer.head.contains("content-type: application/json\r\n"));
        let expect =
            format!(r#"{{"sandboxId":"{id}","message":"The sandbox was not found","code":502}}"#);
        assert_eq!(answer.body, expect);
    }
    let answer = world.ask(8081, "GET / HTTP/1.1").await;
    assert_eq!(answer.status, 502);
    assert_eq!(
        answer.body,
        format!(
            r#"{{"sandboxId":"{}","message":"The sandbox is running but port is not open","port":8081,"code":502}}"#,
            world.id
        )
    );
}

#[tokio::test]
async fn internal_routes_of_envd_are_closed() {
    let world = World::with(echo()).await;
    for path in ["/init", "//init", "/INIT/", "/%69nit", "/files/../init", "/freeze", "/upgrade"] {
        let answer = world.ask(49983, &format!("POST {path} HTTP/1.1")).await;
        assert_eq!((answer.status, answer.body.contains("404")), (404, true), "{path}");
    }
    // A user's server may call its routes what it likes.
    assert_eq!(world.ask(8080, "POST /init HTTP/1.1").await.status, 200);
}

#[tokio::test]
async fn signed_urls_find_their_sandbox() {
    let world = World::with(echo()).await;
    let ask = async |request_line: String| {
        let mut client = world.connect().await;
        client.write(&format!("{request_line} HTTP/1.1\r\nHost: 127.0.0.1:3000\r\n\r\n")).await;
        client.answer().await
    };
    // Long expired: that is for envd to say.
    let signature = sign("/a", "read", "user", TOKEN, "1");
    let good =
        format!("/files?path=%2Fa&username=user&signature={signature}&signature_expiration=1");
    let found = ask(format!("GET {good}")).await;
    assert_eq!(found.body, format!("GET {good} 127.0.0.1:3000"));
    // Whose code must not run as a page of the gateway's.
    assert!(found.head.contains("content-security-policy: sandbox\r\n"), "{}", found.head);
    assert_eq!(ask(format!("POST {good}")).await.status, 401);
    let wrong = ask("GET /files?path=%2Fa&signature=v1_AAAA".into()).await;
    assert_eq!(wrong.body, r#"{"code":401,"message":"invalid signature"}"#);
    assert_eq!(ask("GET /files?path=%2Fa".into()).await.body, "control plane");

    let mut client = world.connect().await;
    client
        .write(&format!("GET /files HTTP/1.1\r\nHost: g\r\nX-Access-Token: {TOKEN}\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.body, "GET /files g");
    client.write("GET /files HTTP/1.1\r\nHost: g\r\nX-Access-Token: wrong\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 401);
}

#[tokio::test]
async fn a_user_port_sees_the_client_and_none_of_its_keys() {
    let router = Router::new().fallback(any(async |headers: HeaderMap| {
        let mut lines: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines.join("\n")
    }));
    let world = World::with(router).await;
    let headers = format!(
        "X-API-KEY: e2b_00\r\nX-Access-Token: {TOKEN}\r\nConnection: keep-alive, X-Hop\r\n\
         X-Hop: 1\r\nKeep-Alive: 5\r\nX-Forwarded-For: 10.1.1.1\r\nProxy-Authorization: x\r\n"
    );
    let seen = world.send(8080, "GET / HTTP/1.1", &headers).await.answer().await.body;
    assert_eq!(
        seen,
        format!(
            "e2b-sandbox-id: {}\ne2b-sandbox-port: 8080\nhost: gateway\n\
             x-forwarded-for: 10.1.1.1, 127.0.0.1\nx-forwarded-host: gateway\n\
             x-forwarded-proto: http",
            world.id
        )
    );
    let own = "X-API-KEY: of-the-app\r\nX-Access-Token: of-the-app\r\n";
    let seen = world.send(8080, "GET / HTTP/1.1", own).await.answer().await.body;
    assert!(seen.contains("x-api-key: of-the-app") && seen.contains("x-access-token: of-the-app"));
    for port in [8080, 49983] {
        for key in ["Bearer e2b_00", "bearer   e2b_00", "BEARER e2b_00"] {
            let headers = format!("Authorization: {key}\r\n");
            let seen = world.send(port, "GET / HTTP/1.1", &headers).await.answer().await;
            assert!(seen.status == 200 && !seen.body.contains("e2b_"), "{key}: {}", seen.body);
        }
        for own in ["Bearer of-the-app", "Basic dXNlcjo=", "Bearere2b_00", "Bearer"] {
            let headers = format!("Authorization: {own}\r\n");
            let seen = world.send(port, "GET / HTTP/1.1", &headers).await.answer().await.body;
            assert!(seen.contains(&format!("authorization: {own}")), "{seen}");
        }
    }

    let seen = world.send(49983, "GET / HTTP/1.1", &headers).await.answer().await.body;
    assert!(seen.contains(&format!("x-access-token: {TOKEN}")) && !seen.contains("e2b_00"));
    assert!(!seen.contains("x-forwarded-host"));
}
