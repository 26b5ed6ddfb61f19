//! The same over TLS, as far as it may differ: handshakes, certificates, and how connections end.

use axum::{extract::Request, routing::any};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, sleep};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, ClientConnection, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::*;
use crate::tls::{Authority, Certificates};

struct Secure {
    world: World,
    address: SocketAddr,
    authority: Authority,
    certificates: Arc<Certificates>,
    roots: RootCertStore,
    _dir: tempfile::TempDir,
}

impl Secure {
    async fn within(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::of(dir.path(), "sbx.test").unwrap();
        let made = authority.issue().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(made.ca).unwrap()).unwrap();
        let certificates = Certificates::open(made.files).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let entrance = Entrance::tls(listener, certificates.server().unwrap());
        let world = World::behind(limits, Some(entrance)).await;
        Self { world, address, authority, certificates, roots, _dir: dir }
    }

    async fn with(router: Router) -> Self {
        let secure = Self::within(Limits::default()).await;
        secure.world.envd(router.clone());
        secure.world.port(8080, router);
        secure
    }

    /// A client that speaks these protocols.
    async fn connect(&self, protocols: &[&str]) -> Client<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(self.client(protocols));
        Client { stream: connector.connect(self.name(), stream).await.unwrap() }
    }

    /// A client that has got an answer to its first message and leaves it at that.
    async fn stall(&self) -> Client {
        let mut client = Client { stream: TcpStream::connect(self.address).await.unwrap() };
        let mut handshake = ClientConnection::new(self.client(&[]), self.name()).unwrap();
        let mut hello = Vec::new();
        handshake.write_tls(&mut hello).unwrap();
        client.stream.write_all(&hello).await.unwrap();
        client.stream.read_u8().await.unwrap();
        client
    }

    fn client(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    fn name(&self) -> ServerName<'static> {
        ServerName::try_from(format!("8080-{}.sbx.test", self.world.id)).unwrap()
    }

    /// Sends a request to a port by an HTTP/1.1 connection of its own.
    async fn send(&self, port: u16, headers: &str) -> Client<TlsStream<TcpStream>> {
        let mut client = self.connect(&["http/1.1"]).await;
        client.write(&self.request(port, headers)).await;
        client
    }

    fn request(&self, port: u16, headers: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: {port}-{}.sbx.test:8443\r\n{headers}\r\n", self.world.id)
    }

    async fn http2(&self) -> SendRequest<Empty<Bytes>> {
        let stream = self.connect(&["h2"]).await.stream;
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    fn to(&self, port: u16) -> http::Request<Empty<Bytes>> {
        let uri = format!("https://{port}-{}.sbx.test:8443/", self.world.id);
        http::Request::get(uri).body(Empty::new()).unwrap()
    }
}

fn agreed(client: &Client<TlsStream<TcpStream>>) -> Option<String> {
    let protocol = client.stream.get_ref().1.alpn_protocol();
    protocol.map(|name| String::from_utf8(name.to_vec()).unwrap())
}

fn certificate(client: &Client<TlsStream<TcpStream>>) -> Vec<u8> {
    client.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
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
async fn protocols_are_agreed_on_beforehand_and_both_reach_a_port() {
    let told = async |request: Request| {
        let header = |name| request.headers()[name].to_str().unwrap().to_owned();
        format!("{} {}", header("x-forwarded-proto"), header("host"))
    };
    let secure = Secure::with(Router::new().fallback(any(told))).await;
    let expected = format!("https 8080-{}.sbx.test:8443", secure.world.id);
    for (offered, wanted) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let mut client = secure.connect(offered).await;
        assert_eq!(agreed(&client).as_deref(), wanted);
        if wanted != Some("h2") {
            client.write(&secure.request(8080, "")).await;
            assert_eq!(client.answer().await.body, expected);
        }
    }
    let answer = secure.http2().await.send_request(secure.to(8080)).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), expected);
    // Beside it the plain listener serves as ever.
    assert_eq!(secure.world.ask(8080, "GET / HTTP/1.1").await.body, "http gateway");
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_ends_and_holds_up_nobody() {
    let limits = Limits { handshake: Duration::from_millis(500), ..Limits::default() };
    let secure = Secure::within(limits).await;
    let mut stalled = vec![secure.stall().await];
    for sent in ["", "\x16\x03\x01\x02\x00\x01"] {
        let mut client = Client { stream: TcpStream::connect(secure.address).await.unwrap() };
        client.write(sent).await;
        stalled.push(client);
    }
    secure.connect(&["h2"]).await;
    for client in &mut stalled {
        let _ = client.ending().await;
    }
    // Plain HTTP is no handshake, and is not waited for.
    let mut client = Client { stream: TcpStream::connect(secure.address).await.unwrap() };
    client.write("GET / HTTP/1.1\r\nHost: g\r\n\r\n").await;
    let _ = client.ending().await;
}

#[tokio::test]
async fn a_handshake_counts_against_the_limit_of_connections() {
    let secure = Secure::within(Limits { connections: 1, ..Limits::default() }).await;
    let stalled = secure.stall().await;
    let mut waiting = secure.world.connect().await;
    waiting.write("GET / HTTP/1.1\r\nHost: g\r\n\r\n").await;
    assert!(timeout(Duration::from_millis(200), waiting.stream.readable()).await.is_err());
    drop(stalled);
    assert_eq!(waiting.answer().await.body, "control plane");
}

#[tokio::test]
async fn stopping_does_not_wait_for_handshakes() {
    let secure = Secure::within(Limits::default()).await;
    let mut stalled = secure.stall().await;
    let started = Instant::now();
    secure.world.stop.cancel();
    let _ = stalled.ending().await;
    while !secure.world.server.is_finished() {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(started.elapsed() < Limits::default().drain);
}

#[tokio::test]
async fn streams_are_reset_without_an_orderly_end_of_tls() {
    for port in [49983, 8080] {
        let secure = Secure::with(stalling()).await;
        let mut client = secure.send(port, "").await;
        client.until("first\r\n").await;
        secure.world.cut();
        client.assert_reset().await;
    }
}

#[tokio::test]
async fn a_stream_that_breaks_inside_is_reset_and_one_that_has_ended_is_closed_in_order() {
    let secure = Secure::within(Limits::default()).await;
    secure.world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf").await;
    });
    let mut client = secure.send(8080, "").await;
    client.until("half").await;
    client.assert_reset().await;

    let secure = Secure::with(Router::new().fallback(async || "whole")).await;
    let mut client = secure.send(8080, "Connection: close\r\n").await;
    assert_eq!(client.answer().await.body, "whole");
    // rustls calls an end without `close_notify` an error.
    assert_eq!(client.ending().await.unwrap(), 0);
}

#[tokio::test]
async fn a_stream_whose_client_does_not_read_is_reset_too() {
    let secure = Secure::within(Limits::default()).await;
    secure.world.raw_port(8080, async |mut stream| {
        take_request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
    });
    let mut client = secure.send(8080, "").await;
    client.head().await;
    // Long enough for every buffer on the way to be full.
    sleep(Duration::from_millis(500)).await;
    secure.world.cut();
    sleep(Duration::from_millis(200)).await;
    client.assert_reset().await;
}

#[tokio::test]
async fn upgraded_connections_are_reset() {
    let secure = Secure::with(ending::upgrading()).await;
    let mut client = secure.send(8080, "Connection: Upgrade\r\nUpgrade: websocket\r\n").await;
    client.until("hello").await;
    secure.world.cut();
    client.assert_reset().await;
}

#[tokio::test]
async fn on_http2_only_the_stream_is_reset() {
    let secure = Secure::with(stalling()).await;
    let mut sender = secure.http2().await;
    let mut body = sender.send_request(secure.to(49983)).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    secure.world.cut();
    let end = timeout(Duration::from_secs(5), body.frame()).await.unwrap();
    assert!(end.unwrap().is_err());
    assert_eq!(sender.send_request(secure.to(49983)).await.unwrap().status(), 502);
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_the_old_go_on() {
    let secure = Secure::with(Router::new().fallback(async || "whole")).await;
    let mut old = secure.connect(&["http/1.1"]).await;
    secure.authority.issue().unwrap();
    secure.certificates.reload();
    let new = secure.connect(&["http/1.1"]).await;
    assert_ne!(certificate(&old), certificate(&new));
    old.write(&secure.request(8080, "")).await;
    assert_eq!(old.answer().await.body, "whole");
}
