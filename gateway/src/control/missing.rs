//! What E2B has and this version has not: 501, with its name, whatever the request says.

use std::future::ready;

use axum::routing::{MethodRouter, on};
use utoipa::openapi::{
    HttpMethod, Required,
    path::{OperationBuilder, ParameterBuilder, ParameterIn, PathItem, PathsBuilder},
    response::ResponsesBuilder,
    schema::{ObjectBuilder, Type},
};
use utoipa_axum::{PathItemExt, router::OpenApiRouter};

use crate::{
    Gateway,
    error::{ApiError, NotImplemented},
};

use HttpMethod::{Delete, Get, Patch, Post, Put};

/// Method, path, and what it belongs to.
const ROUTES: &[(HttpMethod, &str, &str)] = &[
    (Post, "/templates", "building templates"),
    (Post, "/v2/templates", "building templates"),
    (Post, "/v3/templates", "building templates"),
    (Post, "/templates/{id}", "building templates"),
    (Patch, "/templates/{id}", "changing templates"),
    (Patch, "/v2/templates/{id}", "changing templates"),
    (Get, "/templates/{id}/files/{hash}", "building templates"),
    (Post, "/templates/{id}/builds/{build}", "building templates"),
    (Post, "/v2/templates/{id}/builds/{build}", "building templates"),
    (Get, "/templates/{id}/builds/{build}/status", "building templates"),
    (Get, "/templates/{id}/builds/{build}/logs", "building templates"),
    (Post, "/templates/tags", "template tags"),
    (Delete, "/templates/tags", "template tags"),
    (Get, "/templates/{id}/tags", "template tags"),
    (Get, "/templates/{id}/tags/count", "template tags"),
    (Get, "/templates/{id}/tags/exists", "template tags"),
    (Get, "/templates/{id}/tags/groups", "template tags"),
    (Get, "/templates/{id}/tags/{tag}/assignments", "template tags"),
    (Get, "/default-templates", "default templates"),
    (Get, "/volumes", "volumes"),
    (Post, "/volumes", "volumes"),
    (Get, "/volumes/{id}", "volumes"),
    (Delete, "/volumes/{id}", "volumes"),
    (Get, "/volumecontent/{id}/path", "volumes"),
    (Patch, "/volumecontent/{id}/path", "volumes"),
    (Delete, "/volumecontent/{id}/path", "volumes"),
    (Get, "/volumecontent/{id}/dir", "volumes"),
    (Post, "/volumecontent/{id}/dir", "volumes"),
    (Get, "/volumecontent/{id}/file", "volumes"),
    (Put, "/volumecontent/{id}/file", "volumes"),
    (Get, "/secrets", "secrets"),
    (Post, "/secrets", "secrets"),
    (Get, "/secrets/{id}", "secrets"),
    (Post, "/secrets/{id}", "secrets"),
    (Delete, "/secrets/{id}", "secrets"),
    (Get, "/teams", "teams"),
    (Get, "/teams/{id}/metrics", "teams"),
    (Get, "/teams/{id}/metrics/max", "teams"),
    (Get, "/api-keys", "API keys"),
    (Post, "/api-keys", "API keys"),
    (Patch, "/api-keys/{id}", "API keys"),
    (Delete, "/api-keys/{id}", "API keys"),
    (Post, "/access-tokens", "access tokens"),
];

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    ROUTES.iter().fold(OpenApiRouter::new(), |router, (method, path, what)| {
        router.routes(route(method, path, what))
    })
}

/// The route with its piece of the document, as the macro `routes!` would have it.
fn route(
    method: &HttpMethod,
    path: &str,
    what: &'static str,
) -> utoipa_axum::router::UtoipaMethodRouter<Gateway> {
    let answer: MethodRouter<Gateway> =
        on(method.to_method_filter(), move || ready(ApiError::not_implemented(what)));
    let responses = ResponsesBuilder::new().responses_from_into_responses::<NotImplemented>();
    let operation = names(path)
        .fold(OperationBuilder::new(), |operation, name| {
            let text = ObjectBuilder::new().schema_type(Type::String);
            let parameter = ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .schema(Some(text));
            operation.parameter(parameter)
        })
        .tag("not yet")
        .summary(Some(what))
        .responses(responses.build());
    let item = PathItem::new(method.clone(), operation);
    (Vec::new(), PathsBuilder::new().path(path, item).build(), answer)
}

/// `id` and `build` of `/templates/{id}/builds/{build}`.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}
