//! Asking an authority: HTTP/1.1 over TLS, a connection for each of the dozen requests that a
//! certificate takes, everything bounded in time and size.

use std::{error::Error as StdError, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// For one request, from looking the name up to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one of its addresses to take a connection, before the next is tried: a network may swallow
/// what goes to some.
const ADDRESS: Duration = Duration::from_secs(5);
/// More than any answer, certificates with their chains included.
const LONGEST: usize = 1 << 20;

pub(super) struct Web(TlsConnector);

type Any = Box<dyn StdError + Send + Sync>;

impl Web {
    /// Trusts servers that one of `roots` vouches for.
    pub(super) fn new(roots: Vec<CertificateDer<'static>>) -> Result<Self, rustls::Error> {
        let mut trusted = RootCertStore::empty();
        trusted.add_parsable_certificates(roots);
        let config = ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = self.0.clone();
        Box::pin(async move {
            let asked = request.uri().clone();
            let answer = match timeout(PATIENCE, exchange(tls, request)).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs()).into()),
            };
            answer.map_err(|error| Error::Other(format!("{asked}: {error}").into()))
        })
    }
}

async fn exchange(
    tls: TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Any> {
    let uri = request.uri().clone();
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https"));
    let authority = authority.ok_or("it does not begin with https://")?;
    let host = authority.host().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned())?;
    let stream = dial(host, authority.port_u16().unwrap_or(443)).await?;
    let stream = tls.connect(name, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));

    request.headers_mut().insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse::<Uri>()?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, LONGEST).collect().await?.to_bytes();
    Ok(BytesResponse { parts, body: Box::new(body) })
}

/// By the first address that takes a connection, in the order that the resolver has them.
async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    dial_any(lookup_host((host, port)).await?, ADDRESS).await
}

async fn dial_any(
    addresses: impl Iterator<Item = SocketAddr>,
    patience: Duration,
) -> io::Result<TcpStream> {
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in addresses {
        let connected = timeout(patience, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            Err(error) => refused = io::Error::new(error.kind(), format!("{address}: {error}")),
        }
    }
    Err(refused)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, os::fd::AsRawFd};

    use nix::sys::socket::{Backlog, listen};
    use tokio::net::TcpListener;

    use super::*;

    /// A listener whose queue is full takes no further connection and says nothing.
    #[tokio::test]
    async fn an_address_that_swallows_what_it_is_sent_holds_nobody_up_for_long() {
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let (silent, answering) = (bind().await.unwrap(), bind().await.unwrap());
        listen(&silent, Backlog::new(1).unwrap()).unwrap();
        let (deaf, good) = (silent.local_addr().unwrap(), answering.local_addr().unwrap());
        let patience = Duration::from_millis(200);
        let mut queued = Vec::new();
        while let Ok(stream) = dial_any([deaf].into_iter(), patience).await {
            assert!(queued.len() < 16, "descriptor {} takes all", silent.as_raw_fd());
            queued.push(stream);
        }
        let stream = dial_any([deaf, good].into_iter(), patience).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        let nobody = dial_any([].into_iter(), patience).await.unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
        let alone = dial_any([deaf].into_iter(), patience).await.unwrap_err();
        assert!(alone.to_string().starts_with(&deaf.to_string()), "{alone}");
    }
}
