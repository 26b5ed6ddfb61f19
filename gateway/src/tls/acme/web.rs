//! Asking an authority: HTTP/1.1 over TLS, a connection for each of the dozen requests that a
//! certificate takes, everything bounded in time and size.

use std::{error::Error as StdError, pin::Pin, sync::Arc, time::Duration};

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
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// For one request, from looking the name up to the last byte of the answer.
const PATIENCE: Duration = Duration::from_secs(30);
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
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(443))).await?;
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
