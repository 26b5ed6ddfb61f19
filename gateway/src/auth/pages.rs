//! Which web pages may call, and how their browsers are told (CORS).
//!
//! With keys configured any page may: a key is what counts, and no browser adds one by itself.
//! Without keys only pages of this machine and of the configured domain may, but for those that
//! sandboxes serve there: their code is as strange as any. envd answers for itself, servers in
//! sandboxes too.

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{address, is_below, without_port};
use crate::{Gateway, data::Address, error::ApiError, metrics::Denied};

/// The gateway's own and envd's.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const ANY: HeaderValue = HeaderValue::from_static("*");
/// Seconds a browser may remember a preflight; none remembers longer.
const REMEMBERED: HeaderValue = HeaderValue::from_static("7200");

/// Middleware, around everything that the gateway itself answers: answers preflights, which never
/// carry a key, and lets pages that may call read what they are answered. A preflight does not say
/// which sandbox the routing headers will name, so those for envd come here too.
pub async fn serve(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else {
        return next.run(request).await;
    };
    let may_call = may_call(&gateway, &origin);
    let mut response = match preflight(request.method(), request.headers()) {
        Some(_) if !may_call => foreign().into_response(),
        Some(answer) => answer,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    if gateway.keys().is_open() {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if may_call {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        } else {
            headers.remove(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        }
    } else {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    }
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANY);
    response
}

/// The answer to a request by which a browser asks whether another may be sent; `None` for others.
pub fn preflight(method: &Method, headers: &HeaderMap) -> Option<Response<Body>> {
    if method != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut answer = StatusCode::NO_CONTENT.into_response();
    let allowed = answer.headers_mut();
    allowed.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    allowed.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    // Named one by one: `*` does not cover Authorization.
    let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    allowed.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.unwrap_or(ANY));
    allowed.insert(header::ACCESS_CONTROL_MAX_AGE, REMEMBERED);
    Some(answer)
}

/// Whether pages of that origin may call the control plane.
pub(super) fn may_call(gateway: &Gateway, origin: &HeaderValue) -> bool {
    !gateway.keys().is_open()
        || origin.to_str().is_ok_and(|origin| is_ours(origin, gateway.domain()))
}

pub(super) fn foreign() -> ApiError {
    ApiError::forbidden(
        "no API keys are configured, so only web pages of this machine and of the configured \
         domain may call; give an API key",
    )
    .because(Denied::Origin)
}

fn is_ours(origin: &str, domain: &str) -> bool {
    let Some(("http" | "https", host)) = origin.split_once("://") else { return false };
    let name = without_port(host);
    if let Some(address) = address(name) {
        return address.is_loopback();
    }
    let a_sandboxes = !matches!(Address::from_host(name, None), Ok(None));
    !a_sandboxes && (is_below(name, "localhost") || is_below(name, without_port(domain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_machine_and_of_the_domain_are_ours() {
        for ours in [
            "http://localhost:5173",
            "https://LOCALHOST",
            "http://127.0.0.1:8080",
            "http://[::1]:3000",
            "http://app.localhost",
            "https://sbx.test",
            "https://console.sbx.test:8443",
        ] {
            assert!(is_ours(ours, "sbx.test:3000"), "{ours}");
        }
        for foreign in [
            "null",
            "",
            "http://evil.example",
            "https://sbx.test.evil.example",
            "https://xsbx.test",
            "http://localhost.evil.example",
            "http://192.0.2.1",
            "file://localhost",
            "http://8080-i0123456789abcdefghij.localhost:3000",
            "https://8080-i0123456789abcdefghij.sbx.test",
            "https://8080-I0123456789abcdefghij-6532622b.sbx.test",
            "https://99999-i0123456789abcdefghij.sbx.test",
        ] {
            assert!(!is_ours(foreign, "sbx.test"), "{foreign}");
        }
    }
}
