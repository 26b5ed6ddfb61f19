//! The Coppice gateway: sandboxes over the E2B API on hardware the user owns.

#![deny(unsafe_code)]

pub mod agents;
pub mod audit;
pub mod auth;
pub mod backend;
pub mod config;
pub mod control;
pub mod data;
pub mod data_dir;
pub mod error;
pub mod events;
pub mod front_door;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod network;
pub mod ops;
pub mod sandbox;
pub mod serve;
mod shares;
mod stamp;
pub mod template;
pub mod tls;

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router, middleware};
use utoipa_axum::router::OpenApiRouter;

use agents::Agents;
use audit::Audit;
use auth::Keys;
use envd::unread;
use error::ApiError;
use events::{store::History, webhooks::Webhooks};
use limits::Limits;
use logging::Log;
use sandbox::Sandboxes;
use template::{Available, ListTemplates};

/// All a request handler may need; cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Parts>);

/// What a [`Gateway`] is made of.
pub struct Parts {
    pub sandboxes: Sandboxes,
    pub templates: ListTemplates,
    pub keys: Keys,
    pub audit: Audit,
    pub history: History,
    pub agents: Agents,
    pub webhooks: Webhooks,
    /// Told to clients; may carry a port.
    pub domain: String,
    /// The longest timeout a client may ask for, if there is one.
    pub max_timeout: Option<Duration>,
    /// Size of the file system that sandboxes write to.
    pub disk_bytes: u64,
    pub log: Log,
}

impl Gateway {
    pub fn new(parts: Parts) -> Self {
        parts.sandboxes.metrics().logged_by(&parts.log);
        Self(Arc::new(parts))
    }

    pub fn sandboxes(&self) -> &Sandboxes {
        &self.0.sandboxes
    }

    pub fn templates(&self) -> Vec<Available> {
        (self.0.templates)()
    }

    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// What happened.
    pub fn history(&self) -> &History {
        &self.0.history
    }

    pub fn agents(&self) -> &Agents {
        &self.0.agents
    }

    pub fn log(&self) -> &Log {
        &self.0.log
    }

    pub(crate) fn webhooks(&self) -> &Webhooks {
        &self.0.webhooks
    }

    pub fn domain(&self) -> &str {
        &self.0.domain
    }

    pub fn max_timeout(&self) -> Option<Duration> {
        self.0.max_timeout
    }

    /// What a sandbox of such limits may write, as far as anything bounds it.
    pub fn disk_bytes(&self, limits: &Limits) -> u64 {
        limits.disk_bytes.unwrap_or(self.0.disk_bytes)
    }
}

/// `/metrics` and nothing else, for whoever asks.
pub fn metrics_router(gateway: Gateway) -> Router {
    let (routes, _) = ops::figures_alone().split_for_parts();
    routes
        .fallback(|| async { ApiError::not_found("here is only /metrics") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(middleware::from_fn(unread::read_rest))
        .with_state(gateway)
}

/// The control plane and what operators ask, with a JSON answer for everything else.
pub fn router(gateway: Gateway) -> Router {
    let (routes, document) = OpenApiRouter::with_openapi(ops::document::without_routes())
        .merge(control::routes(&gateway))
        .merge(ops::routes(&gateway))
        .split_for_parts();
    routes
        .fallback(|| async { ApiError::not_found("no such route") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(Extension(ops::document::Document::new(document)))
        .layer(middleware::from_fn(error::log_internal))
        .layer(middleware::from_fn_with_state(gateway.clone(), auth::pages::serve))
        .layer(middleware::from_fn(unread::read_rest))
        .layer(middleware::from_fn_with_state(gateway.clone(), ops::observe))
        .with_state(gateway)
}
