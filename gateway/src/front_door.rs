//! Where a request belongs: a port of a sandbox, or the gateway itself.
//!
//! In this order: a host `<port>-<id>.<domain>` names its sandbox whatever the headers say (SDKs
//! send them always); on any other host the two routing headers do; a `/files` URL with neither
//! belongs to the sandbox whose token signed it; all else is the control plane's.

use std::{convert::Infallible, pin::Pin, sync::Arc, time::Instant};

use axum::{Router, body::Body};
use envd::{unread, wire::ENVD_PORT};
use http::{HeaderValue, Method, Request, Response, header};
use hyper::service::Service;
use tower::ServiceExt;

use crate::{
    auth::pages,
    data::{Address, Credential, DataPlane, Domain, Errand, admit, host, is_ambiguous},
    error::DataPlaneError,
    logging::request::{Ids, REQUEST_ID, answered},
    metrics::{Metrics, Route},
    sandbox::{SandboxId, Sandboxes},
    serve::{Brief, Line, Received},
};

/// By which clients ask envd whether its sandbox runs.
const HEALTH: &str = "/health";

fn brief(mut answer: Response<Body>) -> Response<Body> {
    answer.extensions_mut().insert(Brief);
    answer
}

/// Serves one request after another, of any connection; clones share everything.
#[derive(Clone)]
pub struct FrontDoor {
    sandboxes: Sandboxes,
    domain: Option<Arc<Domain>>,
    control: Router,
    data: DataPlane,
    /// No sandbox can be reached through it.
    control_alone: bool,
}

enum Destination {
    /// Of a sandbox that need not be there.
    Port(Address),
    /// A file of a sandbox, under the gateway's own name.
    Link(SandboxId),
    Control,
}

impl FrontDoor {
    /// `domain` is the one below which sandboxes have their hosts; without it, any will do.
    pub fn new(sandboxes: Sandboxes, domain: Option<String>, control: Router) -> Self {
        let domain = domain.map(|domain| Arc::new(Domain::new(&domain)));
        let data = DataPlane::new(&sandboxes);
        Self { sandboxes, domain, control, data, control_alone: false }
    }

    /// One that leads to `control` whatever a request names.
    pub fn to_control(sandboxes: Sandboxes, control: Router) -> Self {
        Self { control_alone: true, ..Self::new(sandboxes, None, control) }
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        self.sandboxes.metrics()
    }

    async fn answer(self, request: Request<Received>, ids: Ids) -> Response<Body> {
        let line = request.extensions().get::<Line>().cloned();
        let line = line.expect("the server puts it into every request");
        // A page whose request is to be refused can only read so if it may send it.
        let preflight = pages::preflight(request.method(), request.headers());
        let (began, method) = (Instant::now(), request.method().clone());
        let mut route = Route::Port;
        let answer = match self.destination(&request) {
            Ok(Destination::Port(Address { sandbox, port })) => {
                route = Route::of(port, request.uri().path());
                self.forward(sandbox, port, request, &line).await
            }
            Ok(Destination::Link(id)) => {
                route = Route::Files;
                let answer = self.forward(id.to_string(), ENVD_PORT, request, &line).await;
                answer.map(confined)
            }
            Ok(Destination::Control) => {
                let answered = self.control.oneshot(request.map(Body::new)).await;
                return brief(named(answered.unwrap_or_else(|never| match never {}), ids));
            }
            Err(refused) => {
                unread::discard(request.into_body()).await;
                Err(refused)
            }
        };
        let metrics = self.metrics();
        if let Err(refused) = &answer
            && let Some(why) = refused.denial()
        {
            metrics.denied(why);
        }
        let last = matches!(answer, Err(DataPlaneError::TransferEncoding));
        // What a sandbox answers is its own.
        let mut answer = answer.unwrap_or_else(|refused| {
            brief(named(preflight.unwrap_or_else(|| refused.into_response()), ids))
        });
        if last {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let (status, took) = (answer.status().as_u16(), began.elapsed());
        metrics.request_answered(route.name(), method.as_str(), status, took);
        answered(route.name(), &method, status, took);
        answer
    }

    /// The request waits for a sandbox that has to be woken first.
    async fn forward(
        &self,
        sandbox_id: String,
        port: u16,
        request: Request<Received>,
        line: &Line,
    ) -> Result<Response<Body>, DataPlaneError> {
        // Whoever only asks how it is lets it sleep; SDKs do when a stream of theirs was cut.
        let looks = port == ENVD_PORT && request.uri().path() == HEALTH;
        if let Ok(id) = sandbox_id.parse()
            && let Some(sandbox) = self.sandboxes.registry().present(id)
            // Before anything of it is woken.
            && let Err(refused) = admit(&sandbox, port, request.headers())
        {
            unread::discard(request.into_body()).await;
            return Err(refused);
        }
        let errand = if looks { Errand::Look } else { Errand::Use(&self.sandboxes) };
        let sandbox = match sandbox_id.parse() {
            Ok(id) if looks => self.sandboxes.registry().running(id),
            Ok(id) => self.sandboxes.reach(id).await,
            Err(_) => None,
        };
        let Some(sandbox) = sandbox else {
            unread::discard(request.into_body()).await;
            return Err(DataPlaneError::NotFound { sandbox_id });
        };
        self.data.forward(sandbox, port, request, line, errand).await
    }

    fn destination<B>(&self, request: &Request<B>) -> Result<Destination, DataPlaneError> {
        if is_ambiguous(request.headers()) {
            return Err(DataPlaneError::TransferEncoding);
        }
        if request.method() == Method::CONNECT {
            return Err(DataPlaneError::Connect);
        }
        if self.control_alone {
            return Ok(Destination::Control);
        }
        if let Some(address) = self.address(request)? {
            return Ok(Destination::Port(address));
        }
        match Credential::of(request.method(), request.uri(), request.headers()) {
            Some(credential) => {
                let sandbox = credential.sandbox(self.sandboxes.registry())?;
                Ok(Destination::Link(sandbox.id()))
            }
            None => Ok(Destination::Control),
        }
    }

    fn address<B>(&self, request: &Request<B>) -> Result<Option<Address>, DataPlaneError> {
        if let Some(host) = host(request.uri(), request.headers())?
            && let Some(address) = Address::from_host(host, self.domain.as_deref())?
        {
            return Ok(Some(address));
        }
        Address::from_headers(request.headers())
    }
}

/// Tells a client how its request is called in the log.
fn named(mut response: Response<Body>, ids: Ids) -> Response<Body> {
    if let Some(id) = ids.header() {
        response.headers_mut().insert(&REQUEST_ID, id);
    }
    response
}

/// A browser shows what a link leads to as a page of the gateway's own: its code must not run there,
/// since such pages may call the control plane.
fn confined(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl Service<Request<Received>> for FrontDoor {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Received>) -> Self::Future {
        let door = self.clone();
        let ids = Ids::of(request.headers());
        Box::pin(ids.scope(async move { Ok(door.answer(request, ids).await) }))
    }
}
