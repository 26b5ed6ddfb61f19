//! The data plane from a client's socket to a sandbox's, with a server of the test's own in the
//! place of envd.

mod documented;
mod ending;
mod hostile;
mod interpreter;
mod kept;
mod pausing;
mod routing;
mod serving;
mod streaming;
mod streams;
mod tls;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use envd::wire::TunnelReply;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    front_door::FrontDoor,
    metrics::{self, Format},
    sandbox::{Facts, Registry, Sandbox, SandboxId, Sandboxes, testing},
    serve::{Entrance, Limits, run_within},
};

const TOKEN: &str = "token-of-envd";

/// The one place that knows how a running sandbox gets into the registry.
pub(super) fn insert(registry: &Registry, id: SandboxId, dir: &std::path::Path) {
    registry.readmit(crate::sandbox::testing::sandbox_in(id, dir, TOKEN));
}

/// A gateway with one sandbox.
struct World {
    dir: tempfile::TempDir,
    sandboxes: Sandboxes,
    registry: Arc<Registry>,
    id: SandboxId,
    gateway: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        Self::within(Limits::default()).await
    }

    async fn within(limits: Limits) -> Self {
        Self::behind(limits, None).await
    }

    async fn behind(limits: Limits, secure: Option<Entrance>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sandboxes = testing::sandboxes(dir.path(), &Arc::default(), testing::rules());
        let registry = sandboxes.registry().clone();
        let id = SandboxId::random();
        insert(&registry, id, dir.path());
        let control = Router::new().fallback(async || (http::StatusCode::OK, "control plane"));
        let door = FrontDoor::new(sandboxes.clone(), None, control);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gateway = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let entrances = [Entrance::plain(listener)].into_iter().chain(secure).collect();
        let server = tokio::spawn(run_within(limits, entrances, door, stop.clone()));
        Self { dir, sandboxes, registry, id, gateway, stop, server }
    }

    /// A world whose envd, and whose port 8080, are this router.
    async fn with(router: Router) -> Self {
        let world = Self::new().await;
        world.envd(router.clone());
        world.port(8080, router);
        world
    }

    /// Whether that is a line of its figures.
    fn tells(&self, line: &str) -> bool {
        metrics::tell(&self.sandboxes, Format::Plain).lines().any(|told| told == line)
    }

    async fn until_told(&self, line: &str) {
        let told = async {
            while !self.tells(line) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let told = timeout(Duration::from_secs(30), told).await;
        told.unwrap_or_else(|_| panic!("{line} is not told"));
    }

    fn sandbox(&self) -> Arc<Sandbox> {
        self.registry.running(self.id).unwrap()
    }

    /// The same sandbox, made otherwise.
    fn readmit(&self, facts: Facts) {
        let deadline = chrono::Utc::now() + chrono::Duration::hours(1);
        let sandbox = Sandbox::new(facts, self.dir.path().to_owned(), deadline);
        self.registry.readmit(Arc::new(sandbox));
    }

    fn cut(&self) {
        self.sandbox().cut().cancel();
    }

    fn bind(&self, name: &str) -> UnixListener {
        UnixListener::bind(self.dir.path().join(name)).unwrap()
    }

    fn envd(&self, router: Router) {
        let listener = self.bind("envd.sock");
        self.accept(listener, move |stream| serve_http(stream, router.clone()));
    }

    /// A tunnel with one port open.
    fn port(&self, open: u16, router: Router) {
        self.raw_port(open, move |stream| serve_http(stream, router.clone()));
    }

    /// The same, with a server that need not speak HTTP.
    fn raw_port<F>(&self, open: u16, serve: impl Fn(TcpStream) -> F + Clone + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = self.bind("tunnel.sock");
        self.accept(listener, move |mut stream| {
            let serve = serve.clone();
            async move {
                if stream.read_u16().await.unwrap() == open {
                    let inside = open_port(stream).await;
                    serve(inside).await;
                } else {
                    stream.write_u8(TunnelReply::Refused as u8).await.unwrap();
                }
            }
        });
    }

    fn accept<F>(&self, listener: UnixListener, serve: impl Fn(UnixStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.gateway).await.unwrap() }
    }

    /// Sends a request without a body to that port, with the two routing headers.
    async fn send(&self, port: u16, request_line: &str, headers: &str) -> Client {
        let mut client = self.connect().await;
        client
            .write(&format!("{request_line}\r\nHost: gateway\r\n{}{headers}\r\n", self.to(port)))
            .await;
        client
    }

    /// Sends it and reads the whole answer.
    async fn ask(&self, port: u16, request_line: &str) -> Answer {
        self.send(port, request_line, "").await.answer().await
    }

    fn to(&self, port: u16) -> String {
        format!("E2b-Sandbox-Id: {}\r\nE2b-Sandbox-Port: {port}\r\n", self.id)
    }

    fn not_found(&self) -> String {
        format!(r#"{{"sandboxId":"{}","message":"The sandbox was not found","code":502}}"#, self.id)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Answers a tunnel with a connection, whose other end it returns.
async fn open_port(tunnel: UnixStream) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    envd::tunnel::open(&tunnel, &theirs).unwrap();
    listener.accept().await.unwrap().0
}

/// Reads a request without a body and leaves it at that; `false` where none comes.
async fn take_request(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(_) => return false,
        }
    }
    true
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = connection.with_upgrades().await;
}

/// A client that sees every byte.
struct Client<S = TcpStream> {
    stream: S,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until `end` has come.
    async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        let reading = async {
            while !read.ends_with(end.as_bytes()) {
                read.push(self.stream.read_u8().await.expect(end));
            }
        };
        timeout(Duration::from_secs(10), reading).await.expect(end);
        String::from_utf8(read).unwrap()
    }

    async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await.to_ascii_lowercase()
    }

    /// Reads one response with a `Content-Length`.
    async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let status = head[9..12].parse().unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap_or_else(|| panic!("no length in {head}"));
        let mut body = vec![0; length.parse().unwrap()];
        self.stream.read_exact(&mut body).await.unwrap();
        Answer { status, body: String::from_utf8(body).unwrap(), head }
    }

    /// Reads until the connection has ended.
    async fn ending(&mut self) -> std::io::Result<usize> {
        let mut rest = Vec::new();
        timeout(Duration::from_secs(5), self.stream.read_to_end(&mut rest)).await.expect("an end")
    }

    async fn assert_reset(&mut self) {
        let error = self.ending().await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

/// A response body that the test feeds.
fn channel() -> (tokio::sync::mpsc::Sender<&'static str>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let chunks = futures_util::stream::unfold(receiver, |mut receiver| async {
        let chunk: &'static str = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), receiver))
    });
    (sender, Body::from_stream(chunks))
}
