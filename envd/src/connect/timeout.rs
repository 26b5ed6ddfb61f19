//! `connect-timeout-ms` and `keepalive-ping-interval`, as E2B means them.
//!
//! To Connect, the timeout bounds a call's answer. Here, on a stream, it is how long the stream
//! (and with Start the process) may live, so it is taken away before the library sees it and left
//! to the service. 0 means none.

use std::time::Duration;

use axum::{
    extract::Request,
    http::{Extensions, HeaderMap, header},
    middleware::Next,
    response::Response,
};
use connectrpc::RequestContext;

const TIMEOUT: &str = "connect-timeout-ms";
const KEEPALIVE: &str = "keepalive-ping-interval";

/// Between keepalive events, where the client does not say.
const DEFAULT_KEEPALIVE: Duration = Duration::from_secs(90);

#[derive(Clone, Copy)]
struct StreamTimeout(Duration);

/// Middleware in front of the services.
pub(crate) async fn take_stream_timeout(mut request: Request, next: Next) -> Response {
    let timeout = timeout(request.headers());
    let streams = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/connect+"));
    if streams || timeout.is_none() {
        request.headers_mut().remove(TIMEOUT);
    }
    if let Some(timeout) = timeout.filter(|_| streams) {
        request.extensions_mut().insert(StreamTimeout(timeout));
    }
    next.run(request).await
}

/// How long this stream may live; `None`: as long as it likes.
pub(crate) fn stream_timeout(context: &RequestContext) -> Option<Duration> {
    of_stream(context.extensions())
}

pub(crate) fn keepalive_interval(context: &RequestContext) -> Duration {
    keepalive(context.headers())
}

fn of_stream(extensions: &Extensions) -> Option<Duration> {
    extensions.get().map(|StreamTimeout(timeout)| *timeout)
}

fn timeout(headers: &HeaderMap) -> Option<Duration> {
    number(headers, TIMEOUT).map(Duration::from_millis)
}

fn keepalive(headers: &HeaderMap) -> Duration {
    number(headers, KEEPALIVE).map_or(DEFAULT_KEEPALIVE, Duration::from_secs)
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_nonsense_are_no_timeout_and_the_default_keepalive() {
        for text in ["0", "", "soon", "-1"] {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, text.parse().unwrap());
            headers.insert(KEEPALIVE, text.parse().unwrap());
            assert_eq!(timeout(&headers), None, "{text:?}");
            assert_eq!(keepalive(&headers), DEFAULT_KEEPALIVE, "{text:?}");
        }
    }
}
