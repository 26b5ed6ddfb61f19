//! Who may call.

use axum::http::HeaderMap;

use crate::{rest::RestError, state::Settings};

pub(crate) fn check_files(
    _settings: &Settings,
    _headers: &HeaderMap,
    _operation: &str,
    _path: Option<&str>,
    _username: Option<&str>,
    _signature: Option<&str>,
    _signature_expiration: Option<&str>,
) -> Result<(), RestError> {
    Ok(())
}
