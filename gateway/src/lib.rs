//! The Coppice gateway: sandboxes over the E2B API on hardware the user owns.

#![deny(unsafe_code)]

pub mod auth;
pub mod backend;
pub mod config;
pub mod control;
pub mod data;
pub mod data_dir;
pub mod error;
pub mod front_door;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod ops;
pub mod sandbox;
pub mod serve;
pub mod template;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware};

use auth::Keys;
use error::ApiError;
use sandbox::{Sandbox, Sandboxes};

/// All a request handler may need; cheap to clone.
#[derive(Clone)]
pub struct Gateway(Arc<Parts>);

/// What a [`Gateway`] is made of.
pub struct Parts {
    pub sandboxes: Sandboxes,
    pub keys: Keys,
    /// Told to clients; may carry a port.
    pub domain: String,
    /// The longest timeout a client may ask for.
    pub max_timeout: Duration,
    /// Size of the file system that sandboxes write to.
    pub disk_bytes: u64,
}

impl Gateway {
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    pub fn sandboxes(&self) -> &Sandboxes {
        &self.0.sandboxes
    }

    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub fn domain(&self) -> &str {
        &self.0.domain
    }

    pub fn max_timeout(&self) -> Duration {
        self.0.max_timeout
    }

    pub fn disk_bytes(&self) -> u64 {
        self.0.disk_bytes
    }
}

/// The control plane and what operators ask, with a JSON answer for everything else.
pub fn router(gateway: Gateway) -> Router {
    control::routes(&gateway)
        .merge(ops::routes())
        .fallback(|| async { ApiError::not_found("no such route") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(middleware::from_fn(error::log_internal))
        .with_state(gateway)
}

/// What goes along with every sandbox from the moment it is visible, made or adopted.
pub fn follow(sandbox: Arc<Sandbox>) {
    tokio::spawn(data::reports::follow(sandbox));
}
