//! Accepting connections and speaking HTTP/1.1 (upgrades included) and HTTP/2 on them: with prior
//! knowledge in the clear, by ALPN over TLS. What a request means is for the [`FrontDoor`].
//!
//! hyper's own header timeout also runs while a kept-alive connection is idle, so both times are
//! kept here instead: a client has half a minute to send a request's head, and more than ten
//! minutes between requests, longer than any SDK's pool keeps a connection.

mod crowd;
mod half_closed;
mod line;
mod neighbours;
mod received;
mod wire;

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::join_all;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    front_door::FrontDoor,
    metrics::{Denied, Metrics, Open},
};
use crowd::Crowd;
use half_closed::HalfClosed;
use line::Busy;
pub use line::{Brief, Line, ResetOn};
use neighbours::{Neighbour, Neighbours};
pub use received::Received;
use wire::{Link, Wire};

/// Bounds on what clients may hold, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Those shaking hands included. More wait in the backlog, but for one of each listener.
    pub connections: usize,
    /// Of these from one address; more are reset.
    pub of_one_address: usize,
    /// The same for an address of this host's own loopback, behind which may be everybody.
    pub of_loopback: usize,
    /// Of TLS.
    pub handshake: Duration,
    /// From a connection's start, or the first byte of a later request, to the end of the head.
    pub head: Duration,
    /// Between requests, and for what is answered at once until it is taken.
    pub idle: Duration,
    /// For a client that has closed its sending half, from the last that it took to the next.
    pub half_closed: Duration,
    /// For requests under way when the server is to stop; half a second less than `coppice serve`
    /// waits, within which what is cut ends.
    pub drain: Duration,
}

impl Limits {
    /// Where only figures are told: for a few programs that come now and then.
    pub fn few() -> Self {
        Self { connections: 64, of_one_address: 48, ..Self::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 * 1024,
            of_one_address: 12 * 1024,
            of_loopback: usize::MAX,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            idle: Duration::from_secs(620),
            half_closed: Duration::from_secs(5),
            drain: Duration::from_millis(1500),
        }
    }
}

/// Buffer of an HTTP/1.1 connection, and so the longest request head.
const MAX_BUFFER: usize = 128 * 1024;
/// Most headers of an HTTP/1.1 request.
const MAX_HEADERS: usize = 512;
/// Most headers of an HTTP/2 request (bytes).
const MAX_HEADER_LIST: u32 = 64 * 1024;
/// An SDK opens one stream per running command, and another connection when these are used up.
const MAX_STREAMS: u32 = 256;
/// A stream whose reader has stopped must not hold up the others: the connection's window is many
/// streams' windows.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Held of one stream's response for a client that does not read.
const SEND_BUFFER: usize = 64 * 1024;
/// Between a sign of life asked of a silent peer and the next.
const PROBE: Duration = Duration::from_secs(30);
/// After an error of `accept` that will not go away by itself, as `EMFILE`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that clients come in by.
pub struct Entrance {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Entrance {
    pub fn plain(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }

    pub fn tls(listener: TcpListener, server: Arc<ServerConfig>) -> Self {
        Self { listener, tls: Some(server.into()) }
    }
}

/// Serves until `stop`, and then as long as requests under way need, within limits.
pub async fn run(entrances: Vec<Entrance>, app: FrontDoor, stop: CancellationToken) {
    run_within(Limits::default(), entrances, app, stop).await;
}

/// [`run`] with limits other than the usual.
pub async fn run_within(
    limits: Limits,
    entrances: Vec<Entrance>,
    app: FrontDoor,
    stop: CancellationToken,
) {
    let server = Arc::new(Server::new(limits, app.metrics().clone(), stop));
    let _tending = AbortOnDropHandle::new(tokio::spawn({
        let server = server.clone();
        async move { server.crowd.tend(&server.links).await }
    }));
    join_all(entrances.into_iter().map(|entrance| admit(&server, entrance, &app))).await;
    server.links.close();
    if timeout(limits.drain, server.links.wait()).await.is_err() {
        tracing::info!(connections = server.links.len(), "dropping connections still in use");
        server.abandon.cancel();
        // They end as soon as they are scheduled.
        let _ = timeout(Duration::from_millis(500), server.links.wait()).await;
    }
}

struct Server {
    limits: Limits,
    http: auto::Builder<TokioExecutor>,
    room: Arc<Semaphore>,
    neighbours: Arc<Neighbours>,
    /// Holds every connection, upgraded ones included.
    links: TaskTracker,
    crowd: Crowd,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    /// Cancelled when the time to drain is over.
    abandon: CancellationToken,
}

impl Server {
    fn new(limits: Limits, metrics: Arc<Metrics>, stop: CancellationToken) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().header_read_timeout(None).max_buf_size(MAX_BUFFER).max_headers(MAX_HEADERS);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PROBE)
            .keep_alive_timeout(PROBE)
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_LIST)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER);
        Self {
            limits,
            http,
            room: Arc::new(Semaphore::new(limits.connections)),
            neighbours: Neighbours::new(limits.of_one_address, limits.of_loopback),
            links: TaskTracker::new(),
            crowd: Crowd::default(),
            metrics,
            stop,
            abandon: CancellationToken::new(),
        }
    }

    /// The next connection; `None` when it is time to stop.
    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr, Place)> {
        self.stop
            .run_until_cancelled(async {
                loop {
                    match listener.accept().await {
                        Ok((stream, peer)) => {
                            let Some(neighbour) = self.neighbours.admit(peer.ip()) else {
                                // Without a state that the kernel has to keep.
                                let _ = stream.set_zero_linger();
                                self.metrics.denied(Denied::Connections);
                                if self.neighbours.is_to_be_told() {
                                    tracing::warn!(%peer, "too many connections from there");
                                }
                                continue;
                            };
                            prepare(&stream);
                            // Not before there is someone to take it: another listener's client
                            // may be waiting for room.
                            let room = self.room.clone().acquire_owned().await;
                            let room = room.expect("is never closed");
                            let place = Place {
                                _room: room,
                                _neighbour: neighbour,
                                _counted: self.links.token(),
                                _told: self.metrics.connection(),
                            };
                            self.crowd.seen(self.links.len());
                            return (stream, peer, place);
                        }
                        Err(error) if gave_up(&error) => {}
                        Err(error) => {
                            tracing::warn!(%error, "accept");
                            sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            })
            .await
    }
}

async fn admit(server: &Arc<Server>, entrance: Entrance, app: &FrontDoor) {
    while let Some((stream, peer, place)) = server.accept(&entrance.listener).await {
        let (server, tls, app) = (server.clone(), entrance.tls.clone(), app.clone());
        tokio::spawn(async move {
            let wire = match tls {
                None => Wire::Plain(stream),
                Some(tls) => match shake_hands(&server, &tls, stream).await {
                    Ok(wire) => wire,
                    Err(error) => return tracing::debug!(%peer, %error, "no TLS"),
                },
            };
            if let Some(protocol) = wire.protocol() {
                tracing::debug!(%peer, protocol = %protocol.escape_ascii(), "TLS");
            }
            let line = Line::new(peer, wire.scheme(), server.abandon.clone());
            let half_closed = HalfClosed::new(server.limits.half_closed);
            serve(server, Link::new(wire, line, half_closed, place), app).await;
        });
    }
}

async fn shake_hands(server: &Server, tls: &TlsAcceptor, stream: TcpStream) -> io::Result<Wire> {
    let handshake = timeout(server.limits.handshake, tls.accept(stream));
    match server.stop.run_until_cancelled(handshake).await {
        None => Err(io::Error::other("stopping")),
        Some(Err(_)) => Err(io::ErrorKind::TimedOut.into()),
        Some(Ok(stream)) => Ok(Wire::Tls(Box::new(stream?))),
    }
}

/// What a connection holds of the server's as long as it is there.
struct Place {
    _room: OwnedSemaphorePermit,
    _neighbour: Neighbour,
    /// Also counts what was upgraded.
    _counted: TaskTrackerToken,
    _told: Open,
}

/// Whether it is only the one client that has gone before it was accepted.
fn gave_up(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn prepare(stream: &TcpStream) {
    // Neither failing stops anything from working.
    let _ = stream.set_nodelay(true);
    let probing = TcpKeepalive::new().with_time(2 * PROBE).with_interval(PROBE);
    let _ = SockRef::from(stream).set_tcp_keepalive(&probing);
}

async fn serve(server: Arc<Server>, link: Link, app: FrontDoor) {
    let line = link.line().clone();
    let service = service_fn(|mut request: Request<Incoming>| {
        let busy = line.begin(request.version());
        request.extensions_mut().insert(line.clone());
        let response = app.call(request.map(|body| Received::new(body, line.clone())));
        async move { response.await.map(|response| tracked(response, busy)) }
    });
    let mut connection =
        pin!(server.http.serve_connection_with_upgrades(TokioIo::new(link), service));
    let mut stopping = false;
    // Looked at twice within the time a head may take, so that it takes at most half as much more.
    let mut look = pin!(sleep(server.limits.head / 2));
    loop {
        tokio::select! {
            biased;
            // First, since by now the connection may have seen what the sandbox sent end, in order
            // as it seems; and again after it, when there may be something new to wait for.
            () = line.cut() => return,
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(peer = %line.peer(), error, "connection ended");
                }
                return;
            }
            () = line.cut() => return,
            () = server.abandon.cancelled() => return,
            () = server.stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = look.as_mut() => {
                if line.overdue(&server.limits) {
                    return;
                }
                look.as_mut().reset(Instant::now() + server.limits.head / 2);
            }
        }
    }
}

fn tracked<B>(response: Response<B>, busy: Busy) -> Response<Tracked<B>> {
    if response.extensions().get::<Brief>().is_some() {
        busy.is_brief();
    }
    response.map(|body| Tracked { body, _busy: busy })
}

/// A response's body, for as long as which its connection counts as busy.
struct Tracked<B> {
    body: B,
    _busy: Busy,
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
