//! What E2B has and this version has not: 501, with its name.

use axum::{
    Router,
    routing::{any, get, post, put},
};

use crate::{Gateway, error::ApiError};

pub(super) fn routes() -> Router<Gateway> {
    let of_a_sandbox = [
        ("/sandboxes/{id}/pause", post(not_implemented("pause"))),
        ("/sandboxes/{id}/resume", post(not_implemented("resume"))),
        ("/sandboxes/{id}/fork", post(not_implemented("fork"))),
        ("/sandboxes/{id}/snapshots", post(not_implemented("snapshots"))),
        ("/sandboxes/{id}/network", put(not_implemented("changing the network"))),
        ("/sandboxes/{id}/metrics", get(not_implemented("metrics"))),
        ("/sandboxes/{id}/logs", get(not_implemented("logs"))),
        ("/v2/sandboxes/{id}/logs", get(not_implemented("logs"))),
        ("/sandboxes/metrics", get(not_implemented("metrics"))),
    ];
    let whole = [
        ("/snapshots", "snapshots"),
        ("/templates", "templates"),
        ("/v2/templates", "templates"),
        ("/v3/templates", "templates"),
        ("/default-templates", "templates"),
        ("/volumes", "volumes"),
        ("/volumecontent", "volumes"),
        ("/secrets", "secrets"),
        ("/teams", "teams"),
        ("/api-keys", "API keys"),
        ("/access-tokens", "access tokens"),
    ];
    let router = of_a_sandbox
        .into_iter()
        .fold(Router::new(), |router, (path, method)| router.route(path, method));
    whole.into_iter().fold(router, |router, (path, what)| {
        router
            .route(path, any(not_implemented(what)))
            .route(&format!("{path}/{{*rest}}"), any(not_implemented(what)))
    })
}

/// Handles any request alike, whatever its body.
fn not_implemented(
    what: &'static str,
) -> impl Fn() -> std::future::Ready<ApiError> + Clone + Send + Sync + 'static {
    move || std::future::ready(ApiError::not_implemented(what))
}
