//! For `fuzz/`, with the feature of that name: the parsers that bytes of clients meet first, and
//! those of what kernels say.

use std::{ops::Range, path::PathBuf, sync::LazyLock};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tower::ServiceExt;

use crate::{
    auth, files, kernel, paths, server,
    state::{Envd, Settings},
    users::User,
};

static ROUTER: LazyLock<Router> = LazyLock::new(|| server::router(Envd::in_no_sandbox()));

/// A request's body in pieces.
pub fn body<E: Into<axum::BoxError> + Send + 'static>(pieces: [Result<Bytes, E>; 2]) -> Body {
    Body::from_stream(stream::iter(pieces))
}

/// What an envd outside any sandbox answers.
pub async fn ask(request: Request<Body>) -> Response<Body> {
    let answered = ROUTER.clone().oneshot(request).await;
    answered.unwrap_or_else(|never| match never {})
}

pub fn resolve(path: &str, home: &str, workdir: Option<&str>) -> Option<PathBuf> {
    let user = User { name: "u".into(), uid: 1, gid: 1, home: home.into() };
    paths::resolve(path, &user, workdir).ok()
}

/// The bytes of a file of that length that a `Range` names.
pub fn range(header: &str, length: u64) -> Option<Range<u64>> {
    files::named_part(header, length)
}

pub fn disposition(header: &[u8]) -> Option<String> {
    files::named_file(header)
}

/// Whether a signature opens a file where nobody knows the token.
pub fn opens(path: &str, username: &str, signature: &str, expiration: Option<&str>) -> bool {
    let settings = Settings { access_token: Some("secret".into()), ..Settings::default() };
    auth::check_files(
        &settings,
        &HeaderMap::new(),
        "read",
        Some(path),
        Some(username),
        Some(signature),
        expiration,
    )
    .is_ok()
}

/// What of a kernel's bytes, which come in pieces of that size, its client is told.
pub fn kernel(bytes: &[u8], size: usize) -> Option<Vec<u8>> {
    kernel::lines(bytes, size).ok()
}

/// The encoding that a header asks for.
pub fn encoding(accept: &str, plain: bool) -> Option<&'static str> {
    files::named_encoding(accept, plain)
}

/// Who a request is by, where it says.
pub fn user(headers: &HeaderMap) -> Option<String> {
    auth::user_name(headers)
}
