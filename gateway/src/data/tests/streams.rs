//! How many streams a sandbox may have open at once, and how fast it may answer.

use super::*;
use crate::limits::Bounds;

async fn world(limits: &str) -> World {
    let world = World::new().await;
    let facts = world.sandbox().facts().clone();
    let limits = Bounds::parse(limits).unwrap().over(facts.limits);
    world.readmit(Facts { limits, ..facts });
    world
}

/// Nobody answers, until the world ends.
fn silent(world: &World) {
    world.envd(Router::new().route("/health", axum::routing::get(async || "well")).fallback(
        async || {
            std::future::pending::<()>().await;
        },
    ));
    world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn one_stream_too_many_is_refused_until_one_has_ended() {
    let world = world("streams=4").await;
    silent(&world);
    let mut open = Vec::new();
    for (port, line) in [
        (49983, "POST /process.Process/Start HTTP/1.1"),
        (49983, "POST /filesystem.Filesystem/WatchDir HTTP/1.1"),
        (49983, "GET /files HTTP/1.1"),
        (8080, "GET / HTTP/1.1"),
    ] {
        open.push(world.send(port, line, "").await);
        let route = match (port, line) {
            (8080, _) => "port",
            (_, line) if line.contains("process") => "commands",
            (_, line) if line.contains("files ") => "files",
            _ => "envd",
        };
        world.until_told(&format!("coppice_proxy_requests_open{{route=\"{route}\"}} 1")).await;
    }
    for port in [8080, 49999] {
        let refused = world.ask(port, "GET / HTTP/1.1").await;
        assert_eq!(refused.status, 429);
        assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    }
    let stream = "Content-Type: application/connect+json\r\n";
    let mut refused = world.send(49983, "POST /process.Process/Connect HTTP/1.1", stream).await;
    let refused = refused.answer().await;
    assert_eq!(refused.status, 200);
    assert!(refused.body.contains("resource_exhausted"), "{}", refused.body);
    assert!(world.tells("coppice_denied_total{reason=\"streams\"} 3"));
    // What is over at once is no stream, and whoever only looks is let.
    assert_eq!(world.ask(49983, "GET /health HTTP/1.1").await.status, 200);
    open.push(world.send(49983, "POST /process.Process/SendSignal HTTP/1.1", "").await);
    world.until_told("coppice_proxy_requests_open{route=\"commands\"} 2").await;

    // Its client has gone.
    open.remove(3).stream.set_zero_linger().unwrap();
    world.until_told("coppice_proxy_requests_open{route=\"port\"} 0").await;
    let _last = world.send(8080, "GET / HTTP/1.1", "").await;
    world.until_told("coppice_proxy_requests_open{route=\"port\"} 1").await;
}

#[tokio::test]
async fn a_tunnel_is_a_stream_until_it_ends() {
    let world = world("streams=4").await;
    world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let switched = b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
        let _ = stream.write_all(switched).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    });
    let upgrade = "Connection: upgrade\r\nUpgrade: x\r\n";
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut client = world.send(8080, "GET / HTTP/1.1", upgrade).await;
        assert!(client.head().await.starts_with("http/1.1 101"));
        open.push(client);
    }
    let mut refused = world.send(8080, "GET / HTTP/1.1", upgrade).await;
    assert_eq!(refused.answer().await.status, 429);
    open.pop();
    let again = async {
        loop {
            let mut client = world.send(8080, "GET / HTTP/1.1", upgrade).await;
            if client.head().await.starts_with("http/1.1 101") {
                break;
            }
        }
    };
    timeout(Duration::from_secs(20), again).await.expect("its place is free");
}

/// What a client reads of an answer without an end in a while: bytes a second, by what it took.
async fn read_of(world: &World, headers: &str) -> f64 {
    let mut client = world.send(8080, "GET / HTTP/1.1", headers).await;
    let (mut read, mut buffer) = (0, vec![0; 1 << 16]);
    let began = std::time::Instant::now();
    let _ = timeout(Duration::from_secs(2), async {
        while let Ok(1..) = client.stream.read(&mut buffer).await.inspect(|bytes| read += bytes) {}
    })
    .await;
    read as f64 / began.elapsed().as_secs_f64()
}

#[tokio::test]
async fn what_is_over_at_once_does_not_wait_behind_an_answer_without_an_end() {
    let world = world("output=16").await;
    world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'a'; 1 << 16]).await.is_ok() {}
    });
    world.envd(Router::new().fallback(async || "done"));
    let mut endless = world.send(8080, "GET / HTTP/1.1", "").await;
    endless.head().await;
    let calls = async {
        for _ in 0..100 {
            let answer = world.ask(49983, "POST /filesystem.Filesystem/Stat HTTP/1.1").await;
            assert_eq!((answer.status, &*answer.body), (200, "done"));
        }
    };
    timeout(Duration::from_secs(20), calls).await.expect("they wait for nothing");
}

#[tokio::test]
async fn what_a_sandbox_answers_comes_as_fast_as_it_may_and_the_rest_waits_in_it() {
    let world = world("output=1024").await;
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = written.clone();
    world.raw_port(8080, move |mut stream| {
        let counted = counted.clone();
        async move {
            take_request(&mut stream).await;
            let head = "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            while stream.write_all(&[b'a'; 1 << 14]).await.is_ok() {
                counted.fetch_add(1 << 14, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    let read = read_of(&world, "Connection: upgrade\r\nUpgrade: x\r\n").await;
    // With a burst, and what one frame may be.
    assert!((128e3..2e6).contains(&read), "{read} a second");
    let written = written.load(std::sync::atomic::Ordering::Relaxed);
    assert!(written < 32 << 20, "{written} were taken from it");

    let world = self::world("output=1024").await;
    world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'a'; 1 << 14]).await.is_ok() {}
    });
    let read = read_of(&world, "").await;
    assert!((128e3..2e6).contains(&read), "{read} a second");
}

#[tokio::test]
async fn an_answer_that_waits_for_its_turn_ends_with_its_sandbox() {
    let world = world("output=16").await;
    world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'a'; 1 << 16]).await.is_ok() {}
    });
    let mut client = world.send(8080, "GET / HTTP/1.1", "").await;
    client.head().await;
    world.cut();
    client.assert_reset().await;
}
