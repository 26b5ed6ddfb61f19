//! The control plane: E2B's REST API, one file per resource.
//!
//! Handlers take a request apart, make one call on [`crate::sandbox::Sandboxes`] and shape the
//! answer; every refusal is a [`crate::error::ApiError`]. What later versions bring is in [`missing`].

mod connect;
mod create;
mod extract;
mod list;
mod missing;
mod page;
mod sandbox;
mod shape;
#[cfg(test)]
mod tests;
mod timeout;

use axum::{Router, extract::DefaultBodyLimit, middleware};
#[cfg(fuzzing)]
pub(crate) use {create::wanted, list::asked};

use crate::{Gateway, auth};

/// The largest request body (bytes).
pub const MAX_BODY: usize = 1 << 20;

/// All routes, behind the API keys of `gateway`.
pub fn routes(gateway: &Gateway) -> Router<Gateway> {
    let known = Router::new()
        .merge(create::routes())
        .merge(list::routes())
        .merge(sandbox::routes())
        .merge(timeout::routes())
        .merge(connect::routes())
        .merge(missing::routes());
    known
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .route_layer(middleware::from_fn_with_state(gateway.keys().clone(), auth::require_key))
        .route_layer(middleware::from_fn_with_state(gateway.clone(), auth::refuse_foreign_names))
}
