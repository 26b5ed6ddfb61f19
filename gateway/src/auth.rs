//! Who may use the control plane, and for what: holders of API keys.
//!
//! A key is good for the scopes it has, within its tenant. Here the keys are looked at, request by
//! request; where they come from is in [`keys`] and [`file`](mod@file), and what they are good for
//! in [`caller`].

mod caller;
mod edit;
mod file;
mod keys;
mod noted;
pub mod pages;

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use chrono::Utc;
use envd::walls::{self, Wall};

use noted::Noted;

use crate::{Gateway, error::ApiError, metrics::Denied};

pub use caller::{Caller, Scope};
pub use edit::{Made, New, NotChanged, revoke};
pub use file::{Entry, entries};
pub use keys::{Error, Keys, Refused};

const API_KEY: &str = "x-api-key";
const OPEN_SANDBOX_KEY: &str = "open-sandbox-api-key";

/// `X-API-KEY: <key>`, or `Authorization: Bearer <key>`.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let bearer = || {
        let (scheme, key) = text(header::AUTHORIZATION.as_str())?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim_start())
    };
    let key = text(API_KEY).filter(|key| !key.is_empty()).or_else(bearer)?;
    (!key.is_empty()).then_some(key)
}

/// The ids of the keys that a file has.
#[cfg(feature = "fuzzing")]
pub(crate) fn ids(text: &str) -> Option<Vec<String>> {
    file::read(text).ok()?;
    let entries = if file::has_plain_key(text) { Vec::new() } else { entries(text).ok()? };
    Some(entries.into_iter().map(|entry| entry.id.into_inner()).collect())
}

/// Whether anything in those headers may be a key.
#[cfg(feature = "fuzzing")]
pub(crate) fn presents(headers: &HeaderMap) -> bool {
    presented(headers).is_some()
}

/// Middleware: where any key will do, a web page must come in neither by a name of its own that
/// leads to this machine (DNS rebinding), since its browser would let it send what it likes, nor
/// from elsewhere.
pub async fn refuse_strangers(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let host = request.uri().authority().map(|authority| authority.as_str());
    let host = host.or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    if gateway.keys().is_open()
        && host.is_some_and(|host| !is_ours(host, gateway.domain()))
        && !walls::is_down(Wall::Hosts)
    {
        return Err(ApiError::forbidden(
            "no API keys are configured, so only requests to an IP address, localhost or the \
             configured domain are served; give --domain or an API key",
        )
        .because(Denied::Host));
    }
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !pages::may_call(&gateway, origin)
    {
        return Err(pages::foreign());
    }
    Ok(next.run(request).await)
}

fn is_ours(host: &str, domain: &str) -> bool {
    let name = without_port(host);
    address(name).is_some() || is_below(name, "localhost") || is_below(name, without_port(domain))
}

fn address(name: &str) -> Option<IpAddr> {
    name.trim_matches(['[', ']']).parse().ok()
}

/// Whether it is `parent`, or a name below it.
fn is_below(name: &str, parent: &str) -> bool {
    let rest = name.len().checked_sub(parent.len()).map(|at| name.split_at_checked(at));
    rest.flatten().is_some_and(|(front, end)| {
        end.eq_ignore_ascii_case(parent) && (front.is_empty() || front.ends_with('.'))
    })
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Middleware: lets requests through whose key is known and good for what they are about, and tells
/// handlers whose it is.
pub async fn require_key(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let scope = if looks(&request) { Scope::Read } else { Scope::Exec };
    require_scope(&gateway, scope, request, next).await
}

/// Middleware, of what concerns the gateway itself: [`require_key`] of one that is for that.
pub async fn require_admin(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    require_scope(&gateway, Scope::Admin, request, next).await
}

fn looks(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

async fn require_scope(
    gateway: &Gateway,
    scope: Scope,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = caller(gateway.keys(), request.headers())?;
    let mut noted = (!looks(&request)).then(|| Noted::new(gateway, &caller, &request));
    let may = require(&caller, scope);
    request.extensions_mut().insert(caller);
    let answer = match may {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    if let Some(noted) = &mut noted {
        noted.answered(&answer);
    }
    Ok(answer)
}

/// Middleware, of what concerns all tenants: where there are keys at all, one of scope admin is
/// asked for. A scraper on the same machine has none.
pub async fn require_admin_if_any(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    if !gateway.keys().is_open() {
        require(&caller(gateway.keys(), request.headers())?, Scope::Admin)?;
    }
    Ok(next.run(request).await)
}

/// Middleware, of what OpenSandbox's clients ask: they bring a key as `OPEN-SANDBOX-API-KEY`, which
/// is as good as any and gives way to one that comes as everywhere.
pub(crate) async fn take_open_sandbox_key(mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    if presented(headers).is_none()
        && let Some(key) = headers.get(OPEN_SANDBOX_KEY).cloned()
    {
        headers.insert(API_KEY, key);
    }
    next.run(request).await
}

/// Middleware, within [`require_key`]: what concerns the gateway itself takes a key of scope admin.
pub(crate) async fn require_admin_too(
    caller: Caller,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    require(&caller, Scope::Admin)?;
    Ok(next.run(request).await)
}

fn caller(keys: &Keys, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let Some(key) = presented(headers) else {
        let missing = "authorization header is missing";
        return Err(ApiError::unauthorized(missing).because(Denied::NoKey));
    };
    keys.admit(key, Utc::now()).map_err(|refused| {
        let why = match refused {
            Refused::Unknown => "invalid API key",
            Refused::Expired => "the API key has expired",
        };
        ApiError::unauthorized(why).because(Denied::WrongKey)
    })
}

fn require(caller: &Caller, scope: Scope) -> Result<(), ApiError> {
    if caller.may(scope) {
        return Ok(());
    }
    let why = format!("the API key is not for this: it lacks the scope '{scope}'");
    Err(ApiError::forbidden(why).because(Denied::Scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_ours() {
        for ours in
            ["127.0.0.1:3000", "[::1]:3000", "localhost", "api.LOCALHOST:1", "api.sbx.test:3000"]
        {
            assert!(is_ours(ours, "sbx.test:3000"), "{ours}");
        }
        for foreign in ["evil.example", "notlocalhost", "localhost.evil.example", "xsbx.test", ""] {
            assert!(!is_ours(foreign, "sbx.test"), "{foreign}");
        }
    }

    #[test]
    fn a_key_is_found_in_either_header() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
        };
        assert_eq!(presented(&headers("x-api-key", "k")), Some("k"));
        assert_eq!(presented(&headers("authorization", "Bearer k")), Some("k"));
        assert_eq!(presented(&headers("authorization", "bearer k")), Some("k"));
        assert_eq!(presented(&headers("authorization", "")), None);
        assert_eq!(presented(&headers("authorization", "Bearer ")), None);
        assert_eq!(presented(&HeaderMap::new()), None);
    }
}
