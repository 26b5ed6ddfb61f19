//! The control plane: E2B's REST API, one file per resource.
//!
//! Handlers take a request apart, make one call on [`crate::sandbox::Sandboxes`] and shape the
//! answer; every refusal is a [`crate::error::ApiError`]. What later versions bring is in [`missing`].

mod batches;
mod connect;
mod create;
mod events;
mod evonic;
mod extract;
mod figures;
mod list;
mod logs;
mod missing;
mod name;
mod network;
mod opensandbox;
mod page;
mod pause;
mod pools;
mod sandbox;
mod shape;
mod snapshots;
mod templates;
#[cfg(test)]
mod tests;
mod timeout;
mod unasked;
mod webhooks;

use std::time::Duration;

use axum::{extract::DefaultBodyLimit, middleware};
pub(crate) use extract::Parameters;
use utoipa::openapi::{OpenApi, RefOr, schema::Schema, security::SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;
#[cfg(feature = "fuzzing")]
pub(crate) use {create::wanted, list::asked, logs::asked as asked_of_log, network::policy};

pub(crate) use extract::ApiJson;

use crate::{Gateway, auth, error::guarded, ops::document};

/// The largest request body (bytes).
pub const MAX_BODY: usize = 1 << 20;

/// All routes, behind the API keys of `gateway`.
pub fn routes(gateway: &Gateway) -> OpenApiRouter<Gateway> {
    let mut known = OpenApiRouter::new()
        .merge(create::routes())
        .merge(list::routes())
        .merge(sandbox::routes())
        .merge(figures::routes())
        .merge(logs::routes())
        .merge(timeout::routes())
        .merge(connect::routes())
        .merge(pause::routes())
        .merge(network::routes())
        .merge(snapshots::routes())
        .merge(templates::routes())
        .merge(events::routes())
        .merge(evonic::routes())
        .merge(pools::routes())
        .merge(batches::routes())
        .merge(webhooks::routes())
        .merge(missing::routes());
    document_longest_timeout(known.get_openapi_mut(), gateway.max_timeout());
    document_keys(known.get_openapi_mut());
    let mut open_sandbox = opensandbox::routes();
    document_keys(open_sandbox.get_openapi_mut());
    document_key(open_sandbox.get_openapi_mut(), document::OPEN_SANDBOX_KEY);
    let open_sandbox = behind_keys(open_sandbox, gateway);
    let by_other_name = middleware::from_fn(auth::take_open_sandbox_key);
    behind_keys(known, gateway).merge(open_sandbox.route_layer(by_other_name))
}

fn behind_keys(known: OpenApiRouter<Gateway>, gateway: &Gateway) -> OpenApiRouter<Gateway> {
    known
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .route_layer(middleware::from_fn_with_state(gateway.clone(), auth::require_key))
        .route_layer(middleware::from_fn_with_state(gateway.clone(), auth::refuse_strangers))
}

/// What the layers around routes behind the keys ask and answer.
pub(crate) fn document_keys(document: &mut OpenApi) {
    for (_, operation) in document.paths.paths.values_mut().flat_map(document::operations) {
        let either = [document::API_KEY, document::BEARER];
        let either = either.map(|key| SecurityRequirement::new::<_, [_; 0], String>(key, []));
        operation.security = Some(either.to_vec());
        operation.responses.responses.extend(guarded());
    }
}

/// One more way to show a key.
fn document_key(document: &mut OpenApi, key: &str) {
    for (_, operation) in document.paths.paths.values_mut().flat_map(document::operations) {
        let way = SecurityRequirement::new::<_, [_; 0], String>(key, []);
        operation.security.get_or_insert_default().push(way);
    }
}

/// Where the handlers could not say how long a timeout may be, since it is configured.
fn document_longest_timeout(document: &mut OpenApi, max: Option<Duration>) {
    let max = max.unwrap_or(timeout::LONGEST);
    let schemas = document.components.iter_mut().flat_map(|known| known.schemas.values_mut());
    for schema in schemas {
        if let RefOr::T(Schema::Object(body)) = schema
            && let Some(RefOr::T(Schema::Object(timeout))) = body.properties.get_mut("timeout")
            && timeout.maximum.is_none()
        {
            timeout.maximum = Some(max.as_secs().into());
        }
    }
}
