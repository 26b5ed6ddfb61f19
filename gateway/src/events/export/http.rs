//! Asking other people's servers: HTTP over TCP or TLS, with connections that are kept, and everything
//! bounded in time and size.
//!
//! Names are looked up here, so that it can be said which addresses may be reached at all.

use std::{
    error::Error as StdError,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::rt;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;
use tower::Service;

use super::Failure;
use crate::tls;

/// Of an answer that is read (bytes); what is longer is as good as none.
const LONGEST: usize = 1 << 20;
/// For a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection nobody has used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// How much of what a server says of a failure goes into the log (characters).
const SAID: usize = 200;
/// At most, whatever a server says.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
}

/// How servers are found and judged.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    /// PEM file of whom to trust; `None`: whom this system does.
    pub(crate) ca: Option<PathBuf>,
    /// Addresses that may be reached.
    pub(crate) may: fn(IpAddr) -> bool,
}

impl Default for Trust {
    fn default() -> Self {
        Self { ca: None, may: |_| true }
    }
}

/// A client of any number of servers; clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Http(Client<Connector, Full<Bytes>>);

/// All of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

type Any = Box<dyn StdError + Send + Sync>;

impl Http {
    /// Reads the certificates to trust from the disk.
    pub(crate) fn new(trust: &Trust, speaks: Speaks) -> Result<Self, String> {
        let connector = Connector::new(trust, speaks)?;
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(IDLE).pool_max_idle_per_host(2).pool_timer(TokioTimer::new());
        builder.http2_only(speaks == Speaks::Http2);
        Ok(Self(builder.build(connector)))
    }

    /// Sends the body there, and waits so long for the whole answer, whatever its status.
    pub(crate) async fn post(
        &self,
        uri: &Uri,
        headers: HeaderMap,
        body: Bytes,
        patience: Duration,
    ) -> Result<Answer, String> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        match timeout(patience, self.exchange(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(chain(&*error)),
            Err(_) => Err(format!("no answer within {} s", patience.as_secs())),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Any> {
        let (parts, body) = self.0.request(request).await?.into_parts();
        let body = Limited::new(body, LONGEST).collect().await?;
        let trailers = body.trailers().cloned();
        let http::response::Parts { status, headers, .. } = parts;
        Ok(Answer { status, headers, body: body.to_bytes(), trailers })
    }
}

impl Answer {
    /// What a status means for whoever sent something: that it may be tried again is said by those of
    /// the server's own trouble, and by those that an operator mends (a key, an address).
    pub(crate) fn judged(&self, secrets: &[&str]) -> Result<(), Failure> {
        if self.status.is_success() {
            return Ok(());
        }
        let why = format!("it answers {}{}", self.status, self.said(secrets));
        match self.status.as_u16() {
            400 | 405 | 406 | 411 | 413 | 414 | 415 | 422 | 431 => Err(Failure::Refused { why }),
            _ => Err(Failure::Later { why, after: self.retry_after() }),
        }
    }

    /// The beginning of its body, for the log.
    fn said(&self, secrets: &[&str]) -> String {
        let mut text = String::from_utf8_lossy(&self.body).into_owned();
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "***");
        }
        match text.trim() {
            "" => String::new(),
            text => format!(": {}", text.chars().take(SAID).collect::<String>().escape_debug()),
        }
    }

    /// In seconds; a date is for servers that expect people.
    fn retry_after(&self) -> Option<Duration> {
        let seconds = self.headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse();
        Some(Duration::from_secs(seconds.ok()?).min(LONGEST_PAUSE))
    }
}

/// An error with what it came of, in one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
    may: fn(IpAddr) -> bool,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

impl Connector {
    fn new(trust: &Trust, speaks: Speaks) -> Result<Self, String> {
        let mut config = client_config(trust.ca.as_deref())?;
        config.alpn_protocols = match speaks {
            Speaks::Http1 => vec![b"http/1.1".to_vec()],
            Speaks::Http2 => vec![b"h2".to_vec()],
        };
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), may: trust.may })
    }

    async fn connect(self, uri: Uri) -> io::Result<Stream> {
        let wrong = |why: &str| io::Error::other(why.to_owned());
        let host = uri.host().ok_or_else(|| wrong("there is no host in the URL"))?;
        let host = host.trim_matches(['[', ']']);
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it begins with neither https:// nor http://")),
        };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = self.reach(host, port).await?;
        tcp.set_nodelay(true)?;
        if !secure {
            return Ok(Stream(TokioIo::new(Box::new(tcp))));
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let tls = self.tls.connect(name, tcp).await?;
        Ok(Stream(TokioIo::new(Box::new(tls))))
    }

    async fn reach(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut failed = io::Error::other(format!("{host} has no address"));
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
        for address in found {
            if !(self.may)(address.ip()) {
                failed = io::Error::other(format!("{host} is at an address that may not be asked"));
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    failed = io::Error::new(error.kind(), format!("{address}: {error}"));
                }
            }
        }
        Err(failed)
    }
}

/// Of a client that judges servers by those in the file, or by those whom this system trusts.
pub(crate) fn client_config(ca: Option<&std::path::Path>) -> Result<ClientConfig, String> {
    let roots = match ca {
        Some(path) => tls::certificates_in(path).map_err(|error| error.to_string())?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let mut trusted = RootCertStore::empty();
    // None is for those who speak no TLS; all others are told so by the handshake.
    trusted.add_parsable_certificates(roots);
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(config)
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            tokio::select! {
                connected = connector.connect(uri) => connected,
                () = sleep(CONNECT) => {
                    Err(io::Error::new(io::ErrorKind::TimedOut, "no connection in time"))
                }
            }
        })
    }
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// To a server, with or without TLS.
struct Stream(TokioIo<Box<dyn Both>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
