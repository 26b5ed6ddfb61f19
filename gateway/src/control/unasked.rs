//! Parts of a create that are not honoured yet: refused, unless they ask for nothing, as what SDKs
//! send when their caller did not speak of them.

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{AnyOfBuilder, ObjectBuilder, Schema, SchemaType, Type},
    },
};

use crate::error::ApiError;

/// That a copy carries memory.
pub(super) fn unasked_carried() -> RefOr<Schema> {
    let text = "No copy carries memory: only what does not ask for it.";
    one_of(vec![json!(null), json!(false)]).description(Some(text)).into()
}

/// Whether an object, or anything else, asks for something.
pub(super) fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.values().any(|value| !is_empty(value)),
        _ => !is_empty(value),
    }
}

pub(super) fn not_yet(field: &str) -> ApiError {
    ApiError::bad_request(format!("{field} is not supported yet: leave it out"))
}

pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// The values that [`is_empty`] is true of, in the document.
pub(super) struct Unasked;

fn one_of(values: Vec<Value>) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::AnyValue).enum_values(Some(values))
}

fn empty() -> ObjectBuilder {
    one_of(vec![json!(null), json!(false), json!(""), json!([]), json!({})])
}

impl PartialSchema for Unasked {
    fn schema() -> RefOr<Schema> {
        empty().description(Some("Not honoured yet: only what asks for nothing.")).into()
    }
}

impl ToSchema for Unasked {}

/// What [`asks_for_something`] is false of.
pub(super) fn unasked_object() -> RefOr<Schema> {
    let object =
        ObjectBuilder::new().schema_type(Type::Object).additional_properties(Some(empty()));
    AnyOfBuilder::new()
        .item(empty())
        .item(object)
        .description(Some("Not honoured yet: only what asks for nothing."))
        .into()
}
