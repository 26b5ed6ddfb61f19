//! Accepting connections and speaking HTTP/1.1 (upgrades included) and HTTP/2 with prior knowledge
//! on them. What a request means is for the [`FrontDoor`].
//!
//! hyper's own header timeout also runs while a kept-alive connection is idle, so both times are
//! kept here instead: a client has half a minute to send a request's head, and more than ten
//! minutes between requests, longer than any SDK's pool keeps a connection.

mod crowd;
mod half_closed;
mod line;

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

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
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use crate::front_door::FrontDoor;
use crowd::Crowd;
use half_closed::HalfClosed;
use line::{Busy, Link};
pub use line::{Line, ResetOn};

/// Bounds on what clients may hold, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// More wait in the listener's backlog.
    pub connections: usize,
    /// From a connection's start, or the first byte of a later request, to the end of the head.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For a client that has closed its sending half, from the last that it took to the next.
    pub half_closed: Duration,
    /// For requests under way when the server is to stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 * 1024,
            head: Duration::from_secs(30),
            idle: Duration::from_secs(620),
            half_closed: Duration::from_secs(5),
            drain: Duration::from_secs(4),
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

/// Serves until `stop`, and then as long as requests under way need, within limits.
pub async fn run(listener: TcpListener, app: FrontDoor, stop: CancellationToken) {
    run_within(Limits::default(), listener, app, stop).await;
}

/// [`run`] with limits other than the usual.
pub async fn run_within(
    limits: Limits,
    listener: TcpListener,
    app: FrontDoor,
    stop: CancellationToken,
) {
    let server = Arc::new(Server::new(limits, stop));
    let _tending = AbortOnDropHandle::new(tokio::spawn({
        let server = server.clone();
        async move { server.crowd.tend(&server.links).await }
    }));
    while let Some(link) = server.accept(&listener).await {
        tokio::spawn(serve(server.clone(), link, app.clone()));
    }
    drop(listener);
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
    /// Holds every connection, upgraded ones included.
    links: TaskTracker,
    crowd: Crowd,
    stop: CancellationToken,
    /// Cancelled when the time to drain is over.
    abandon: CancellationToken,
}

impl Server {
    fn new(limits: Limits, stop: CancellationToken) -> Self {
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
            links: TaskTracker::new(),
            crowd: Crowd::default(),
            stop,
            abandon: CancellationToken::new(),
        }
    }

    /// The next connection; `None` when it is time to stop.
    async fn accept(&self, listener: &TcpListener) -> Option<Link> {
        self.stop
            .run_until_cancelled(async {
                let room = self.room.clone().acquire_owned().await.expect("is never closed");
                loop {
                    match listener.accept().await {
                        Ok((stream, peer)) => {
                            prepare(&stream);
                            self.crowd.seen(self.links.len() + 1);
                            let line = Line::new(peer, self.abandon.clone());
                            let half_closed = HalfClosed::new(self.limits.half_closed);
                            return Link::new(stream, line, half_closed, room, self.links.token());
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
        let response = app.call(request);
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
