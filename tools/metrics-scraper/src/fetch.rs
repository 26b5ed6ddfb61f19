//! One GET of a gateway's figures, in a bounded time and of a bounded length.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// For all of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A scrape of thousands of sandboxes has a tenth of it (bytes).
const LONGEST: usize = 64 << 20;

/// Where the figures are, and what is shown to get them.
pub(crate) struct Source {
    uri: Uri,
    host: String,
    port: u16,
    key: Option<HeaderValue>,
    tls: Option<TlsConnector>,
}

impl Source {
    /// The gateway at `url`, which may have a path before `/metrics`. `key_file` holds the API key.
    ///
    /// # Errors
    /// The URL or the key is none, the file cannot be read, or no authority is trusted here.
    pub(crate) fn new(url: &str, key_file: Option<&Path>) -> anyhow::Result<Self> {
        let url = url.trim_end_matches('/');
        let url = url.strip_suffix("/metrics").unwrap_or(url);
        let uri: Uri = format!("{url}/metrics").parse().with_context(|| format!("--url {url}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!("--url {url}: it has to begin with http:// or https://"),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        ensure!(!host.is_empty(), "--url {url}: it has no host");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let key = key_file.map(read_key).transpose()?;
        let tls = if secure { Some(connector()?) } else { None };
        Ok(Self { uri, host, port, key, tls })
    }

    /// The text of one scrape.
    ///
    /// # Errors
    /// There is no gateway, or it answers with something else.
    pub(crate) async fn get(&self) -> anyhow::Result<String> {
        timeout(PATIENCE, self.exchange())
            .await
            .unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}"))
            .with_context(|| format!("GET {}", self.uri))
    }

    async fn exchange(&self) -> anyhow::Result<String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        match &self.tls {
            None => self.ask(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())?;
                self.ask(tls.connect(name, stream).await?).await
            }
        }
    }

    async fn ask<S>(&self, stream: S) -> anyhow::Result<String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let path = self.uri.path_and_query().map_or("/metrics", |path| path.as_str());
        let mut request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        if let Some(key) = &self.key {
            request.headers_mut().insert("x-api-key", key.clone());
        }
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        ensure!(status.is_success(), "it answers {status}");
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        String::from_utf8(body.into()).context("its answer is no text")
    }
}

fn read_key(file: &Path) -> anyhow::Result<HeaderValue> {
    let text =
        fs::read_to_string(file).with_context(|| format!("--api-key-file {}", file.display()))?;
    let key = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let key = key.with_context(|| format!("--api-key-file {}: it is empty", file.display()))?;
    let mut key = HeaderValue::from_str(key)
        .with_context(|| format!("--api-key-file {}: what is in it is no key", file.display()))?;
    key.set_sensitive(true);
    Ok(key)
}

/// Trusts whom the system does, or who is in `SSL_CERT_FILE`.
fn connector() -> anyhow::Result<TlsConnector> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    ensure!(!roots.is_empty(), "no authority is trusted here: {:?}", found.errors);
    let client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(client)))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// Answers one request with that, and gives what was asked.
    async fn answer(with: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.unwrap();
            stream.write_all(with.as_bytes()).await.unwrap();
            String::from_utf8(asked[..length].to_vec()).unwrap()
        });
        (url, asked)
    }

    #[tokio::test]
    async fn figures_are_fetched_with_the_key_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, "# of the scraper\n\n e2b_00 \n").unwrap();
        let (url, asked) =
            answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n")
                .await;
        let source = Source::new(&url, Some(&file)).unwrap();
        assert_eq!(source.get().await.unwrap(), "a 1\n");
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("GET /metrics HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nx-api-key: e2b_00\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_and_nobody_there_are_errors_that_name_the_url() {
        let (url, _asked) = answer("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").await;
        let source = Source::new(&url, None).unwrap();
        let error = format!("{:#}", source.get().await.unwrap_err());
        assert!(error.contains("/metrics") && error.contains("401"), "{error}");
        // Its listener has gone with the first answer.
        assert!(source.get().await.is_err());
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in ["localhost:3000", "ftp://localhost", "http://", "http://a b"] {
            assert!(Source::new(url, None).is_err(), "{url}");
        }
        for (url, path) in [("http://h", "/metrics"), ("http://h/a/metrics", "/a/metrics")] {
            assert_eq!(Source::new(url, None).unwrap().uri.path(), path);
        }
        assert!(Source::new("http://h", Some(Path::new("/none"))).is_err());
    }
}
