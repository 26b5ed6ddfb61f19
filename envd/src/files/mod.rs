//! `/files`: the contents of files, streamed in and out in constant memory.
//!
//! Answers are E2B's, errors included; who may ask is decided by [`crate::auth`].

mod download;
mod encoding;
mod form;
mod pieces;
mod place;
mod range;
mod reader;
mod sink;
mod upload;

use std::{path::PathBuf, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
    routing::get,
};
use serde::Deserialize;

use crate::{
    auth, paths,
    rest::RestError,
    state::Envd,
    trace::{TraceId, Traceparent},
    users::User,
};

pub(crate) use place::is_partial;
pub(crate) use reader::Readers;

pub(crate) fn routes() -> Router<Arc<Envd>> {
    Router::new().route("/files", get(read).post(write))
}

#[derive(Default, Deserialize)]
struct FilesQuery {
    path: Option<String>,
    username: Option<String>,
    signature: Option<String>,
    signature_expiration: Option<String>,
}

/// A request that may go on: who asks, and the file named in the query.
struct Asked {
    envd: Arc<Envd>,
    user: User,
    path: Option<String>,
    trace: Option<TraceId>,
}

impl Asked {
    fn new(
        envd: Arc<Envd>,
        headers: &HeaderMap,
        query: Result<Query<FilesQuery>, QueryRejection>,
        operation: &str,
    ) -> Result<Self, RestError> {
        let Query(query) = query.map_err(|error| bad_request(error.body_text()))?;
        auth::check_files(
            &envd.settings(),
            headers,
            operation,
            query.path.as_deref(),
            query.username.as_deref(),
            query.signature.as_deref(),
            query.signature_expiration.as_deref(),
        )?;
        let user = envd.user(query.username.as_deref()).map_err(|error| {
            let text = format!("error looking up user '{}': {error}", error.0);
            RestError::new(StatusCode::UNAUTHORIZED, text)
        })?;
        let trace = Traceparent::of(headers).map(|traceparent| traceparent.trace);
        Ok(Self { envd, user, path: query.path, trace })
    }

    fn resolve(&self, path: &str) -> Result<PathBuf, RestError> {
        let settings = self.envd.settings();
        paths::resolve(path, &self.user, settings.default_workdir.as_deref())
            .map_err(|error| bad_request(error.to_string()))
    }
}

/// `GET /files`
async fn read(
    State(envd): State<Arc<Envd>>,
    query: Result<Query<FilesQuery>, QueryRejection>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, RestError> {
    let asked = Asked::new(envd, &headers, query, "read")?;
    download::download(&asked, &method, &headers).await
}

/// `POST /files`
async fn write(
    State(envd): State<Arc<Envd>>,
    query: Result<Query<FilesQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<axum::Json<Vec<upload::Written>>, RestError> {
    let asked = Asked::new(envd, &headers, query, "write")?;
    Ok(axum::Json(upload::upload(&asked, &headers, body).await?))
}

#[cfg(feature = "fuzzing")]
pub(crate) fn named_part(header: &str, length: u64) -> Option<std::ops::Range<u64>> {
    match range::part(Some(header), length) {
        range::Part::Bytes(bytes) => Some(bytes),
        range::Part::Whole | range::Part::Unsatisfiable => None,
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) fn named_file(header: &[u8]) -> Option<String> {
    form::Disposition::parse(header).filename
}

#[cfg(feature = "fuzzing")]
pub(crate) fn named_encoding(accept: &str, plain: bool) -> Option<&'static str> {
    match encoding::choose(Some(accept), plain).ok()? {
        encoding::Encoding::Identity => Some("identity"),
        encoding::Encoding::Gzip => Some("gzip"),
    }
}

fn bad_request(message: impl Into<String>) -> RestError {
    RestError::new(StatusCode::BAD_REQUEST, message)
}

fn internal(message: impl Into<String>) -> RestError {
    RestError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

#[cfg(test)]
mod tests;
