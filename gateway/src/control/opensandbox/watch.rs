//! `GET /sandboxes/{id}/metrics/watch`: what a sandbox uses, once a second, as server-sent events.
//!
//! Nothing is looked at for it: a stream tells what the sampler has found, when it has. So all of
//! them together cost what their bytes do.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::sleep,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    super::extract::{Parameters, SandboxPath},
    metrics::{Metrics, latest},
};
use crate::{
    Gateway,
    error::{ApiError, NoSandbox, TooManyStreams},
    sandbox::{Phase, Reason, Sandbox, SandboxId, Tenant},
    shares::Shares,
};

/// Streams at once, of one sandbox, of one tenant, and of all.
const MOST_OF_ONE: usize = 16;
const MOST_OF_TENANT: usize = 64;
const MOST: usize = 256;
/// Somebody else may have had the sampler look in between.
const LEAST_APART: Duration = Duration::from_millis(850);
/// Without a look for so long the stream says that it is still there,
const QUIET: Duration = Duration::from_millis(1500);
/// and for so long that something is wrong.
const STALE: Duration = Duration::from_secs(5);

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(watch))
}

/// The streams that are open; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Watches(Arc<Open>);

#[derive(Debug)]
struct Open {
    sandboxes: Mutex<HashMap<SandboxId, usize>>,
    tenants: Shares<Tenant>,
}

impl Default for Watches {
    fn default() -> Self {
        let tenants = Shares::new(MOST_OF_TENANT);
        Self(Arc::new(Open { sandboxes: Mutex::default(), tenants }))
    }
}

/// One of them.
struct Place {
    watches: Watches,
    id: SandboxId,
    _own: OwnedSemaphorePermit,
}

impl Watches {
    fn take(&self, tenant: &Tenant, id: SandboxId) -> Result<Place, ApiError> {
        let own = self.0.tenants.try_take(tenant.clone());
        let own = own.ok_or_else(|| ApiError::too_many_streams(MOST_OF_TENANT))?;
        let mut open = self.0.sandboxes.lock();
        if open.values().sum::<usize>() >= MOST {
            return Err(ApiError::too_many_streams(MOST));
        }
        let of_one = open.entry(id).or_default();
        if *of_one >= MOST_OF_ONE {
            return Err(ApiError::too_many_streams(MOST_OF_ONE));
        }
        *of_one += 1;
        Ok(Place { watches: self.clone(), id, _own: own })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.watches.0.sandboxes.lock();
        if let Some(of_one) = open.get_mut(&self.id) {
            *of_one -= 1;
            if *of_one == 0 {
                open.remove(&self.id);
            }
        }
    }
}

/// Each second one event with what `/metrics/now` answers as its data and the time of the look as its
/// id, the first at once. While the sandbox does not run there are comments in their place, after an
/// event `state` that says where it stands; another says that it runs again. An event `error` tells
/// that it runs and nobody could look for five seconds. The stream ends with the sandbox, after an
/// event `end`.
#[utoipa::path(get, path = "/sandboxes/{id}/metrics/watch", tag = "opensandbox",
    params(
        SandboxPath,
        ("count" = Option<u64>, Query, minimum = 1, maximum = 9007199254740991_u64, example = 1,
            description = "the stream ends after so many figures; if left out with the sandbox"),
    ),
    responses(
        (status = 200, description = "as long as the sandbox is there",
            content((String = "text/event-stream"))),
        NoSandbox, TooManyStreams,
    ))]
async fn watch(
    State(gateway): State<Gateway>,
    Extension(watches): Extension<Watches>,
    SandboxPath(id): SandboxPath,
    parameters: Parameters,
) -> Result<Response, ApiError> {
    let left = parameters.number("count")?;
    if left == Some(0) {
        return Err(ApiError::bad_request("count must be 1 or more"));
    }
    let sandbox = gateway.sandboxes().present(id)?;
    let place = watches.take(&sandbox.facts().tenant, id)?;
    let watch = Watch {
        swept: gateway.sandboxes().samples().swept(),
        gateway,
        sandbox,
        left,
        runs: true,
        told: None,
        since: Instant::now(),
        begun: false,
        over: false,
        _place: place,
    };
    let events = stream::unfold(watch, Watch::next);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // A proxy is to pass each on as it comes.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// One stream.
struct Watch {
    gateway: Gateway,
    sandbox: Arc<Sandbox>,
    /// When the sampler has looked.
    swept: watch::Receiver<Option<Instant>>,
    /// Figures that are still to be told; `None` is without end.
    left: Option<u64>,
    /// As it was told last; without telling, it does.
    runs: bool,
    /// When figures were told last.
    told: Option<Instant>,
    /// Since when there is no new look, or that was said last.
    since: Instant,
    begun: bool,
    over: bool,
    _place: Place,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        while !self.over {
            let text = if self.begun { self.wait().await } else { self.begin().await };
            if let Some(text) = text {
                return Some((Ok(text.into()), self));
            }
        }
        None
    }

    async fn begin(&mut self) -> Option<String> {
        self.begun = true;
        // Of a sandbox that has just been made nobody has looked.
        if self.sandbox.phase() == Phase::Running {
            latest(&self.gateway, &self.sandbox).await;
        }
        self.swept.mark_unchanged();
        Some(self.tell().unwrap_or_else(|| ": no figures yet\n\n".to_owned()))
    }

    async fn wait(&mut self) -> Option<String> {
        if self.left == Some(0) {
            self.over = true;
            return None;
        }
        let gone = self.sandbox.gone().clone();
        tokio::select! {
            biased;
            () = gone.cancelled() => {
                self.over = true;
                Some(self.end())
            }
            // Fails when the gateway goes, which keeps what is waited for here.
            _ = self.swept.changed() => {
                if self.told.is_some_and(|told| told.elapsed() < LEAST_APART) {
                    return None;
                }
                self.since = Instant::now();
                Some(self.tell().unwrap_or_else(|| ": heartbeat\n\n".to_owned()))
            }
            () = sleep(QUIET) => {
                if self.since.elapsed() < STALE || !self.runs {
                    return Some(": heartbeat\n\n".to_owned());
                }
                self.since = Instant::now();
                let error = json!({"error": "what the sandbox uses cannot be told at present"});
                Some(format!("event: error\ndata: {error}\n\n"))
            }
        }
    }

    /// What there is to tell, of where it stands or of what it uses.
    fn tell(&mut self) -> Option<String> {
        let phase = self.sandbox.phase();
        let runs = phase == Phase::Running;
        if runs != self.runs && !phase.is_over() {
            self.runs = runs;
            // One that is about to be either does not run, as one that is paused.
            let state = if runs { Phase::Running } else { Phase::Paused };
            let state = json!({"state": state.name()});
            let mut text = format!("event: state\ndata: {state}\n\n");
            text.extend(self.figures());
            return Some(text);
        }
        self.figures()
    }

    fn figures(&mut self) -> Option<String> {
        if !self.runs {
            return None;
        }
        let latest = self.gateway.sandboxes().samples().latest(self.sandbox.id())?;
        let metrics = Metrics::of(&self.sandbox, &latest);
        let data = serde_json::to_string(&metrics).ok()?;
        self.told = Some(Instant::now());
        self.left = self.left.map(|left| left - 1);
        Some(format!("id: {}\ndata: {data}\n\n", metrics.timestamp))
    }

    fn end(&self) -> String {
        let status = self.gateway.sandboxes().see(self.sandbox.id()).ok().map(|it| it.status);
        let reason = status.and_then(|status| status.reason).unwrap_or(Reason::User);
        let over = json!({"reason": reason.code(), "message": reason.message()});
        format!("event: end\ndata: {over}\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_streams_as_there_may_be_and_places_are_given_back() {
        let watches = Watches::default();
        let tenant = |n: usize| format!("t{n}").parse::<Tenant>().unwrap();
        let take = |n: usize, id: SandboxId| watches.take(&tenant(n), id);
        let one = SandboxId::random();
        let mut of_one: Vec<Place> = (0..MOST_OF_ONE).map(|_| take(0, one).unwrap()).collect();
        assert!(take(0, one).is_err());
        of_one.pop();
        of_one.push(take(0, one).unwrap());
        let own = (of_one.len()..MOST_OF_TENANT).map(|_| take(0, SandboxId::random()).unwrap());
        let own: Vec<Place> = own.collect();
        assert!(take(0, SandboxId::random()).is_err());
        let others = (MOST_OF_TENANT..MOST).map(|n| take(n, SandboxId::random()).unwrap());
        let others: Vec<Place> = others.collect();
        assert!(take(MOST, SandboxId::random()).is_err());
        drop((of_one, own, others));
        assert!(watches.0.sandboxes.lock().is_empty());
    }
}
