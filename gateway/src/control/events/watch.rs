//! `GET /events/sandboxes/watch`: what happens, as it happens, as server-sent events.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{SandboxEvent, Which, among, event_id, which};
use crate::{
    Gateway,
    auth::Caller,
    control::extract::Parameters,
    error::{ApiError, InvalidQuery, TooManyWatch},
    events::store::{Sight, Start, Watch},
};

/// After which it ends, so that whoever goes on shows a key that is still good.
const LONGEST: Duration = Duration::from_secs(3600);
/// For whoever finds no place.
const AGAIN: Duration = Duration::from_secs(5);
/// What a browser waits before it goes on where it was (milliseconds).
const RETRY: &str = "retry: 1000\n\n";

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(watch))
}

/// What happens, as server-sent events: `id` is that of the event, `data` the event as
/// `/events/sandboxes` has it. An `event: lost` says that some which should come there are no longer
/// kept. Without anything to say a comment comes each 15 seconds. It ends after an hour, or with the
/// gateway; whoever names the last id goes on there.
#[utoipa::path(get, path = "/events/sandboxes/watch", tag = "events",
    params(
        Which,
        ("sandboxId" = Option<Vec<String>>, Query, max_items = 100,
            description = "of these alone; several by commas, or each by itself"),
        ("after" = Option<String>, Query, format = Uuid,
            description = "the id of an event: begin behind it, with what was told before now"),
        ("Last-Event-ID" = Option<String>, Header, format = Uuid,
            description = "the same, as browsers send it; this one counts"),
    ),
    responses(
        (status = 200, description = "until either hangs up", content_type = "text/event-stream", body = String),
        InvalidQuery,
        TooManyWatch,
    ))]
async fn watch(
    State(gateway): State<Gateway>,
    caller: Caller,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let filter = among(which(&caller, &parameters)?, &parameters)?;
    let last = match headers.get("last-event-id").map(HeaderValue::to_str) {
        Some(Ok(last)) if !last.is_empty() => Some(("Last-Event-ID", last.to_owned())),
        Some(Err(_)) => return Err(ApiError::bad_request("Last-Event-ID is no text")),
        _ => parameters.take("after").map(|after| ("after", after)),
    };
    let start = match last {
        Some((of, last)) => Some(Start::After(event_id(of, &last)?)),
        // What was before is wanted by whoever names a time.
        None => filter.from.map(|_| Start::Oldest),
    };
    let Some(watch) = gateway.history().watch(filter, start) else {
        return Err(ApiError::too_many(AGAIN, "as many watch as may; try again later"));
    };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // To proxies that would keep some of it.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, body(gateway, watch)).into_response())
}

fn body(gateway: Gateway, watch: Watch) -> Body {
    let ends = Instant::now() + LONGEST;
    let begun = stream::once(async { Ok(Bytes::from_static(RETRY.as_bytes())) });
    let sights = stream::unfold((gateway, watch), move |(gateway, mut watch)| async move {
        let sight = timeout_at(ends, watch.next()).await.ok().flatten()?;
        let text = text(&gateway, sight);
        Some((Ok::<_, Infallible>(Bytes::from(text)), (gateway, watch)))
    });
    Body::from_stream(begun.chain(sights))
}

fn text(gateway: &Gateway, sight: Sight) -> String {
    match sight {
        Sight::Quiet => ": quiet\n\n".to_owned(),
        Sight::Lost => {
            "event: lost\ndata: {\"message\":\"some events are no longer kept\"}\n\n".to_owned()
        }
        Sight::Event(line) => {
            let told = SandboxEvent::of(gateway, &line);
            let json = told.as_ref().and_then(|event| serde_json::to_string(event).ok());
            match (told, json) {
                (Some(event), Some(json)) => format!("id: {}\ndata: {json}\n\n", event.id),
                _ => String::new(),
            }
        }
    }
}
