//! What clients see when a sandbox ends.

use axum::{extract::Request, response::Response, routing::any};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use tokio::sync::Notify;

use super::*;

fn waiting(reached: &Arc<Notify>) -> Router {
    let reached = reached.clone();
    Router::new().fallback(any(move || {
        reached.notify_one();
        std::future::pending::<()>()
    }))
}

/// Sends one chunk and no more.
fn stalling() -> Router {
    Router::new().fallback(any(async || {
        let (chunks, body) = channel();
        chunks.send("first").await.unwrap();
        tokio::spawn(async move { chunks.closed().await });
        body
    }))
}

#[tokio::test]
async fn requests_without_a_response_are_told_it_was_not_found() {
    let reached = Arc::new(Notify::new());
    let world = World::with(waiting(&reached)).await;
    let mut client = world.send(49983, "GET / HTTP/1.1", "").await;
    reached.notified().await;
    world.cut();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body), (502, world.not_found()));
    // And so are all that come later, on the same connection and on others.
    client.write(&format!("GET / HTTP/1.1\r\nHost: g\r\n{}\r\n", world.to(49983))).await;
    assert_eq!(client.answer().await.body, world.not_found());
    assert_eq!(world.ask(8080, "GET / HTTP/1.1").await.body, world.not_found());
}

#[tokio::test]
async fn open_streams_are_reset() {
    for port in [49983, 8080] {
        let world = World::with(stalling()).await;
        let mut client = world.send(port, "GET / HTTP/1.1", "").await;
        client.until("first\r\n").await;
        world.cut();
        client.assert_reset().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_are_reset_at_once_and_new_ones_refused() {
    let world = World::with(stalling()).await;
    let mut clients = Vec::new();
    for port in [49983, 8080].repeat(100) {
        clients.push(world.send(port, "GET / HTTP/1.1", "").await);
    }
    for client in &mut clients {
        client.until("first\r\n").await;
    }
    world.cut();
    assert_eq!(world.ask(49983, "GET /health HTTP/1.1").await.body, world.not_found());
    for client in &mut clients {
        client.assert_reset().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_end_in_order_with_their_sandbox_are_reset_too() {
    let world = World::new().await;
    let sandbox = world.sandbox();
    world.raw_port(8080, move |mut stream| {
        let cut = sandbox.cut();
        async move {
            take_request(&mut stream).await;
            // Without a length: its end is the connection's.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nfirst").await;
            cut.cancelled().await;
        }
    });
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(world.send(8080, "GET / HTTP/1.1", "").await);
    }
    for client in &mut clients {
        client.until("first\r\n").await;
    }
    world.cut();
    for client in &mut clients {
        client.assert_reset().await;
    }
}

#[tokio::test]
async fn a_stream_whose_client_does_not_read_is_reset_too() {
    let world = World::new().await;
    world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
    });
    let mut client = world.send(8080, "GET / HTTP/1.1", "").await;
    client.head().await;
    // Long enough for every buffer on the way to be full.
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.cut();
    tokio::time::sleep(Duration::from_millis(200)).await;
    client.assert_reset().await;
}

/// Says hello on a connection of another protocol, and waits.
pub(super) fn upgrading() -> Router {
    Router::new().fallback(async |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            stream.write_all(b"hello").await.unwrap();
            let _ = stream.read_u8().await;
        });
        let response = Response::builder().status(101).header("connection", "upgrade");
        response.header("upgrade", "websocket").body(Body::empty()).unwrap()
    })
}

#[tokio::test]
async fn upgraded_connections_are_reset() {
    let world = World::with(upgrading()).await;
    let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let mut client = world.send(8080, "GET / HTTP/1.1", headers).await;
    client.until("hello").await;
    world.cut();
    client.assert_reset().await;
}

#[tokio::test]
async fn a_stream_that_breaks_inside_is_reset_and_one_that_has_ended_is_not() {
    let world = World::new().await;
    world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    });
    let mut client = world.send(8080, "GET / HTTP/1.1", "").await;
    client.until("half").await;
    client.assert_reset().await;

    let world = World::with(Router::new().fallback(async || "whole")).await;
    let mut client = world.send(8080, "GET / HTTP/1.1", "Connection: close\r\n").await;
    assert_eq!(client.answer().await.body, "whole");
    world.cut();
    assert_eq!(client.ending().await.unwrap(), 0);
}

#[tokio::test]
async fn on_http2_only_the_stream_is_reset() {
    let world = World::with(stalling()).await;
    let stream = TcpStream::connect(world.gateway).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://49983-{}.localhost/", world.id);
    let request = || http::Request::get(&uri).body(Empty::<Bytes>::new()).unwrap();
    let mut body = sender.send_request(request()).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    world.cut();
    let end = timeout(Duration::from_secs(5), body.frame()).await.unwrap();
    assert!(end.unwrap().is_err());
    assert_eq!(sender.send_request(request()).await.unwrap().status(), 502);
}

#[tokio::test]
async fn on_http2_a_client_that_does_not_read_keeps_no_connection_to_the_sandbox() {
    let (world, gone) = (World::new().await, Arc::new(Notify::new()));
    let full = Arc::new(Notify::new());
    world.raw_port(8080, {
        let (gone, full) = (gone.clone(), full.clone());
        move |mut stream| {
            let (gone, full) = (gone.clone(), full.clone());
            async move {
                take_request(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                let piece = [b'x'; 65536];
                loop {
                    // No room for a while: every buffer on the way is full.
                    match timeout(Duration::from_millis(500), stream.write(&piece)).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(_)) => return gone.notify_one(),
                        Err(_) => full.notify_one(),
                    }
                }
            }
        }
    });
    let stream = TcpStream::connect(world.gateway).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://8080-{}.localhost/", world.id);
    let request = http::Request::get(&uri).body(Empty::<Bytes>::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    timeout(Duration::from_secs(20), full.notified()).await.expect("full");
    world.cut();
    timeout(Duration::from_secs(5), gone.notified()).await.expect("closed");
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    timeout(Duration::from_secs(5), rest).await.expect("an end");
}

#[tokio::test]
async fn a_sandbox_that_breaks_a_moment_before_its_end_was_not_found() {
    let world = World::new().await;
    let sandbox = world.sandbox();
    world.raw_port(8080, move |stream| {
        let sandbox = sandbox.clone();
        async move {
            drop(stream);
            tokio::time::sleep(Duration::from_millis(50)).await;
            sandbox.cut().cancel();
        }
    });
    assert_eq!(world.ask(8080, "GET / HTTP/1.1").await.body, world.not_found());
}

#[tokio::test]
async fn a_sandbox_without_envd_was_not_found() {
    let world = World::new().await;
    assert_eq!(world.ask(49983, "GET / HTTP/1.1").await.body, world.not_found());
}

#[tokio::test]
async fn idle_connections_go_with_the_sandbox() {
    let (gone, world) = (Arc::new(Notify::new()), World::new().await);
    world.raw_port(8080, {
        let gone = gone.clone();
        move |stream| {
            let gone = gone.clone();
            async move {
                serve_http(stream, Router::new().fallback(async || "")).await;
                gone.notify_one();
            }
        }
    });
    assert_eq!(world.ask(8080, "GET / HTTP/1.1").await.status, 200);
    world.cut();
    timeout(Duration::from_millis(500), gone.notified()).await.expect("closed");
}

#[tokio::test]
async fn nothing_is_kept_of_a_sandbox_that_is_cut_or_unused() {
    let (registry, pools) = (Registry::default(), crate::data::pool::Pools::default());
    let dir = tempfile::tempdir().unwrap();
    for cut in [true, false] {
        let id = SandboxId::random();
        insert(&registry, id, dir.path());
        let sandbox = registry.running(id).unwrap();
        drop(pools.of(&sandbox, &sandbox.cut()));
        assert_eq!(pools.len(), 1);
        if cut {
            sandbox.cut().cancel();
        }
        let gone = async {
            while pools.len() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(if cut { 1 } else { 10 }), gone).await.expect("forgotten");
    }
}
