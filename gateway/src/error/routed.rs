//! How the data plane's refusals stand in the OpenAPI document: among the components, since the
//! paths are a sandbox's own, and no client that is generated shall have a call for each of them.

use std::collections::BTreeMap;

use axum::http::{StatusCode, header};
use serde_json::{Map, Value, json};
use utoipa::{
    ToSchema,
    openapi::{
        Components, ComponentsBuilder, ContentBuilder, HeaderBuilder, Ref, Response,
        ResponseBuilder,
        example::ExampleBuilder,
        extensions::Extensions,
        schema::{ObjectBuilder, Type},
    },
};

use super::{DataPlaneError, ErrorBody, SHOULD_RETRY, data_plane::SandboxBody};

/// Adds the responses, and what requests they may come to.
pub(crate) fn with_routed(components: ComponentsBuilder) -> Components {
    let mut by_status: BTreeMap<StatusCode, Vec<DataPlaneError>> = BTreeMap::new();
    for error in DataPlaneError::each() {
        by_status.entry(error.status()).or_default().push(error);
    }
    components
        .schema_from::<SandboxBody<'_>>()
        .responses_from_iter(by_status.iter().map(|(s, errors)| (name(*s), response(*s, errors))))
        // The builder does not know of path items among components, which OpenAPI has since 3.1.
        .extensions(Some(Extensions::from_iter([("pathItems", path_items())])))
        .build()
}

fn name(status: StatusCode) -> String {
    format!("Routed{}", status.as_u16())
}

fn response(status: StatusCode, errors: &[DataPlaneError]) -> Response {
    let (schema, text) = match status {
        StatusCode::UNAUTHORIZED => (ErrorBody::name(), "no sandbox has such a token"),
        StatusCode::NOT_FOUND => (ErrorBody::name(), "a route of envd's for the gateway alone"),
        StatusCode::METHOD_NOT_ALLOWED => (ErrorBody::name(), "to CONNECT, wherever it leads"),
        StatusCode::FORBIDDEN => (SandboxBody::name(), "its ports are not everybody's"),
        StatusCode::TOO_MANY_REQUESTS => {
            (SandboxBody::name(), "it has as many streams open as it may have")
        }
        StatusCode::BAD_GATEWAY => (SandboxBody::name(), "the sandbox does not answer"),
        _ => (ErrorBody::name(), "the request does not say where it is to go, or not as HTTP can"),
    };
    let examples = errors.iter().map(|error| {
        let body = serde_json::from_slice(&error.body()).expect("strings and numbers are JSON");
        let variant = format!("{error:?}");
        let name = variant.split(' ').next().unwrap_or_default().to_owned();
        (name, ExampleBuilder::new().value(Some::<Value>(body)))
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .examples_from_iter(examples)
        .build();
    let mut response =
        ResponseBuilder::new().description(text).content("application/json", content);
    if errors.iter().any(DataPlaneError::may_have_had_its_effect) {
        let header = HeaderBuilder::new()
            .schema(ObjectBuilder::new().schema_type(Type::String))
            .description(Some("`false` where the request may have had its effect"));
        response = response.header(SHOULD_RETRY.as_str(), header.build());
    }
    if errors.iter().any(|error| error.retry_after().is_some()) {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
        let header = HeaderBuilder::new()
            .schema(seconds)
            .description(Some("seconds after which to try again"));
        response = response.header(header::RETRY_AFTER.as_str(), header.build());
    }
    let origin = HeaderBuilder::new().schema(ObjectBuilder::new().schema_type(Type::String));
    response.header(header::ACCESS_CONTROL_ALLOW_ORIGIN.as_str(), origin.build()).build()
}

fn path_items() -> Value {
    let query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
    let mut port = json!({
        "summary": "Any path, at a port of a sandbox",
        "description": "The host names the sandbox, or on any other host the two headers do. \
                        Port 49983 is the sandbox's own API.",
        "servers": [
            {"url": "{scheme}://{port}-{sandboxID}.{domain}", "variables": {
                "scheme": {"default": "http", "enum": ["http", "https"]},
                "port": {"default": "49983"},
                "sandboxID": {"default": EXAMPLE_ID},
                "domain": {"default": "localhost"},
            }},
            {"url": "/", "description": "with both headers"},
        ],
        "parameters": [
            {"name": "E2b-Sandbox-Id", "in": "header",
             "schema": {"type": "string", "pattern": "^[a-z0-9]{1,63}$"}},
            {"name": "E2b-Sandbox-Port", "in": "header",
             "schema": {"type": "integer", "minimum": 1, "maximum": u16::MAX}},
        ],
    });
    let refused = [
        StatusCode::BAD_REQUEST,
        StatusCode::FORBIDDEN,
        StatusCode::NOT_FOUND,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
    ];
    let methods = ["get", "head", "post", "put", "patch", "delete", "options", "trace"];
    add_operations(&mut port, &methods, &refused);
    let mut link = json!({
        "summary": "`/files` on a host that names no sandbox",
        "description": "It goes to the sandbox whose token is sent or has signed the URL; \
                        without either there is no such path.",
        "servers": [{"url": "/"}],
        "parameters": [
            query("path"), query("username"), query("signature"), query("signature_expiration"),
            {"name": "X-Access-Token", "in": "header", "schema": {"type": "string"}},
        ],
    });
    let refused = [
        StatusCode::BAD_REQUEST,
        StatusCode::UNAUTHORIZED,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
    ];
    add_operations(&mut link, &["get", "head", "post", "options"], &refused);
    json!({"SandboxPort": port, "SandboxFile": link})
}

fn add_operations(item: &mut Value, methods: &[&str], refused: &[StatusCode]) {
    for method in methods {
        let mut responses = Map::new();
        for &status in refused {
            let at = format!("#/components/responses/{}", name(status));
            responses.insert(status.as_str().to_owned(), json!({"$ref": at}));
        }
        if *method == "options" {
            let text = "to a browser's preflight of what would be refused";
            let status = StatusCode::NO_CONTENT.as_str().to_owned();
            responses.insert(status, json!({"description": text}));
        }
        responses.insert("default".to_owned(), json!({"description": "what the sandbox answers"}));
        item[*method] = json!({"responses": responses});
    }
}

/// Of a sandbox that is none.
pub(super) const EXAMPLE_ID: &str = "0123456789abcdef0123456789abcdef";
