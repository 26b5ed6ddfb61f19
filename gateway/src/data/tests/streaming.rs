//! Bodies and upgraded connections pass both ways as they come, in bounded memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{extract::Request, response::Response, routing::any};
use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{CONNECTION, UPGRADE};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::sync::Notify;

use super::*;

const MB: usize = 1 << 20;

#[tokio::test]
async fn chunks_arrive_one_by_one_both_ways() {
    // Answers each chunk of the request with one of its own.
    let router = Router::new().fallback(async |request: Request| {
        Body::from_stream(request.into_body().into_data_stream().map(|chunk| {
            chunk.map(|chunk| Bytes::from(String::from_utf8(chunk.into()).unwrap().to_uppercase()))
        }))
    });
    let world = World::with(router).await;
    for port in [49983, 8080] {
        let chunked = "Transfer-Encoding: chunked\r\n";
        // GET with a body included.
        for method in ["POST", "GET"] {
            let mut client = world.send(port, &format!("{method} / HTTP/1.1"), chunked).await;
            client.write("3\r\none\r\n").await;
            assert!(client.head().await.contains("transfer-encoding: chunked"));
            assert_eq!(client.until("ONE\r\n").await, "3\r\nONE\r\n");
            client.write("3\r\ntwo\r\n").await;
            assert_eq!(client.until("TWO\r\n").await, "3\r\nTWO\r\n");
            client.write("0\r\n\r\n").await;
            client.until("0\r\n\r\n").await;
        }
    }
}

#[tokio::test]
async fn server_sent_events_are_not_held_back() {
    let (events, body) = channel();
    let body = Arc::new(parking_lot::Mutex::new(Some(body)));
    let router = Router::new().fallback(any(move || {
        let body = body.lock().take().unwrap();
        async { ([("content-type", "text/event-stream")], body) }
    }));
    let world = World::with(router).await;
    let mut client = world.send(8080, "GET / HTTP/1.1", "Accept: text/event-stream\r\n").await;
    assert!(client.head().await.contains("text/event-stream"));
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        events.send(event).await.unwrap();
        client.until(&format!("{event}\r\n")).await;
    }
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let router = Router::new().fallback(async |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        let protocol = request.headers()[UPGRADE].clone();
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut byte = [0];
            while stream.read(&mut byte).await.unwrap_or(0) == 1 {
                stream.write_all(&byte).await.unwrap();
            }
        });
        let response = Response::builder().status(101).header(CONNECTION, "Upgrade");
        response.header(UPGRADE, protocol).body(Body::empty()).unwrap()
    });
    let world = World::with(router).await;
    for protocol in ["websocket", "my-protocol/7"] {
        let headers = format!("Connection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n");
        let mut client = world.send(8080, "GET /ws HTTP/1.1", &headers).await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains(&format!("upgrade: {protocol}")), "{head}");
        for text in ["ping", "pong"] {
            client.write(text).await;
            client.until(text).await;
        }
        assert!(world.tells("coppice_tunnels_open 1"));
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.ending().await.unwrap(), 0);
        world.until_told("coppice_tunnels_open 0").await;
    }
    assert!(world.tells("coppice_tunnels_total 2"));
    for direction in ["in", "out"] {
        let bytes = format!("{{route=\"port\",direction=\"{direction}\"}} 16");
        assert!(world.tells(&format!("coppice_proxy_bytes_total{bytes}")), "{direction}");
    }
}

#[tokio::test]
async fn a_hundred_megabytes_pass_intact_each_way() {
    let router = Router::new().fallback(async |request: Request| {
        let mut body = request.into_body().into_data_stream();
        let mut length = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.unwrap();
            assert!(chunk.iter().all(|&byte| byte == b'x'));
            length += chunk.len();
        }
        let chunk = Bytes::from(vec![b'y'; MB]);
        let frames =
            (0..length / MB).map(move |_| Ok::<_, std::io::Error>(Frame::data(chunk.clone())));
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    });
    let world = World::with(router).await;
    let length = format!("Content-Length: {}\r\nConnection: close\r\n", 100 * MB);
    let client = world.send(8080, "POST / HTTP/1.1", &length).await;
    let (mut reader, mut writer) = client.stream.into_split();
    let sending = tokio::spawn(async move {
        let chunk = vec![b'x'; MB];
        for _ in 0..100 {
            writer.write_all(&chunk).await.unwrap();
        }
        writer
    });
    let (mut buffer, mut received) = (vec![0; MB], 0);
    loop {
        match reader.read(&mut buffer).await.unwrap() {
            0 => break,
            n => received += buffer[..n].iter().filter(|&&byte| byte == b'y').count(),
        }
    }
    // Heads have a few, chunk lengths none.
    assert_eq!(received / MB, 100);
    sending.await.unwrap();
    for direction in ["in", "out"] {
        let bytes = format!("{{route=\"port\",direction=\"{direction}\"}} {}", 100 * MB);
        assert!(world.tells(&format!("coppice_proxy_bytes_total{bytes}")), "{direction}");
    }
    world.until_told("coppice_proxy_requests_open{route=\"port\"} 0").await;
}

/// Writes until nothing more is taken for a while; returns how much was.
async fn fill(stream: &mut (impl AsyncWriteExt + Unpin)) -> usize {
    let (chunk, mut taken) = (vec![b'x'; 64 * 1024], 0);
    while let Ok(written) = timeout(Duration::from_millis(500), stream.write(&chunk)).await {
        taken += written.unwrap();
        assert!(taken < 64 * MB, "it is buffered without bound");
    }
    taken
}

#[tokio::test]
async fn who_does_not_read_stops_who_writes() {
    let world = World::new().await;
    world.raw_port(8080, async |stream| {
        // Reads nothing at all.
        std::future::pending::<()>().await;
        drop(stream);
    });
    let endless = "Transfer-Encoding: chunked\r\n";
    let mut client = world.send(8080, "POST / HTTP/1.1", endless).await;
    client.write("fffffff\r\n").await;
    fill(&mut client.stream).await;

    let (world, taken) = (World::new().await, Arc::new(AtomicUsize::new(0)));
    world.raw_port(8080, {
        let taken = taken.clone();
        move |mut stream| {
            let taken = taken.clone();
            async move {
                take_request(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                taken.store(fill(&mut stream).await, Ordering::Release);
            }
        }
    });
    let mut client = world.send(8080, "GET / HTTP/1.1", "").await;
    client.head().await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(taken.load(Ordering::Acquire) > 0, "still taking");
}

#[tokio::test]
async fn a_client_that_goes_is_seen_inside() {
    struct Gone(Arc<Notify>);
    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    // Before the response's head, and in the middle of its body.
    for answers in [false, true] {
        let gone = Arc::new(Notify::new());
        let reached = Arc::new(Notify::new());
        let router = Router::new().fallback(any({
            let (gone, reached) = (gone.clone(), reached.clone());
            move || {
                let (gone, reached) = (Gone(gone.clone()), reached.clone());
                async move {
                    reached.notify_one();
                    if !answers {
                        std::future::pending::<()>().await;
                    }
                    let endless = futures_util::stream::once(async move {
                        let _gone = gone;
                        std::future::pending::<Result<Bytes, std::io::Error>>().await
                    });
                    Body::from_stream(endless)
                }
            }
        }));
        // It might only have closed its sending half, until this is over.
        let half_closed = Duration::from_millis(100);
        let world = World::within(Limits { half_closed, ..Limits::default() }).await;
        world.envd(router.clone());
        world.port(8080, router);
        for port in [49983, 8080] {
            let mut client = world.send(port, "GET / HTTP/1.1", "").await;
            reached.notified().await;
            if answers {
                client.head().await;
            }
            drop(client);
            timeout(Duration::from_secs(1), gone.notified()).await.expect("seen");
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_too_early_is_told_of_at_once() {
    // Whoever is there may be silent for as long as this test takes.
    let half_closed = Duration::from_secs(600);
    for late in [false, true] {
        let (told, mut tell) = tokio::sync::mpsc::channel(1);
        let router = Router::new().fallback(any(move |request: Request| {
            let told = told.clone();
            async move {
                told.send("begun").await.unwrap();
                if late {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                let broken = request.into_body().collect().await.is_err();
                told.send(if broken { "broken" } else { "whole" }).await.unwrap();
            }
        }));
        let world = World::within(Limits { half_closed, ..Limits::default() }).await;
        world.envd(router.clone());
        world.port(8080, router);
        for port in [49983, 8080] {
            for framing in ["Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n"] {
                let mut client = world.send(port, "POST / HTTP/1.1", framing).await;
                client.write("4\r\nhalf\r\n").await;
                assert_eq!(tell.recv().await, Some("begun"));
                client.stream.shutdown().await.unwrap();
                let read = timeout(Duration::from_secs(5), tell.recv()).await;
                assert_eq!(read, Ok(Some("broken")), "{port} {framing}");
                assert!(client.head().await.starts_with("http/1.1 502"));
            }
        }
    }
}

#[tokio::test]
async fn an_end_behind_the_body_is_none_of_the_answer() {
    let half_closed = Duration::from_secs(600);
    let router = Router::new().fallback(any(|request: Request| async {
        // The body is looked at when the end has long come, and read in pieces.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let body = request.into_body().collect().await.unwrap().to_bytes();
        tokio::time::sleep(Duration::from_millis(20)).await;
        format!("{} bytes", body.len())
    }));
    let world = World::within(Limits { half_closed, ..Limits::default() }).await;
    world.envd(router.clone());
    world.port(8080, router);
    let asked = (0..64).map(|n| {
        let (world, port) = (&world, if n % 2 == 0 { 49983 } else { 8080 });
        async move {
            let bytes = 1 << (n / 4);
            let headers = format!("Content-Length: {bytes}\r\n");
            let mut client = world.send(port, "POST / HTTP/1.1", &headers).await;
            client.write(&"x".repeat(bytes)).await;
            client.stream.shutdown().await.unwrap();
            assert_eq!(client.answer().await.body, format!("{bytes} bytes"));
        }
    });
    futures_util::future::join_all(asked).await;
}

#[tokio::test]
async fn expectations_are_met_and_trailers_pass() {
    let router = Router::new().fallback(async |request: Request| {
        assert!(!request.headers().contains_key("expect"));
        let body = request.into_body().collect().await.unwrap();
        let sum = body.trailers().map(|trailers| trailers["x-sum"].clone());
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-sum", sum.unwrap_or(http::HeaderValue::from_static("none")));
        let frames =
            [Ok::<_, std::io::Error>(Frame::data(body.to_bytes())), Ok(Frame::trailers(trailers))];
        let body = Body::new(StreamBody::new(futures_util::stream::iter(frames)));
        Response::builder().header("trailer", "x-sum").body(body).unwrap()
    });
    let world = World::with(router).await;
    let headers = "Expect: 100-continue\r\nContent-Length: 4\r\nTE: trailers\r\n";
    let mut client = world.send(8080, "POST / HTTP/1.1", headers).await;
    assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
    client.write("body").await;
    client.head().await;
    assert_eq!(client.until("none\r\n\r\n").await, "4\r\nbody\r\n0\r\nx-sum: none\r\n\r\n");

    let headers = "Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: x-sum\r\n";
    let mut client = world.send(49983, "POST / HTTP/1.1", headers).await;
    client.write("4\r\nbody\r\n0\r\nx-sum: 42\r\n\r\n").await;
    client.head().await;
    client.until("x-sum: 42\r\n\r\n").await;
}

#[tokio::test]
async fn http2_with_prior_knowledge_reaches_both_kinds_of_port() {
    let router = Router::new().fallback(async |request: Request| {
        let cookie =
            request.headers().get("cookie").map(|cookie| cookie.to_str().unwrap().to_owned());
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        format!("{host} {} {body:?}", cookie.unwrap_or_default())
    });
    let world = World::with(router).await;
    let stream = TcpStream::connect(world.gateway).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for port in [49983, 8080] {
        let host = format!("{port}-{}.localhost", world.id);
        let request = http::Request::post(format!("http://{host}/"))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(http_body_util::Full::new(Bytes::from("hi")))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("{host} a=1; b=2 b\"hi\""));
    }
}
