//! One HTTP/1.1 connection, driven by the task that uses it.
//!
//! No thread wakes another between a request and its answer, so what is measured is the server
//! and one round through the loopback. Reconnects when the server has hung up between requests.

use std::{
    error::Error,
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use tokio::net::TcpStream;

/// What of an answer is kept when it is not asked for: enough to say what went wrong.
const KEPT: usize = 4096;
/// Uploads go out in pieces of this size.
const PIECE: usize = 64 << 10;

/// A request's body: the same bytes over and over until its length is reached.
#[derive(Clone)]
pub(crate) struct Payload {
    piece: Bytes,
    left: u64,
}

impl Payload {
    pub(crate) fn of(bytes: impl Into<Bytes>) -> Self {
        let piece = bytes.into();
        Self { left: piece.len() as u64, piece }
    }

    pub(crate) fn empty() -> Self {
        Self::of(Bytes::new())
    }

    /// Bytes that do not compress, the same in every run.
    pub(crate) fn random(length: u64, seed: u64) -> Self {
        let mut piece = vec![0; PIECE];
        StdRng::seed_from_u64(seed).fill_bytes(&mut piece);
        Self { piece: piece.into(), left: length }
    }

    /// As many of the same bytes.
    pub(crate) fn cut(self, length: u64) -> Self {
        Self { left: length, ..self }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.piece.len());
        self.left -= size as u64;
        Poll::Ready(Some(Ok(Frame::data(self.piece.slice(..size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What to do with the body of a successful answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    All,
    Length,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    pub(crate) length: u64,
}

impl Answer {
    /// # Errors
    /// [`Refused`] for any other status.
    pub(crate) fn successful(self) -> anyhow::Result<Self> {
        if !self.status.is_success() {
            let text = String::from_utf8_lossy(&self.body).trim().to_owned();
            bail!(Refused { status: self.status, text });
        }
        Ok(self)
    }
}

/// What a server said instead of doing it.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    text: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.text)
    }
}

impl Error for Refused {}

/// A connection to one server, made when it is first needed.
pub(crate) struct Client {
    server: SocketAddr,
    line: Option<Line>,
}

struct Line {
    sender: http1::SendRequest<Payload>,
    connection: Connection,
}

/// Gone once it is over: what waits for it then learns so.
type Connection = Option<Pin<Box<http1::Connection<TokioIo<TcpStream>, Payload>>>>;

impl Client {
    pub(crate) fn new(server: SocketAddr) -> Self {
        Self { server, line: None }
    }

    pub(crate) async fn send(
        &mut self,
        mut request: Request<Payload>,
        keep: Keep,
    ) -> anyhow::Result<Answer> {
        loop {
            let (mut line, fresh) = match self.line.take() {
                Some(line) => (line, false),
                None => (self.connect().await?, true),
            };
            let Line { sender, connection } = &mut line;
            if drive(connection, sender.ready()).await.is_err() && !fresh {
                continue;
            }
            match drive(connection, sender.try_send_request(request)).await {
                Ok(answer) => {
                    let (head, body) = answer.into_parts();
                    let keep = if head.status.is_success() { keep } else { Keep::Length };
                    let (body, length) = drive(connection, read(body, keep)).await?;
                    self.line = Some(line);
                    return Ok(Answer { status: head.status, body, length });
                }
                // Never left: the server hung up before.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(error.into_error()).context("request"),
                },
            }
        }
    }

    async fn connect(&self) -> anyhow::Result<Line> {
        let stream = TcpStream::connect(self.server)
            .await
            .with_context(|| format!("connect to {}", self.server))?;
        stream.set_nodelay(true).context("nodelay")?;
        let (sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.context("handshake")?;
        Ok(Line { sender, connection: Some(Box::pin(connection)) })
    }
}

/// `work` to its end, with the connection it waits for.
async fn drive<T>(connection: &mut Connection, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| {
        poll_connection(connection, context);
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(done);
        }
        // What the work has just asked for goes out at once.
        poll_connection(connection, context);
        work.as_mut().poll(context)
    })
    .await
}

fn poll_connection(connection: &mut Connection, context: &mut Context<'_>) {
    if let Some(running) = connection
        && running.as_mut().poll(context).is_ready()
    {
        *connection = None;
    }
}

/// The body as far as it is kept, and its whole length.
async fn read(mut body: Incoming, keep: Keep) -> anyhow::Result<(Bytes, u64)> {
    let mut kept = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("answer")?.into_data() else { continue };
        length += data.len() as u64;
        if keep == Keep::All || kept.len() + data.len() <= KEPT {
            kept.extend_from_slice(&data);
        }
    }
    Ok((kept.freeze(), length))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn get() -> Request<Payload> {
        Request::get("/").header("host", "x").body(Payload::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_server_that_hung_up_between_requests_is_connected_to_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (closed, is_closed) = tokio::sync::oneshot::channel();
        let server = tokio::spawn(async move {
            let mut closed = Some(closed);
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
                drop(stream);
                if let Some(closed) = closed.take() {
                    closed.send(()).unwrap();
                }
            }
        });
        let mut client = Client::new(address);
        let both = async {
            assert_eq!(client.send(get(), Keep::All).await.unwrap().body, "hi");
            is_closed.await.unwrap();
            assert_eq!(client.send(get(), Keep::All).await.unwrap().body, "hi");
            server.await.unwrap();
        };
        tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_cut_short_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = Client::new(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_ne!(stream.read(&mut [0; 1024]).await.unwrap(), 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi").await.unwrap();
        });
        let answer = client.send(get(), Keep::All);
        assert!(tokio::time::timeout(Duration::from_secs(10), answer).await.unwrap().is_err());
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_payload_has_its_length_and_is_the_same_in_every_run() {
        let length = 3 * PIECE as u64 / 2;
        let payload = || Payload::random(length, 7);
        assert_eq!(payload().size_hint().exact(), Some(length));
        let once = payload().collect().await.unwrap().to_bytes();
        assert_eq!(once.len() as u64, length);
        assert_eq!(once, payload().collect().await.unwrap().to_bytes());
        assert_ne!(once, Payload::random(length, 8).collect().await.unwrap().to_bytes());
    }
}
