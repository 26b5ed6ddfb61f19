//! `GET /openapi.json`: what the gateway can be asked, as generated from its handlers.

use axum::{
    Extension,
    body::Bytes,
    http::{HeaderValue, header},
    response::IntoResponse,
};
use utoipa::{
    OpenApi,
    openapi::{
        self, ComponentsBuilder, PathItem,
        path::Operation,
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
    },
};

use crate::error::{ErrorBody, with_routed};

/// Ways to show a key, by their names in the document.
pub(crate) const API_KEY: &str = "apiKey";
pub(crate) const BEARER: &str = "bearer";
pub(crate) const OPEN_SANDBOX_KEY: &str = "openSandboxKey";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Coppice",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        description = "\
The E2B API of a gateway that runs sandboxes on hardware of your own. What goes on inside a sandbox \
(files, processes, its ports) is asked of the sandbox itself: the header pair `E2b-Sandbox-Id` and \
`E2b-Sandbox-Port`, or a host `<port>-<id>.<domain>`, takes a request there. What the gateway itself \
answers to such a request stands among the components, under `pathItems` and `responses`.

Every failure has the body `Error`, or `SandboxError` where a sandbox does not answer. A path that is not here is answered by 404, a method that is not \
by 405. Two answers come from before any route and have no body: 400 to what is not HTTP, and 431 to \
headers of more than 128 KiB (HTTP/2: 64 KiB). 429 and 503 always carry `Retry-After`."
    ),
    components(schemas(ErrorBody)),
    tags(
        (name = "sandboxes"),
        (name = "templates"),
        (name = "opensandbox", description = "In the shapes of OpenSandbox"),
        (name = "agents", description = "What the sandboxes of agents use, in Evonic's shapes"),
        (name = "pools", description = "For operators: takes a key of scope admin"),
        (name = "batches"),
        (name = "gateway", description = "For operators; without a key"),
        (name = "not yet", description = "What E2B has and this gateway does not"),
    )
)]
struct Frame;

/// The document before any route is in it.
pub(crate) fn without_routes() -> openapi::OpenApi {
    let mut document = Frame::openapi();
    let components = document.components.take().unwrap_or_default();
    let components = ComponentsBuilder::from(components)
        .security_scheme(
            API_KEY,
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))),
        )
        .security_scheme(
            OPEN_SANDBOX_KEY,
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("OPEN-SANDBOX-API-KEY"))),
        )
        .security_scheme(BEARER, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    document.components = Some(with_routed(components));
    document
}

/// The finished document as JSON.
#[derive(Clone)]
pub(crate) struct Document(Bytes);

impl Document {
    pub(crate) fn new(mut document: openapi::OpenApi) -> Self {
        for (path, item) in &mut document.paths.paths {
            for (method, operation) in operations(item) {
                operation.operation_id = Some(operation_id(method, path));
            }
        }
        let json = serde_json::to_vec(&document).expect("a document of strings always serialises");
        Self(json.into())
    }
}

/// All the operations of a path that there may be here.
pub(crate) fn operations(
    item: &mut PathItem,
) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let all = [("get", get), ("put", put), ("post", post), ("delete", delete), ("patch", patch)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// `postV2SandboxesIdConnect`: handlers' names are not told apart beyond their modules.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(method.to_owned(), |id, word| id + &word[..1].to_uppercase() + &word[1..])
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "gateway", security(()), responses(
    (status = 200, description = "OpenAPI 3.1", body = serde_json::Value),
))]
pub(super) async fn show(Extension(Document(json)): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], json)
}
