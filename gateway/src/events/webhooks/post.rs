//! One delivery: a POST on a connection of its own, to an address that was looked at, bounded in
//! time and in what is read of the answer. A redirect is an answer like another, and not followed.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::Utc;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{
    deliveries::{Answer, Attempt, LONGEST},
    hook::Said,
    intake::Waiting,
    reach::{Reach, bare},
    sign::signature,
};
use crate::events::{
    export::http::client_config,
    otlp::{retry_after, short},
};
use crate::{sandbox::Tenant, shares::Shares};

/// Deliveries under way at once, of all webhooks and of one tenant's: one whose receivers are slow is
/// to keep no other waiting.
const AT_ONCE: usize = 128;
const AT_ONCE_OF_ONE: usize = 16;
/// For one delivery, from looking the name up to the end of the answer's head.
const PATIENCE: Duration = Duration::from_secs(10);
/// For what is kept of the answer's body.
const BODY: Duration = Duration::from_secs(2);
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("coppice-webhooks/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const V1: HeaderValue = HeaderValue::from_static("v1");

/// Sends for all webhooks, so many at once.
pub(super) struct Poster {
    reach: Reach,
    own_turns: Shares<Tenant>,
    turns: Semaphore,
    tls: TlsConnector,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) attempt: Attempt,
    /// Not before so long.
    pub(super) after: Option<Duration>,
}

/// Why there was no answer; E2B's word for it, and ours.
type Failed = (&'static str, String);

fn transport(error: impl std::fmt::Display) -> Failed {
    ("transport_error", short(&error.to_string()))
}

impl Poster {
    pub(super) fn new(reach: Reach) -> Result<Self, String> {
        let tls = TlsConnector::from(Arc::new(client_config(None)?));
        let own_turns = Shares::new(AT_ONCE_OF_ONE);
        Ok(Self { reach, own_turns, turns: Semaphore::new(AT_ONCE), tls })
    }

    pub(super) async fn send(
        &self,
        (hook, tenant): (Uuid, &Tenant),
        said: &Said,
        what: &Waiting,
        body: Bytes,
    ) -> Outcome {
        // Never closed.
        let _turn = (self.own_turns.take(tenant.clone()).await, self.turns.acquire().await);
        let id = Uuid::new_v4();
        let (at, began) = (Utc::now(), Instant::now());
        let headers = headers(hook, id, &signature(&said.signature_secret, &body));
        let sent = timeout(PATIENCE, self.exchange(&said.url, headers.clone(), body.clone())).await;
        let late = || ("timeout", format!("no answer within {} s", PATIENCE.as_secs()));
        let sent = sent.unwrap_or_else(|_| Err(late()));
        let took = began.elapsed();
        let (answer, after, error) = match sent {
            Err(failed) => (None, None, Some(failed)),
            Ok((status, headers, body)) => {
                let (after, code) = (retry_after(&headers), status.as_u16());
                let error = (!status.is_success())
                    .then(|| ("http_error", format!("it answers HTTP {code}")));
                let headers = told(&headers);
                (Some(Answer { status: code, headers, body }), after, error)
            }
        };
        let attempt = Attempt {
            id,
            event: what.id.clone(),
            sandbox: what.sandbox.clone(),
            kind: what.kind.clone(),
            at,
            took,
            url: said.url.clone(),
            body: kept(&body).into(),
            headers: told(&headers),
            answer,
            error,
        };
        Outcome { attempt, after }
    }

    async fn exchange(
        &self,
        url: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<(http::StatusCode, HeaderMap, String), Failed> {
        // Once more: what may be reached may be less than it was when the webhook was made.
        let uri = self.reach.check(url).map_err(|why| ("request_error", why.to_owned()))?;
        let missing = || ("request_error", "there is no host in the URL".to_owned());
        let authority = uri.authority().ok_or_else(missing)?;
        let host = bare(authority.host());
        let secure = uri.scheme_str() == Some("https");
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = self.connect(host, port).await?;
        let name = HeaderValue::from_str(authority.as_str()).map_err(transport)?;
        headers.insert(header::HOST, name);
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let target: Uri = target.parse().map_err(transport)?;
        let mut request = Request::post(target).body(Full::new(body)).map_err(transport)?;
        *request.headers_mut() = headers;
        if !secure {
            return speak(tcp, request).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(transport)?;
        speak(self.tls.connect(name, tcp).await.map_err(transport)?, request).await
    }

    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Failed> {
        let found = lookup_host((host, port)).await;
        let found = found.map_err(|error| ("dns_error", short(&error.to_string())))?;
        let within = self.reach.within(found);
        if within.is_empty() {
            let why = format!("{host} leads to no address that may be asked for a tenant");
            return Err(("dns_error", why));
        }
        // Those that were looked at, and no other.
        let stream = TcpStream::connect(&within[..]).await.map_err(transport)?;
        self.refuse_own(&stream)?;
        stream.set_nodelay(true).map_err(transport)?;
        Ok(stream)
    }

    /// Whoever talks to an address of their own mostly has it as their own too. Where it could not be
    /// told before, nothing has been sent yet.
    fn refuse_own(&self, stream: &TcpStream) -> Result<(), Failed> {
        let own = stream.local_addr().map_err(transport)?.ip().to_canonical();
        let peer = stream.peer_addr().map_err(transport)?.ip().to_canonical();
        if own == peer && !self.reach.names(peer) {
            let why = "it leads to the gateway's own host, which is not asked for a tenant";
            return Err(("dns_error", why.to_owned()));
        }
        Ok(())
    }
}

async fn speak<S>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<(http::StatusCode, HeaderMap, String), Failed>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(transport)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let (parts, mut body) = sender.send_request(request).await.map_err(transport)?.into_parts();
    let mut text = Vec::new();
    // As much as is kept; what it says beyond that, or how it ends, is of no matter.
    let reading = async {
        while text.len() < LONGEST
            && let Some(Ok(frame)) = body.frame().await
        {
            text.extend(frame.into_data().unwrap_or_default());
        }
    };
    let _ = timeout(BODY, reading).await;
    Ok((parts.status, parts.headers, kept(&text)))
}

fn headers(hook: Uuid, delivery: Uuid, signature: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::USER_AGENT, AGENT);
    let pairs = [
        ("e2b-webhook-id", hook.to_string()),
        ("e2b-delivery-id", delivery.to_string()),
        ("e2b-signature", signature.to_owned()),
    ];
    for (name, value) in pairs {
        if let Ok(mut value) = HeaderValue::try_from(value) {
            value.set_sensitive(name == "e2b-signature");
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers.insert("e2b-signature-version", V1);
    headers
}

/// As JSON, within bounds, and without what is secret.
fn told(headers: &HeaderMap) -> String {
    let mut room = LONGEST;
    let pairs = headers.iter().map_while(|(name, value)| {
        let text = match value.is_sensitive() || *name == header::SET_COOKIE {
            true => "[REDACTED]".into(),
            false => String::from_utf8_lossy(value.as_bytes()),
        };
        room = room.checked_sub(name.as_str().len() + text.len())?;
        Some((name.as_str(), text.into_owned()))
    });
    let pairs: BTreeMap<&str, String> = pairs.collect();
    serde_json::to_string(&pairs).unwrap_or_default()
}

fn kept(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(LONGEST)]);
    text.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_to_the_host_itself_is_not_spoken_on_unless_it_is_allowed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let closed = Poster::new(Reach::default()).unwrap();
        assert_eq!(closed.refuse_own(&stream).unwrap_err().0, "dns_error");
        let allowed = vec!["127.0.0.0/8".parse().unwrap()];
        Poster::new(Reach { allowed }).unwrap().refuse_own(&stream).unwrap();
    }
}
