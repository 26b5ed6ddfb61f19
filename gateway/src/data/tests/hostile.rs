//! Whatever a sandbox answers, the client gets HTTP and the gateway stays up.

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;

async fn answers(bytes: impl Into<Vec<u8>>) -> World {
    let (world, bytes) = (World::new().await, bytes.into());
    world.raw_port(8080, move |mut stream| {
        let bytes = bytes.clone();
        async move {
            take_request(&mut stream).await;
            let _ = stream.write_all(&bytes).await;
        }
    });
    world
}

#[tokio::test]
async fn what_is_not_a_response_is_a_bad_gateway() {
    let many: String = (0..600).map(|n| format!("X-{n}: 1\r\n")).collect();
    for bytes in [
        String::new(),
        "garbage\r\n\r\n".into(),
        "HTTP/1.1 999999 What\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nBad Header : x\r\n\r\n".into(),
        "HTTP/1.1 200 OK\r\nX-Half".into(),
        format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
        // An upgrade nobody asked for.
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".into(),
        "HTTP/1.1 101 Switching\r\n\r\n".into(),
        "HTTP/2.0 200 OK\r\n\r\n".into(),
    ] {
        let world = answers(bytes.clone()).await;
        let answer = world.ask(8080, "GET / HTTP/1.1").await;
        let shown: String = bytes.chars().take(80).collect();
        assert_eq!(answer.status, 502, "{shown}");
        let expect = format!(
            r#"{{"sandboxId":"{}","message":"The sandbox sent an invalid response","port":8080,"code":502}}"#,
            world.id
        );
        assert_eq!(answer.body, expect, "{shown}");
    }
}

#[tokio::test]
async fn endless_informational_responses_do_not_end_in_memory() {
    let world = World::new().await;
    world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {}
    });
    let mut client = world.send(8080, "GET / HTTP/1.1", "").await;
    let silence = timeout(Duration::from_millis(500), client.stream.read_u8()).await;
    assert!(silence.is_err());
    world.cut();
    assert_eq!(client.answer().await.body, world.not_found());
}

#[tokio::test]
async fn a_response_without_a_request_is_not_taken_for_the_next_ones() {
    let one = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n";
    let world = answers(format!("{one}one{one}two")).await;
    for _ in 0..3 {
        assert_eq!(world.ask(8080, "GET / HTTP/1.1").await.body, "one");
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_without_saying_so_loses_no_request() {
    let (world, connections) = (World::new().await, Arc::new(AtomicUsize::new(0)));
    world.raw_port(8080, {
        let connections = connections.clone();
        move |mut stream| {
            connections.fetch_add(1, Ordering::Relaxed);
            async move {
                take_request(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    });
    let mut client = world.connect().await;
    for _ in 0..10 {
        client.write(&format!("POST / HTTP/1.1\r\nHost: g\r\n{}\r\n", world.to(8080))).await;
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 10);
}

#[tokio::test]
async fn chunks_overrule_a_length() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n";
    let world = answers(format!("{head}a\r\nhelloworld\r\n0\r\n\r\n")).await;
    let mut client = world.send(8080, "GET / HTTP/1.1", "").await;
    assert!(!client.head().await.contains("content-length"));
    assert!(client.until("0\r\n\r\n").await.contains("helloworld"));
}

#[tokio::test]
async fn a_response_may_have_hundreds_of_headers() {
    let cookies: String = (0..300).map(|n| format!("Set-Cookie: c{n}=1\r\n")).collect();
    let world = answers(format!("HTTP/1.1 200 OK\r\n{cookies}Content-Length: 2\r\n\r\nok")).await;
    assert_eq!(world.ask(8080, "GET / HTTP/1.1").await.body, "ok");
}

#[tokio::test]
async fn a_tunnel_that_answers_nonsense_is_unreachable() {
    for reply in [&[7u8][..], &[2], &[]] {
        let world = World::new().await;
        let listener = world.bind("tunnel.sock");
        world.accept(listener, move |mut stream| async move {
            let _ = stream.read_u16().await;
            let _ = stream.write_all(reply).await;
        });
        let answer = world.ask(8080, "GET / HTTP/1.1").await;
        assert_eq!(answer.status, 502);
        assert!(answer.body.contains("did not accept"), "{}", answer.body);
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_gets_through() {
    let world = World::new().await;
    world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let refusal = b"HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig";
        let _ = stream.write_all(refusal).await;
    });
    let mut client = world.send(8080, "POST / HTTP/1.1", "Content-Length: 1000000\r\n").await;
    client.write("the first of many").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (413, "big"));
}

#[tokio::test]
async fn a_refused_upgrade_is_an_answer_like_any_other() {
    let world = World::with(Router::new().fallback(async || "no")).await;
    for port in [49983, 8080] {
        let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        let mut client = world.send(port, "GET / HTTP/1.1", headers).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "no"));
        client.write(&format!("GET / HTTP/1.1\r\nHost: g\r\n{}\r\n", world.to(port))).await;
        assert_eq!(client.answer().await.body, "no");
    }
}

/// Pieces of responses, whole and broken.
const PIECES: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 304 x\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 99999999999999999999\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: upgrade, close, \u{e9}\r\n",
    "Upgrade: x\r\n",
    "Set-Cookie: \u{0}\r\n",
    ": \r\n",
    "\r\n",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "fffffffffffffffff\r\n",
    "hello",
];

/// What the tunnel replies, and what comes then.
type Served = (u8, Vec<u8>);

/// Of any pieces in any order.
fn response() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    (any::<bool>(), prop::collection::vec(piece, 0..10)).prop_map(move |(begun, rest)| {
        let start = if begun { PIECES[0].as_bytes() } else { b"" };
        [start, &rest.concat()].concat()
    })
}

#[test]
fn no_bytes_of_a_sandbox_leave_a_client_without_an_answer() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let next: Arc<Mutex<Vec<Served>>> = Arc::default();
    let world = runtime.block_on(async {
        let (world, next) = (World::new().await, next.clone());
        world.accept(world.bind("tunnel.sock"), move |mut stream| {
            let (reply, bytes) = next.lock().pop().unwrap_or_default();
            async move {
                let _ = stream.read_u16().await;
                if reply == TunnelReply::Open as u8 {
                    let mut stream = open_port(stream).await;
                    take_request(&mut stream).await;
                    let _ = stream.write_all(&bytes).await;
                } else {
                    let _ = stream.write_u8(reply).await;
                }
            }
        });
        world
    });
    let replies = prop_oneof![6 => Just(TunnelReply::Open as u8), 1 => any::<u8>()];
    // Many at once: what is no response waits a moment for the sandbox's end.
    let cases = prop::collection::vec((replies, response()), 64);
    proptest!(ProptestConfig::with_cases(8), |(cases in cases)| {
        next.lock().clone_from(&cases);
        let closed = cases.iter().filter(|(reply, _)| *reply != TunnelReply::Open as u8).count();
        let statuses = runtime.block_on(join_all(cases.iter().map(|_| async {
            let mut client = world.send(8080, "GET / HTTP/1.1", "").await;
            let mut status = [0; 12];
            let read = client.stream.read_exact(&mut status);
            // What was begun and breaks off is reset, which may overtake what came before.
            match timeout(Duration::from_secs(20), read).await.expect("an answer in time") {
                Err(error) if error.kind() == ErrorKind::ConnectionReset => "reset".to_owned(),
                read => read.map(|_| String::from_utf8_lossy(&status).into_owned()).expect("one"),
            }
        })));
        let known = |status: &String| status.starts_with("HTTP/1.1 ") || status == "reset";
        prop_assert!(statuses.iter().all(known), "{statuses:?}");
        let refused = statuses.iter().filter(|status| status.ends_with("502")).count();
        prop_assert!(refused >= closed, "{refused} of {closed}");
    });
}
