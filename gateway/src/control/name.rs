//! Names of templates, as clients write them.

use std::fmt;

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

use crate::{error::ApiError, sandbox::Named};

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

/// The tag of what is named without one.
pub(super) const DEFAULT: &str = "default";

/// A name as it was written, in small letters.
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) tag: Option<String>,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Reference {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => split(&text),
            Err(_) => Err(invalid()),
        }
    }
}

/// What is to be called so from now on.
pub(super) fn parse_new(text: &str) -> Result<Named, ApiError> {
    if text.contains('/') {
        return Err(ApiError::bad_request("name: there are no namespaces here"));
    }
    let reference = split(text)?;
    if reference.tag.as_ref().is_some_and(|tag| uuid::Uuid::try_parse(tag).is_ok()) {
        return Err(ApiError::bad_request("a tag must not be a UUID"));
    }
    Ok(reference.into())
}

/// `alias`, or `alias:tag` where that is another tag than `default`, in any case; the rest of E2B's
/// grammar names what cannot exist here.
pub(super) fn parse(text: &str) -> Result<String, ApiError> {
    let Reference { name, tag } = split(text)?;
    let tag = tag.filter(|tag| tag != DEFAULT);
    Ok(Reference { name, tag }.to_string())
}

pub(super) fn split(text: &str) -> Result<Reference, ApiError> {
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
    Ok(Reference { name: alias.to_owned(), tag: tag.map(str::to_owned) })
}
