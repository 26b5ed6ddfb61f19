//! Clients that are slow, many, or there when the gateway has to stop.

use axum::routing::any;
use http::Request;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;

use super::*;

fn quick() -> Limits {
    Limits {
        head: Duration::from_millis(200),
        idle: Duration::from_secs(3),
        drain: Duration::from_secs(2),
        ..Limits::default()
    }
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_the_connection() {
    let world = World::within(quick()).await;
    for sent in ["", "GET / HTTP/1.1\r\nHost: g\r\nX-Slow: "] {
        let (mut client, started) = (world.connect().await, Instant::now());
        client.write(sent).await;
        let _ = client.ending().await;
        assert!(started.elapsed() < Duration::from_secs(2), "{sent}");
    }
}

#[tokio::test]
async fn a_kept_connection_may_idle_for_longer_than_a_head_may_take() {
    let world = World::within(quick()).await;
    let mut client = world.connect().await;
    for _ in 0..2 {
        client.write("GET / HTTP/1.1\r\nHost: g\r\n\r\n").await;
        assert_eq!(client.answer().await.body, "control plane");
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let started = Instant::now();
    assert_eq!(client.ending().await.unwrap(), 0);
    assert!(started.elapsed() > Duration::from_secs(2));
}

#[tokio::test]
async fn a_slow_response_is_waited_for() {
    let world = World::within(quick()).await;
    world.envd(Router::new().fallback(any(async || {
        tokio::time::sleep(Duration::from_secs(4)).await;
        "late"
    })));
    assert_eq!(world.ask(49983, "GET / HTTP/1.1").await.body, "late");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let world = World::new().await;
    let mut client = world.connect().await;
    let long = format!("GET / HTTP/1.1\r\nHost: g\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20));
    // The rest may meet a closed connection.
    let _ = client.stream.write_all(long.as_bytes()).await;
    let mut start = [0; 12];
    if client.stream.read_exact(&mut start).await.is_ok() {
        assert_eq!(&start, b"HTTP/1.1 431");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_room() {
    let world = World::within(Limits { connections: 1, ..Limits::default() }).await;
    let first = world.connect().await;
    let mut second = world.connect().await;
    second.write("GET / HTTP/1.1\r\nHost: g\r\n\r\n").await;
    let early = timeout(Duration::from_millis(200), second.stream.readable()).await;
    assert!(early.is_err());
    drop(first);
    assert_eq!(second.answer().await.body, "control plane");
}

#[tokio::test]
async fn one_address_has_only_a_part_of_the_places() {
    // The tests have no other address than this host's own.
    let limits = Limits { of_loopback: 2, ..Limits::default() };
    let world = World::within(limits).await;
    let mut ours = [world.connect().await, world.connect().await];
    for client in &mut ours {
        client.write("GET / HTTP/1.1\r\nHost: g\r\n\r\n").await;
        assert_eq!(client.answer().await.body, "control plane");
    }
    let mut third = world.connect().await;
    let _ = third.stream.write_all(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n").await;
    assert!(!matches!(third.ending().await, Ok(1..)), "it is answered");
    drop(ours);
    // As soon as the server has seen them end.
    let again = async {
        loop {
            let mut client = world.connect().await;
            let _ = client.stream.write_all(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n").await;
            if matches!(client.stream.read(&mut [0]).await, Ok(1..)) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), again).await.unwrap();
}

#[tokio::test]
async fn whoever_comes_from_this_host_may_have_all_places() {
    let world = World::within(Limits { of_one_address: 1, ..Limits::default() }).await;
    let mut ours = [world.connect().await, world.connect().await];
    for client in &mut ours {
        client.write("GET / HTTP/1.1\r\nHost: g\r\n\r\n").await;
        assert_eq!(client.answer().await.body, "control plane");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends_the_connection_and_one_that_is_to_come_does_not() {
    let world = World::within(Limits { idle: Duration::from_millis(300), ..quick() }).await;
    world.envd(Router::new().fallback(any(std::future::pending::<()>)));
    // Windows that have no room for an answer, and are never made larger.
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake(TokioIo::new(world.connect().await.stream))
        .await
        .unwrap();
    let ended = tokio::spawn(connection);
    let request = Request::get("http://g/").body(Body::empty()).unwrap();
    let started = Instant::now();
    let _untaken = sender.send_request(request).await.unwrap();
    let _ = timeout(Duration::from_secs(10), ended).await.expect("it is ended");
    assert!(started.elapsed() >= Duration::from_millis(250));

    let mut waits = world.send(49983, "GET / HTTP/1.1", "").await;
    assert!(timeout(Duration::from_secs(1), waits.ending()).await.is_err());
}

#[tokio::test]
async fn stopping_lets_requests_finish_and_drops_what_does_not() {
    let world = World::within(quick()).await;
    world.envd(
        Router::new()
            .route(
                "/slow",
                any(async || {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    "done"
                }),
            )
            .route("/never", any(std::future::pending::<()>)),
    );
    let mut idle = world.connect().await;
    idle.write("GET / HTTP/1.1\r\nHost: g\r\n\r\n").await;
    idle.answer().await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        slow.push(world.send(49983, "GET /slow HTTP/1.1", "").await);
    }
    let mut never = world.send(49983, "GET /never HTTP/1.1", "").await;
    tokio::time::sleep(Duration::from_millis(50)).await;

    let started = Instant::now();
    world.stop.cancel();
    assert_eq!(idle.ending().await.unwrap(), 0);
    assert!(started.elapsed() < Duration::from_millis(800));
    while TcpStream::connect(world.gateway).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for client in &mut slow {
        assert_eq!(client.answer().await.body, "done");
    }
    let _ = never.ending().await;
    while !world.server.is_finished() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(4));
}
