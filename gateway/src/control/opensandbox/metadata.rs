//! `PATCH /v1/sandboxes/{id}/metadata`: JSON Merge Patch (RFC 7396).

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    super::extract::{ApiJson, SandboxPath},
    status::Sandbox,
};
use crate::{
    Gateway,
    error::{ApiError, BeingKilled, InvalidBody, NoSandbox},
};

/// Of Kubernetes' labels (characters): a name, what may stand before it with a slash, a value.
const LONGEST_NAME: usize = 63;
const LONGEST_PREFIX: usize = 253;
/// What begins so is OpenSandbox's own.
const RESERVED: &str = "opensandbox.io/";
/// What begins so is heeded when a sandbox is made, and not later.
const OURS: &str = "coppice.";

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(patch))
}

/// Values by keys, both as Kubernetes has them in labels; `null` takes a key away, whatever it is
/// like.
#[derive(Deserialize, ToSchema)]
struct PatchSandboxMetadata(BTreeMap<String, Option<String>>);

/// Changes what is said of a sandbox, and leaves what is not named. It can be paused meanwhile.
#[utoipa::path(patch, path = "/v1/sandboxes/{id}/metadata", tag = "opensandbox",
    params(SandboxPath), request_body = PatchSandboxMetadata, responses(
        (status = 200, description = "as it is then", body = Sandbox),
        InvalidBody, NoSandbox, BeingKilled,
    ))]
async fn patch(
    State(gateway): State<Gateway>,
    SandboxPath(id): SandboxPath,
    ApiJson(PatchSandboxMetadata(patch)): ApiJson<PatchSandboxMetadata>,
) -> Result<Json<Sandbox>, ApiError> {
    for (key, value) in &patch {
        allowed(key, value.as_deref())?;
    }
    gateway.sandboxes().change_metadata(id, patch).await?;
    Ok(Json(Sandbox::of(gateway.sandboxes().see(id)?)))
}

fn allowed(key: &str, value: Option<&str>) -> Result<(), ApiError> {
    let refused = |why: &str| Err(ApiError::bad_request(format!("metadata key {key:?} {why}")));
    if key.starts_with(RESERVED) {
        return refused("is reserved");
    }
    if key.starts_with(OURS) {
        return refused("counts when a sandbox is made, and cannot be changed later");
    }
    let Some(value) = value else { return Ok(()) };
    let (prefix, name) =
        key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_name(name) || !prefix.is_none_or(is_domain) {
        return refused(
            "must be 1 to 63 of A-Z, a-z, 0-9, -, _ and ., with a letter or digit at both ends, and \
             may have a domain and a slash before it",
        );
    }
    if !value.is_empty() && !is_name(value) {
        return refused(
            "must have a value of at most 63 of A-Z, a-z, 0-9, -, _ and ., with a letter or digit at \
             both ends",
        );
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric();
    let ends = [text.bytes().next(), text.bytes().last()];
    text.len() <= LONGEST_NAME
        && ends.iter().all(|end| end.is_some_and(plain))
        && text.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.'))
}

/// Of labels in lower case.
fn is_domain(text: &str) -> bool {
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= LONGEST_PREFIX
        && text.split('.').all(|label| is_name(label) && label.bytes().all(lower))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_those_of_labels_and_any_key_can_go() {
        let long = "x".repeat(64);
        for (key, value) in
            [("team", Some("a.B_c-1")), ("e.org/x-y", Some("")), ("a b", None), (&long, None)]
        {
            assert!(allowed(key, value).is_ok(), "{key} {value:?}");
        }
        for (key, value) in [
            ("", Some("v")),
            ("a b", Some("v")),
            ("-a", Some("v")),
            ("E.org/x", Some("v")),
            ("a/b/c", Some("v")),
            ("/a", Some("v")),
            (&long, Some("v")),
            ("a", Some("two words")),
            ("a", Some("-")),
            ("a", Some(&long)),
            ("opensandbox.io/x", None),
            ("coppice.idleTimeout", Some("5")),
        ] {
            assert!(allowed(key, value).is_err(), "{key} {value:?}");
        }
    }
}
