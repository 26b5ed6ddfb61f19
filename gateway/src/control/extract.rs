//! Requests taken apart, with refusals in E2B's shape.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, Path, Query, Request},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
    },
};

use super::MAX_BODY;
use crate::{Gateway, auth::Caller, error::ApiError, metrics::Denied, sandbox::SandboxId};

/// Beyond it not every JSON reader tells one whole number from the next.
pub(super) const MOST_NUMBER: u64 = (1 << 53) - 1;

/// How long a client may take to send a body.
const PATIENCE: Duration = Duration::from_secs(30);

/// The body, a JSON object, whatever its content type and however it was framed.
///
/// As `Option`, for bodies that may be absent, or null.
pub(crate) struct ApiJson<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = <Self as OptionalFromRequest<S>>::from_request(request, state).await?;
        body.ok_or_else(|| ApiError::bad_request("a JSON body is required"))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> OptionalFromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, ApiError> {
        let body = timeout(PATIENCE, Bytes::from_request(request, state))
            .await
            .map_err(|_| ApiError::request_timeout(PATIENCE))?;
        let body = body.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::too_large(MAX_BODY)
            } else {
                ApiError::bad_request("the request body could not be read")
            }
        })?;
        if matches!(body.trim_ascii(), b"" | b"null") {
            return Ok(None);
        }
        object(&body).map(|body| Some(Self(body)))
    }
}

pub(super) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut value: Value = serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request(format!("malformed JSON: {e}")))?;
    // A struct would also be read from an array, by position.
    let Some(fields) = value.as_object_mut() else {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    };
    fields.values_mut().for_each(make_whole);
    T::deserialize(value).map_err(|e| ApiError::bad_request(format!("invalid body: {e}")))
}

/// JSON has one kind of number: `60.0` is as whole as `60`.
fn make_whole(value: &mut Value) {
    /// From here on not every whole number can be told from the next.
    const MOST: f64 = 9_007_199_254_740_992.0;
    if let Some(number) = value.as_f64().filter(|_| value.is_f64())
        && number.fract() == 0.0
        && number.abs() < MOST
    {
        *value = Value::from(number as i64);
    }
}

/// The sandbox a path names: `<id>`, or `<id>-<clientid>` of older clients. It is, or was, of the
/// tenant who asks: everybody else is told here that it is not there, whatever else is wrong.
pub(super) struct SandboxPath(pub(super) SandboxId);

impl FromRequestParts<Gateway> for SandboxPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let PastPath(known) = PastPath::from_request_parts(parts, gateway).await?;
        let id = &known.to_string();
        let Ok(caller) = Caller::from_request_parts(parts, gateway).await;
        match gateway.sandboxes().tenant(known) {
            Some(tenant) if tenant == *caller.tenant() => Ok(Self(known)),
            None => Err(ApiError::no_sandbox(id)),
            Some(_) => Err(ApiError::no_sandbox(id).because(Denied::Tenant)),
        }
    }
}

/// The sandbox a path names, whoever's it is, and whether or not there ever was one.
pub(super) struct PastPath(pub(super) SandboxId);

impl FromRequestParts<Gateway> for PastPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, ApiError> {
        let invalid = || ApiError::bad_request("Invalid sandbox ID");
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, gateway).await;
        let Path(path) = path.map_err(|_| invalid())?;
        let text = path.iter().find_map(|(name, text)| (name == "id").then_some(text.as_str()));
        let text = text.ok_or_else(invalid)?;
        let id =
            text.split_once('-').map_or(Some(text), |(id, client)| is_word(client).then_some(id));
        let id = id.filter(|id| is_word(id)).ok_or_else(invalid)?;
        // Well-formed for E2B, but none that we give out.
        id.parse().map(Self).map_err(|_| ApiError::no_sandbox(id))
    }
}

impl IntoParams for PastPath {
    fn into_params(place: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        SandboxPath::into_params(place)
    }
}

impl IntoParams for SandboxPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^[a-z0-9]+(-[a-z0-9]+)?$"));
        let id = ParameterBuilder::new()
            .name("id")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("of a sandbox; what stands behind a hyphen is not looked at"))
            .schema(Some(id));
        vec![id.build()]
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// The query, decoded once; a parameter that comes several times is joined by commas.
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// As it was sent.
    pub(crate) fn take(&self, name: &str) -> Option<String> {
        let values = self.0.iter().filter(|(known, _)| known == name);
        let values: Vec<&str> = values.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(","))
    }

    /// A whole number from 0 to [`MOST_NUMBER`].
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.take(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number <= MOST_NUMBER);
        let wrong = || ApiError::bad_request(format!("{name} must be a whole number"));
        number.ok_or_else(wrong).map(Some)
    }

    /// Of text, where an empty one says nothing.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.take(name).filter(|text| !text.is_empty())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Query::try_from_uri(&parts.uri)
            .map(|Query(pairs)| Self(pairs))
            .map_err(|e| ApiError::bad_request(format!("invalid query: {}", e.body_text())))
    }
}
