//! What operators and their tools ask. Probes need no key; figures name sandboxes, and need one
//! where there are any, but on the listener that has nothing else.

pub(crate) mod document;
mod health;
mod log_level;
mod overview;

use std::{io::Write, time::Instant};

use axum::{
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use flate2::{Compression, write::GzEncoder};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    Gateway, auth,
    control::{MAX_BODY, document_keys},
    error,
    logging::request::answered,
    metrics::{self as figures, Format},
};

pub(crate) fn routes(gateway: &Gateway) -> OpenApiRouter<Gateway> {
    let mut guarded = figures_alone();
    document_keys(guarded.get_openapi_mut());
    let guarded = guarded
        .route_layer(middleware::from_fn_with_state(gateway.clone(), auth::require_admin_if_any))
        .route_layer(middleware::from_fn_with_state(gateway.clone(), auth::refuse_strangers));
    OpenApiRouter::new()
        .merge(health::routes())
        .routes(routes!(document::show))
        .merge(guarded)
        .merge(admin(gateway))
}

/// What takes a key of scope admin, also where there are none but that of whoever comes.
fn admin(gateway: &Gateway) -> OpenApiRouter<Gateway> {
    let mut guarded = log_level::routes().merge(overview::routes());
    document_keys(guarded.get_openapi_mut());
    guarded
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .route_layer(middleware::from_fn_with_state(gateway.clone(), auth::require_admin))
        .route_layer(middleware::from_fn_with_state(gateway.clone(), auth::refuse_strangers))
}

/// `/metrics`, for whoever asks.
pub(crate) fn figures_alone() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Figures for Prometheus; docs/metrics.md has what each means. A key is asked for where there are
/// any.
#[utoipa::path(get, path = "/metrics", tag = "gateway", responses(
    (status = 200, description = "in the text format 0.0.4, or in OpenMetrics 1.0 where `Accept` names it",
        content((String = "text/plain"), (String = "application/openmetrics-text"))),
))]
async fn metrics(State(gateway): State<Gateway>, headers: HeaderMap) -> Response {
    let of = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let format = Format::wanted(of(header::ACCEPT).unwrap_or_default());
    let kind = HeaderValue::from_static(format.content_type());
    let text = figures::tell(gateway.sandboxes(), format);
    if !of(header::ACCEPT_ENCODING).is_some_and(takes_gzip) {
        return ([(header::CONTENT_TYPE, kind)], text).into_response();
    }
    let gzip = HeaderValue::from_static("gzip");
    ([(header::CONTENT_TYPE, kind), (header::CONTENT_ENCODING, gzip)], zipped(&text))
        .into_response()
}

/// Middleware: takes note of how long what was asked took, by its route, and of what was refused.
pub(crate) async fn observe(
    State(gateway): State<Gateway>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let (began, method) = (Instant::now(), request.method().clone());
    let answer = next.run(request).await;
    let route = route.as_ref().map_or(figures::NONE, MatchedPath::as_str);
    let (status, took) = (answer.status().as_u16(), began.elapsed());
    let metrics = gateway.sandboxes().metrics();
    metrics.request_answered(route, method.as_str(), status, took);
    answered(route, &method, status, took);
    if let Some(reason) = error::denial(&answer) {
        metrics.denied(reason);
    }
    answer
}

/// By `Accept-Encoding`; a weight other than none at all is as good as any.
fn takes_gzip(accepted: &str) -> bool {
    accepted.split(',').any(|one| {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let none = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32));
        coding.trim().eq_ignore_ascii_case("gzip") && !none
    })
}

fn zipped(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let written = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    written.expect("memory takes all that is written to it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for accepted in ["gzip", "deflate, GZip;q=0.5", "br;q=1.0, gzip; q=0.1"] {
            assert!(takes_gzip(accepted), "{accepted}");
        }
        for refused in ["", "identity", "gzip;q=0", "gzip; q=0.0", "x-gzip", "*"] {
            assert!(!takes_gzip(refused), "{refused}");
        }
    }
}
