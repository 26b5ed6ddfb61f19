//! Connections to a user's server that are kept open, and servers that close them when they like.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What a server has seen.
#[derive(Clone, Default)]
struct Seen {
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Seen {
    fn so_far(&self) -> (usize, usize) {
        (self.connections.load(Ordering::Acquire), self.requests.load(Ordering::Acquire))
    }
}

/// A server that answers `good` requests on each connection, and to the next says `last` and
/// hangs up.
async fn hangs_up_after(good: usize, last: &'static [u8]) -> (World, Seen) {
    let (world, seen) = (World::new().await, Seen::default());
    world.raw_port(8080, {
        let seen = seen.clone();
        move |mut stream| {
            let seen = seen.clone();
            seen.connections.fetch_add(1, Ordering::AcqRel);
            async move {
                for number in 0..=good {
                    if !take_request(&mut stream).await {
                        return;
                    }
                    seen.requests.fetch_add(1, Ordering::AcqRel);
                    let _ = stream.write_all(if number < good { OK } else { last }).await;
                }
            }
        }
    });
    (world, seen)
}

#[tokio::test]
async fn requests_that_may_be_sent_twice_share_a_connection() {
    let (world, seen) = hangs_up_after(100, b"").await;
    for method in ["GET", "OPTIONS", "GET"] {
        assert_eq!(world.ask(8080, &format!("{method} / HTTP/1.1")).await.body, "ok");
    }
    assert_eq!(seen.so_far(), (1, 3));
}

#[tokio::test]
async fn a_connection_that_is_not_used_again_is_soon_closed() {
    let (world, closed) = (World::new().await, Arc::new(tokio::sync::Notify::new()));
    world.raw_port(8080, {
        let closed = closed.clone();
        move |mut stream| {
            let closed = closed.clone();
            async move {
                while take_request(&mut stream).await {
                    let _ = stream.write_all(OK).await;
                }
                closed.notify_one();
            }
        }
    });
    assert_eq!(world.ask(8080, "GET / HTTP/1.1").await.body, "ok");
    timeout(Duration::from_secs(3), closed.notified()).await.expect("closed");
}

#[tokio::test]
async fn all_others_get_a_connection_of_their_own() {
    let (world, seen) = hangs_up_after(100, b"").await;
    assert_eq!(world.ask(8080, "GET / HTTP/1.1").await.body, "ok");
    for (method, headers, body) in [
        ("POST", "", ""),
        ("DELETE", "", ""),
        ("PUT", "Content-Length: 1\r\n", "x"),
        ("GET", "Content-Length: 1\r\n", "x"),
    ] {
        let mut client = world.send(8080, &format!("{method} / HTTP/1.1"), headers).await;
        client.write(body).await;
        assert_eq!(client.answer().await.body, "ok");
    }
    assert_eq!(seen.so_far().0, 5);
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_sent_again_on_a_new_one() {
    for last in [&b""[..], b"HTTP/1.1 20"] {
        let (world, seen) = hangs_up_after(1, last).await;
        for _ in 0..5 {
            assert_eq!(world.ask(8080, "GET / HTTP/1.1").await.body, "ok");
        }
        let (connections, requests) = seen.so_far();
        // Each second one came twice.
        assert!(connections <= 5 && requests <= 9, "{connections} {requests}");
        assert!(requests > 5, "no connection was kept");
    }
}

#[tokio::test]
async fn nothing_is_sent_again_that_a_new_connection_broke() {
    for method in ["GET", "POST"] {
        let (world, seen) = hangs_up_after(0, b"").await;
        assert_eq!(world.ask(8080, &format!("{method} / HTTP/1.1")).await.status, 502);
        assert_eq!(seen.so_far(), (1, 1));
    }
}

#[tokio::test]
async fn an_answer_that_breaks_in_the_middle_is_not_asked_for_again() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    let (world, seen) = hangs_up_after(1, half).await;
    assert_eq!(world.ask(8080, "GET / HTTP/1.1").await.body, "ok");
    let mut client = world.send(8080, "GET / HTTP/1.1", "").await;
    client.until("half").await;
    client.assert_reset().await;
    assert_eq!(seen.so_far(), (1, 2));
}

#[tokio::test]
async fn a_server_that_serves_one_connection_at_a_time_is_not_held_up() {
    let (world, turn) = (World::new().await, Arc::new(tokio::sync::Mutex::new(())));
    world.raw_port(8080, move |mut stream| {
        let turn = turn.clone();
        async move {
            let _turn = turn.lock().await;
            while take_request(&mut stream).await {
                let _ = stream.write_all(OK).await;
            }
        }
    });
    for method in ["GET", "POST", "GET", "GET", "POST"] {
        let line = format!("{method} / HTTP/1.1");
        let answer = timeout(Duration::from_secs(2), world.ask(8080, &line));
        assert_eq!(answer.await.expect("in time").body, "ok");
    }
    // And so when they come together.
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(world.send(8080, "GET / HTTP/1.1", "").await);
    }
    for client in &mut clients {
        let answer = timeout(Duration::from_secs(2), client.answer());
        assert_eq!(answer.await.expect("in time").body, "ok");
    }
}

#[tokio::test]
async fn a_request_whose_body_outlasts_the_answers_head_goes_on_unread() {
    // Answers with more than fits anywhere before it takes the rest of the body.
    let (world, taken) = (World::new().await, Arc::new(tokio::sync::Notify::new()));
    world.raw_port(8080, {
        let taken = taken.clone();
        move |stream| {
            let taken = taken.clone();
            async move {
                let (mut from, mut to) = stream.into_split();
                tokio::spawn(async move {
                    let _ = to.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                    let _ = to.write_all(&vec![b'x'; 64 << 20]).await;
                });
                let mut received = 0;
                let mut buffer = vec![0; 1 << 16];
                while received < 32 << 20 {
                    received += from.read(&mut buffer).await.unwrap();
                }
                taken.notify_one();
                std::future::pending::<()>().await;
            }
        }
    });
    let length = format!("Content-Length: {}\r\n", 32 << 20);
    let mut client = world.send(8080, "POST / HTTP/1.1", &length).await;
    client.head().await;
    client.stream.write_all(&vec![b'y'; 32 << 20]).await.unwrap();
    timeout(Duration::from_secs(10), taken.notified()).await.expect("all of it came");
}
