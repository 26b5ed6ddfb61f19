//! How a command asks a gateway that runs: its API, over HTTP/1.1, with the API key of the user.

use std::{env, fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// For an answer, and for all of one that is no stream.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of an answer that is read as a whole (bytes).
const LONGEST: usize = 64 << 20;

/// Which gateway, and by what right.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Reach {
    /// The gateway
    #[arg(long, value_name = "URL", env = "COPPICE_URL", default_value = "http://127.0.0.1:3000")]
    url: String,
    /// File whose first line is the API key; else it is COPPICE_API_KEY or E2B_API_KEY
    #[arg(long, value_name = "FILE", env = "COPPICE_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
}

/// A gateway's API.
pub(crate) struct Api {
    /// What stands before the paths.
    base: String,
    authority: String,
    host: String,
    port: u16,
    key: Option<HeaderValue>,
    tls: Option<TlsConnector>,
}

/// An answer that may go on for as long as it likes.
pub(crate) struct Stream {
    pub(crate) answer: Response<Incoming>,
    /// Drives it.
    pub(crate) connection: AbortOnDropHandle<()>,
}

/// The gateway has answered with a refusal.
#[derive(Debug, thiserror::Error)]
#[error("the gateway answers {status}: {message}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    message: String,
}

impl Api {
    /// # Errors
    /// The URL or the key is none, the file cannot be read, or no authority is trusted here.
    pub(crate) fn new(reach: &Reach) -> anyhow::Result<Self> {
        let base = reach.url.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().with_context(|| format!("--url {base}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!("--url {base}: it has to begin with http:// or https://"),
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        ensure!(!host.is_empty(), "--url {base}: it has no host");
        Ok(Self {
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            base: uri.path().trim_end_matches('/').to_owned(),
            port: uri.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            host,
            key: key(reach)?,
            tls: if secure { Some(connector()?) } else { None },
        })
    }

    /// `path` may have a query.
    ///
    /// # Errors
    /// There is no gateway, it [refuses](Refused), or its answer is something else.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let value = self.send(Method::GET, path, None).await?;
        serde_json::from_value(value).with_context(|| format!("GET {path}: an unexpected answer"))
    }

    /// With a body of JSON, if any; what is answered, null if nothing is.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let asked = format!("{method} {path}");
        let all = async {
            let Stream { answer, connection: _connection } =
                self.open(method, path, &[], body).await?;
            let body = Limited::new(answer.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| anyhow!(error))?.to_bytes();
            if body.is_empty() {
                return Ok(Value::Null);
            }
            serde_json::from_slice(&body).context("its answer is no JSON")
        };
        let all = timeout(PATIENCE, all).await;
        all.unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}")).context(asked)
    }

    /// An answer of success, to be read as it comes.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<&Value>,
    ) -> anyhow::Result<Stream> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::HOST, &self.authority)
            .header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(key) = &self.key {
            request = request.header("x-api-key", key);
        }
        let body = body.map(|body| Bytes::from(body.to_string()));
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.unwrap_or_default()))?;
        let answer = async {
            let stream = TcpStream::connect((self.host.as_str(), self.port))
                .await
                .with_context(|| format!("no gateway at {}", self.authority))?;
            match &self.tls {
                None => ask(stream, request).await,
                Some(tls) => {
                    let name = ServerName::try_from(self.host.clone())?;
                    ask(tls.connect(name, stream).await?, request).await
                }
            }
        };
        let answer = timeout(PATIENCE, answer).await;
        let answer = answer.unwrap_or_else(|_| bail!("no answer within {PATIENCE:?}"))?;
        if answer.answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.answer.status();
        let Stream { answer, connection: _connection } = answer;
        let told = Limited::new(answer.into_body(), LONGEST).collect();
        let told = timeout(PATIENCE, told).await.ok().and_then(Result::ok);
        let told = told.and_then(|told| serde_json::from_slice::<Value>(&told.to_bytes()).ok());
        let message =
            told.as_ref().and_then(|told| told["message"].as_str()).unwrap_or("it says no more");
        Err(Refused { status, message: message.to_owned() }.into())
    }
}

async fn ask<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Stream>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(async move {
        // Whoever reads the answer is told how it ends.
        let _ = connection.await;
    });
    let connection = AbortOnDropHandle::new(connection);
    Ok(Stream { answer: sender.send_request(request).await?, connection })
}

/// The one of the file, or of the environment: a command line is seen by every user of the host.
fn key(reach: &Reach) -> anyhow::Result<Option<HeaderValue>> {
    let (text, place) = match &reach.api_key_file {
        Some(file) => {
            let place = format!("--api-key-file {}", file.display());
            (fs::read_to_string(file).with_context(|| place.clone())?, place)
        }
        None => {
            let given = ["COPPICE_API_KEY", "E2B_API_KEY"].map(|name| (env::var(name), name));
            let given = given.into_iter().find_map(|(value, name)| Some((value.ok()?, name)));
            match given.filter(|(value, _)| !value.is_empty()) {
                Some((value, name)) => (value, name.to_owned()),
                None => return Ok(None),
            }
        }
    };
    let key = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let key = key.with_context(|| format!("{place}: it is empty"))?;
    let mut key =
        HeaderValue::from_str(key).with_context(|| format!("{place}: what is in it is no key"))?;
    key.set_sensitive(true);
    Ok(Some(key))
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

/// Does `work` in a small runtime of its own, as a command that only asks needs it.
pub(crate) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinHandle,
    };

    use super::*;

    fn reach(url: &str, api_key_file: Option<PathBuf>) -> Reach {
        Reach { url: url.to_owned(), api_key_file }
    }

    /// Answers one request with that, and gives what was asked.
    async fn answer(with: &'static str) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/below/", listener.local_addr().unwrap());
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
    async fn a_gateway_is_asked_with_the_key_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "# of ours\n\n e2b_00 \n").unwrap();
        let (url, asked) = answer("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n[1,2,3]").await;
        let api = Api::new(&reach(&url, Some(file.path().into()))).unwrap();
        assert_eq!(api.get::<Vec<u8>>("/events?x=1").await.unwrap(), [1, 2, 3]);
        let asked = asked.await.unwrap().to_lowercase();
        assert!(asked.starts_with("get /below/events?x=1 http/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nx-api-key: e2b_00\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_status_and_its_text() {
        let refusal = "HTTP/1.1 404 Not Found\r\ncontent-length: 32\r\n\r\n\
                       {\"code\":404,\"message\":\"no such\"} ";
        let (url, _asked) = answer(refusal).await;
        let api = Api::new(&reach(&url, None)).unwrap();
        let error = api.get::<Value>("/x").await.unwrap_err();
        assert_eq!(error.downcast_ref::<Refused>().unwrap().status.as_u16(), 404);
        assert!(format!("{error:#}").contains("no such"), "{error:#}");
        // Its listener has gone with the first answer.
        let error = format!("{:#}", api.get::<Value>("/x").await.unwrap_err());
        assert!(error.contains("no gateway at"), "{error}");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for url in ["localhost:3000", "ftp://localhost", "http://", "http://a b"] {
            assert!(Api::new(&reach(url, None)).is_err(), "{url}");
        }
        assert!(Api::new(&reach("http://h", Some("/none".into()))).is_err());
    }
}
