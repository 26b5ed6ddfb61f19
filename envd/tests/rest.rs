//! The REST half, the token, the tunnel and the reports.

#![allow(clippy::unwrap_used)]

mod common;

use common::Server;
use envd::{
    tunnel::{self, Answer},
    wire::{Init, Report, What},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, UnixStream},
};

#[tokio::test]
async fn small_routes_answer() {
    let server = Server::start();
    assert_eq!(server.rest("GET", "/health", &[], "").await, (204, Value::Null));
    let (status, envs) = server.rest("GET", "/envs", &[], "").await;
    assert_eq!((status, &envs["E2B_SANDBOX"]), (200, &json!("true")));
    let (status, metrics) = server.rest("GET", "/metrics", &[], "").await;
    assert_eq!(status, 200);
    for figure in ["ts", "cpu_count", "mem_total", "mem_used", "disk_used", "disk_total"] {
        assert!(metrics[figure].as_u64().unwrap() > 0, "{figure} in {metrics}");
    }
    assert!(metrics["cpu_used_pct"].is_number());
}

#[tokio::test]
async fn errors_are_json() {
    let server = Server::start();
    for (method, path, status) in
        [("GET", "/nowhere", 404), ("POST", "/freeze", 404), ("DELETE", "/health", 405)]
    {
        let (got, body) = server.rest(method, path, &[], "").await;
        assert_eq!((got, &body["code"]), (status, &json!(status)), "{method} {path}");
        assert!(body["message"].is_string());
    }
    assert_eq!(server.rest("POST", "/init", &[], "{").await.1["code"], 400);
    let json = [("content-type", "application/json")];
    let (status, body) = server.rest("POST", "/process.Process/Nope", &json, "{}").await;
    assert_eq!((status, &body["code"]), (404, &json!("unimplemented")));
}

#[tokio::test]
async fn the_token_guards_all_but_the_exempt() {
    let server = Server::with(Init {
        default_user: Some("root".into()),
        access_token: Some("secret".into()),
        ..Init::default()
    });
    let refusal = json!({
        "code": 401,
        "message": "unauthorized access, please provide a valid access token or method signing if supported",
    });
    let json = ("content-type", "application/json");
    let list = "/process.Process/List";
    for (method, path) in [("GET", "/envs"), ("GET", "/metrics"), ("POST", list), ("GET", "/x")] {
        for token in [&[json][..], &[json, ("x-access-token", "guess")][..]] {
            assert_eq!(server.rest(method, path, token, "{}").await, (401, refusal.clone()));
        }
    }
    let token = [json, ("x-access-token", "secret")];
    assert_eq!(server.rest("POST", list, &token, "{}").await, (200, json!({})));
    assert_eq!(server.rest("GET", "/health", &[], "").await.0, 204);
    assert_eq!(server.rest("POST", "/init", &[], r#"{"accessToken": "new"}"#).await.0, 204);
    assert_eq!(server.rest("POST", list, &token, "{}").await.0, 401);
}

#[tokio::test]
async fn browsers_may_ask_first() {
    let server = Server::with(Init { access_token: Some("secret".into()), ..Init::default() });
    let headers = [
        ("origin", "https://example.org"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,x-access-token"),
    ];
    let request = common::request("OPTIONS", "/process.Process/List", &headers, "".into());
    let response = server.send(request).await;
    assert_eq!(response.status(), 204);
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(response.headers()["access-control-allow-headers"], "authorization,x-access-token");
}

#[tokio::test]
async fn the_tunnel_reaches_a_port_inside() {
    let server = Server::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tunnel = tunnel::Handed::dial(&server.socket("tunnel.sock")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let Answer::Open(mut outside) = tunnel::ask(tunnel, port).await.unwrap() else {
        panic!("refused");
    };
    let (mut inside, _) = listener.accept().await.unwrap();
    inside.write_all(b"hi").await.unwrap();
    let mut got = [0; 2];
    outside.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hi");
}

#[tokio::test]
async fn starts_and_ends_are_reported() {
    let server = Server::start();
    let finished = server.sh("exit 5").await.finish().await;
    let pid = u32::try_from(finished.pid.unwrap()).unwrap();
    for (seen, expect) in [(0_u64, 2), (1, 1)] {
        let mut stream = UnixStream::connect(server.socket("report.sock")).await.unwrap();
        stream.write_u64(seen).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut reports = Vec::new();
        for _ in 0..expect {
            let line = lines.next_line().await.unwrap().unwrap();
            reports.push(serde_json::from_str::<Report>(&line).unwrap());
        }
        assert_eq!(reports[0].seq, seen + 1);
        let What::ProcessEnded { pid: ended, exit_code, .. } = reports[expect - 1].what else {
            panic!("{reports:?}");
        };
        assert_eq!((ended, exit_code), (pid, 5));
    }
}

#[tokio::test]
async fn files_and_the_filesystem_are_there() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    let uri = format!("/files?path={}", path.display());
    let octets = [("content-type", "application/octet-stream")];
    assert_eq!(server.rest("POST", &uri, &octets, "contents").await.0, 200);
    let json = [("content-type", "application/json")];
    let body = json!({"path": path.display().to_string()}).to_string();
    let (status, stat) = server.rest("POST", "/filesystem.Filesystem/Stat", &json, body).await;
    assert_eq!((status, &stat["entry"]["size"]), (200, &json!("8")));
}
