//! What OpenSandbox's clients ask: its lifecycle and diagnostics API as far as E2B's has nothing of
//! the kind, and what its daemon in a sandbox tells. Their key may come as `OPEN-SANDBOX-API-KEY`.
//!
//! Failures have E2B's body, as everywhere.

mod diagnostics;
mod endpoints;
mod expiration;
mod metadata;
mod metrics;
mod ping;
mod status;
mod watch;

use axum::Extension;
use utoipa_axum::router::OpenApiRouter;

use crate::Gateway;

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new()
        .merge(status::routes())
        .merge(metadata::routes())
        .merge(expiration::routes())
        .merge(endpoints::routes())
        .merge(diagnostics::routes())
        .merge(ping::routes())
        .merge(metrics::routes())
        .merge(watch::routes())
        .layer(Extension(watch::Watches::default()))
}
