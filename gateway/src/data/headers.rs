//! Headers that belong to one hop, and what the gateway adds and takes on the way.
//!
//! Towards user ports an `X-Access-Token` that is the sandbox's own and an API key of the gateway's
//! form, in `X-API-KEY` or in `Authorization` after `Bearer`, are taken out, and the token that the
//! sandbox asks for on its ports: they open envd, the control plane and those ports, and a server in
//! a sandbox need not see them. Headers of those names with other values are a user's own and pass,
//! as do the routing headers, which say nothing its server does not know.

use envd::{
    walls::{self, Wall},
    wire::CODE_HEADER,
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
    },
};
use http_body::Body;
use subtle::ConstantTimeEq;

use super::{address, server::Server, traffic};
use crate::{error::DataPlaneError, sandbox::Sandbox, serve::Line};

const API_KEY: &str = "x-api-key";
const BEARER: &[u8] = b"bearer ";
const ACCESS_TOKEN: &str = "x-access-token";
const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
const FORWARDED_HOST: &str = "x-forwarded-host";

/// Turns a client's request into the one the sandbox gets; returns the protocol the client would
/// like to upgrade to.
pub(super) fn prepare_request<B: Body>(
    request: &mut Request<B>,
    line: &Line,
    sandbox: &Sandbox,
    server: Server,
    port: u16,
) -> Result<Option<HeaderValue>, DataPlaneError> {
    let host = address::host(request.uri(), request.headers())?.map(str::to_owned);
    let chunked = needs_chunks(request)?;
    let trailers = has_token(request.headers(), &TE, "trailers");
    let upgrade = (request.version() == Version::HTTP_11 && server == Server::User)
        .then(|| requested_upgrade(request.headers()))
        .flatten();

    *request.uri_mut() = origin_form(request.uri());
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    headers.remove(&PROXY_AUTHORIZATION);
    // The gateway answers the expectation itself, when the sandbox begins to take the body.
    headers.remove(&EXPECT);
    if chunked {
        headers.remove(&CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = &upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    join_cookies(headers);
    let host = host.as_deref().unwrap_or_default();
    headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| DataPlaneError::Host)?);
    drop_credentials(headers, sandbox, server);
    match server {
        Server::User => {
            add_forwarded(headers, line, host);
            if let Some(masked) = sandbox.facts().ingress.host(port) {
                headers.insert(HOST, masked);
            }
        }
        Server::Interpreter => {
            headers.insert(CODE_HEADER, HeaderValue::from_static("1"));
        }
        Server::Envd if walls::is_down(Wall::InnerHeaders) => {}
        Server::Envd => {
            headers.remove(CODE_HEADER);
        }
    }
    Ok(upgrade)
}

/// Turns a sandbox's response into the one the client gets; `false` for one that cannot be passed
/// on.
pub(super) fn prepare_response<B>(response: &mut Response<B>) -> bool {
    *response.version_mut() = Version::HTTP_11;
    let headers = response.headers_mut();
    if headers.contains_key(&TRANSFER_ENCODING) {
        if !only_chunked(headers) {
            return false;
        }
        // The length is overruled by the chunks: RFC 9112 section 6.3.
        headers.remove(&CONTENT_LENGTH);
    }
    strip_hop_by_hop(headers);
    headers.remove(&PROXY_AUTHENTICATE);
    true
}

/// The value of `Upgrade` where `Connection` asks for it.
pub(super) fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    has_token(headers, &CONNECTION, "upgrade").then(|| protocol.clone())
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| token.parse().ok())
        // A client must not make the gateway drop what it needs itself.
        .filter(|name| !matches!(*name, HOST | CONTENT_LENGTH | TRANSFER_ENCODING))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    headers.remove("http2-settings");
    headers.remove(TE);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
}

/// Whether the body needs chunks on an HTTP/1.1 connection. `GET` with a body does too, which hyper
/// would not think of by itself.
fn needs_chunks<B: Body>(request: &Request<B>) -> Result<bool, DataPlaneError> {
    let headers = request.headers();
    if headers.contains_key(TRANSFER_ENCODING) {
        return if only_chunked(headers) {
            Ok(true)
        } else {
            Err(DataPlaneError::TransferEncoding)
        };
    }
    Ok(!headers.contains_key(CONTENT_LENGTH) && !request.body().is_end_stream())
}

/// Whether nobody can say for certain where such a request ends: whoever was before the gateway may
/// have thought otherwise.
pub fn is_ambiguous(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) && !only_chunked(headers)
}

fn only_chunked(headers: &HeaderMap) -> bool {
    if walls::is_down(Wall::Framing) {
        return true;
    }
    let mut codings = tokens(headers, &TRANSFER_ENCODING);
    codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        && codings.next().is_none()
}

fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    path.map(Uri::from).unwrap_or_else(|| Uri::from_static("/"))
}

/// HTTP/2 clients may send each cookie in a header of its own; HTTP/1.1 servers know one.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

fn drop_credentials(headers: &mut HeaderMap, sandbox: &Sandbox, server: Server) {
    if walls::is_down(Wall::Credentials) {
        return;
    }
    let is_key = |value: &HeaderValue| could_be_key(value.as_bytes());
    if headers.get_all(API_KEY).iter().any(is_key) {
        headers.remove(API_KEY);
    }
    if headers.get_all(AUTHORIZATION).iter().any(bears_key) {
        headers.remove(AUTHORIZATION);
    }
    let is_token =
        |value: &HeaderValue| bool::from(value.as_bytes().ct_eq(sandbox.envd_token().as_bytes()));
    if server != Server::Envd && headers.get_all(ACCESS_TOKEN).iter().any(is_token) {
        headers.remove(ACCESS_TOKEN);
    }
    // It was the right one, or the request would not be here.
    if sandbox.facts().traffic_token.is_some() {
        headers.remove(traffic::TOKEN);
    }
}

/// What the control plane would take for one, whoever it belongs to.
fn could_be_key(value: &[u8]) -> bool {
    value.trim_ascii().starts_with(b"e2b_")
}

fn bears_key(value: &HeaderValue) -> bool {
    let value = value.as_bytes().trim_ascii();
    value
        .split_at_checked(BEARER.len())
        .is_some_and(|(scheme, key)| scheme.eq_ignore_ascii_case(BEARER) && could_be_key(key))
}

/// What a proxy in front of the gateway has said of protocol and host is kept: it ended the TLS.
fn add_forwarded(headers: &mut HeaderMap, line: &Line, host: &str) {
    let mut hops: Vec<u8> = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        hops.extend_from_slice(value.as_bytes());
        hops.extend_from_slice(b", ");
    }
    hops.extend_from_slice(line.peer().ip().to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&hops) {
        headers.insert(FORWARDED_FOR, value);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(line.scheme()));
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Ok(value) = HeaderValue::from_str(host)
    {
        headers.insert(FORWARDED_HOST, value);
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}
