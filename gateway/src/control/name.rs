//! Names of templates, as clients write them.

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{ObjectBuilder, Schema, Type},
    },
};

use crate::error::ApiError;

/// E2B's bound.
const LONGEST: usize = 128;

/// The template a path names, in one segment whatever is in its name.
pub(super) struct TemplateName(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for TemplateName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => parse(&text).map(Self),
            Err(_) => Err(invalid()),
        }
    }
}

impl PartialSchema for TemplateName {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .max_length(Some(LONGEST))
            .pattern(Some(r"^\s*([A-Za-z0-9_-]+/)?[A-Za-z0-9_-]+(:[A-Za-z0-9_.-]+)?\s*$"))
            .examples(["base"])
            .into()
    }
}

impl ToSchema for TemplateName {}

fn invalid() -> ApiError {
    ApiError::bad_request("templateID must be a template's name: letters, digits, - and _")
}

/// `alias` or `alias:default`, in any case; the rest of E2B's grammar names what cannot exist
/// here.
pub(super) fn parse(text: &str) -> Result<String, ApiError> {
    let lower = text.trim().to_ascii_lowercase();
    let word = |word: &str, more: &[char]| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c) || more.contains(&c);
        !word.is_empty() && word.chars().all(allowed)
    };
    let (name, tag) = lower.split_once(':').map_or((&*lower, None), |(n, t)| (n, Some(t)));
    let (namespace, alias) = name.split_once('/').map_or((None, name), |(n, a)| (Some(n), a));
    let valid = text.len() <= LONGEST
        && namespace.is_none_or(|namespace| word(namespace, &[]))
        && word(alias, &[])
        && tag.is_none_or(|tag| word(tag, &['.']));
    if !valid {
        return Err(invalid());
    }
    if namespace.is_some() {
        return Err(ApiError::not_found(format!("template '{text}' not found")));
    }
    match tag {
        None | Some("default") => Ok(alias.to_owned()),
        Some(tag) => {
            let text = format!("tag '{tag}' does not exist for template '{alias}'");
            Err(ApiError::not_found(text))
        }
    }
}
