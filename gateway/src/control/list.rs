//! `GET /v2/sandboxes`, in pages, and its elder `GET /sandboxes`.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue},
};
use chrono::{DateTime, Utc};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Parameters,
    page::{Cursor, Order, limit, metadata_filter},
    shape::Listed,
};
use crate::{
    Gateway,
    error::{ApiError, InvalidQuery},
    sandbox::{Phase, Sandbox},
};

pub(super) fn routes() -> OpenApiRouter<Gateway> {
    OpenApiRouter::new().routes(routes!(list_v2)).routes(routes!(list_v1))
}

/// Running ones, newest first.
#[utoipa::path(get, path = "/sandboxes", tag = "sandboxes",
    params(("metadata" = Option<String>, Query, example = "user=me&app=mine",
        pattern = "^([^&=%+]*=[^&=%+]*(&[^&=%+]*=[^&=%+]*)*)?$",
        description = "pairs all of which a sandbox's metadata must have; each key and each value \
            percent-encoded by itself, and then once more as part of this parameter")),
    responses(
        (status = 200, description = "all that run", body = [Listed]),
        InvalidQuery,
    ))]
async fn list_v1(
    State(gateway): State<Gateway>,
    parameters: Parameters,
) -> Result<Json<Vec<Listed>>, ApiError> {
    let filter = Filter { metadata: metadata(&parameters)?, ..Filter::default() };
    let running = States { running: true, paused: false };
    let found = find(&gateway, running, &filter, Order::Descending);
    Ok(Json(found.iter().filter_map(|sandbox| Listed::new(&gateway, sandbox)).collect()))
}

/// In pages; `X-Next-Token` is the `nextToken` of the next one.
#[utoipa::path(get, path = "/v2/sandboxes", tag = "sandboxes",
    params(
        ("metadata" = Option<String>, Query, example = "user=me&app=mine",
            pattern = "^([^&=%+]*=[^&=%+]*(&[^&=%+]*=[^&=%+]*)*)?$",
            description = "as of the elder list"),
        ("state" = Option<String>, Query, pattern = "^(running|paused)(,(running|paused))*$",
            description = "both if left out"),
        ("order" = inline(Option<Order>), Query, description = "by when they started; `desc` if left out"),
        ("startedAfter" = Option<String>, Query, format = DateTime),
        ("template" = Option<String>, Query, description = "a template's name"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 100,
            description = "100 if left out"),
        ("nextToken" = Option<String>, Query, description = "from the page before"),
    ),
    responses(
        (status = 200, description = "one page", body = [Listed], headers(
            ("x-next-token" = String, description = "there is another page"),
            ("x-total-running" = usize,
                description = "on all pages together, where those that run were asked for"),
        )),
        InvalidQuery,
    ))]
async fn list_v2(
    State(gateway): State<Gateway>,
    parameters: Parameters,
) -> Result<(HeaderMap, Json<Vec<Listed>>), ApiError> {
    let query = Query::parse(&parameters)?;
    let mut headers = HeaderMap::new();
    let found = find(&gateway, query.states, &query.filter, query.order);
    if query.states.running {
        let running = found.iter().filter(|sandbox| sandbox.phase() == Phase::Running);
        headers.insert("x-total-running", HeaderValue::from(running.count()));
    }

    let start =
        query.after.map_or(0, |cursor| found.partition_point(|sandbox| !cursor.is_before(sandbox)));
    let page = &found[start..found.len().min(start + query.limit)];
    if start + page.len() < found.len()
        && let Some(last) = page.last()
        && let Ok(token) = HeaderValue::try_from(Cursor::at(last, query.order).token())
    {
        headers.insert("x-next-token", token);
    }
    let page = page.iter().filter_map(|sandbox| Listed::new(&gateway, sandbox)).collect();
    Ok((headers, Json(page)))
}

#[derive(Default)]
struct Filter {
    metadata: BTreeMap<String, String>,
    template: Option<String>,
    started_after: Option<DateTime<Utc>>,
}

impl Filter {
    fn admits(&self, sandbox: &Sandbox) -> bool {
        let facts = sandbox.facts();
        self.metadata.iter().all(|(key, value)| facts.metadata.get(key) == Some(value))
            && self.template.as_ref().is_none_or(|template| *template == facts.template.id)
            && self.started_after.is_none_or(|start| facts.started_at >= start)
    }
}

fn find(gateway: &Gateway, states: States, filter: &Filter, order: Order) -> Vec<Arc<Sandbox>> {
    let mut found = gateway.sandboxes().registry().all_present();
    found.retain(|sandbox| states.admit(sandbox.phase()) && filter.admits(sandbox));
    found.sort_by_key(|sandbox| (sandbox.facts().started_at, sandbox.id()));
    if order == Order::Descending {
        found.reverse();
    }
    found
}

impl Cursor {
    fn at(sandbox: &Sandbox, order: Order) -> Self {
        Self { started_at: sandbox.facts().started_at, id: sandbox.id(), order }
    }

    /// Whether `sandbox` belongs on a later page.
    fn is_before(&self, sandbox: &Sandbox) -> bool {
        let here = (self.started_at, self.id);
        let there = (sandbox.facts().started_at, sandbox.id());
        match self.order {
            Order::Ascending => here < there,
            Order::Descending => here > there,
        }
    }
}

/// Which are asked for.
#[derive(Clone, Copy)]
struct States {
    running: bool,
    paused: bool,
}

impl States {
    fn admit(self, phase: Phase) -> bool {
        if phase == Phase::Running { self.running } else { self.paused }
    }
}

struct Query {
    states: States,
    filter: Filter,
    order: Order,
    limit: usize,
    after: Option<Cursor>,
}

impl Query {
    fn parse(parameters: &Parameters) -> Result<Self, ApiError> {
        let order = match parameters.take("order").as_deref() {
            None | Some("desc") => Order::Descending,
            Some("asc") => Order::Ascending,
            Some(_) => return Err(ApiError::bad_request("order must be asc or desc")),
        };
        let after = parameters.text("nextToken").map(|token| Cursor::parse(&token, order));
        let started_after = parameters.take("startedAfter").map(|text| {
            let time = DateTime::parse_from_rfc3339(&text).map(|time| time.with_timezone(&Utc));
            time.map_err(|_| ApiError::bad_request("startedAfter must be an RFC 3339 time"))
        });
        Ok(Self {
            states: states(parameters)?,
            filter: Filter {
                metadata: metadata(parameters)?,
                template: parameters.text("template").map(|name| template_id(&name)),
                started_after: started_after.transpose()?,
            },
            order,
            limit: limit(parameters)?,
            after: after.transpose()?,
        })
    }
}

/// Both, unless the query says which.
fn states(parameters: &Parameters) -> Result<States, ApiError> {
    let Some(text) = parameters.take("state") else {
        return Ok(States { running: true, paused: true });
    };
    let mut states = States { running: false, paused: false };
    for state in text.split(',') {
        match state {
            "running" => states.running = true,
            "paused" => states.paused = true,
            _ => return Err(ApiError::bad_request("state must be running, paused or both")),
        }
    }
    Ok(states)
}

fn metadata(parameters: &Parameters) -> Result<BTreeMap<String, String>, ApiError> {
    let text = parameters.text("metadata");
    text.map_or(Ok(BTreeMap::new()), |text| metadata_filter(&text))
}

/// Names are told apart without case and without the tag that all have.
fn template_id(name: &str) -> String {
    let name = name.trim().to_lowercase();
    name.strip_suffix(":default").map(str::to_owned).unwrap_or(name)
}

/// The limit that a query asks for.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn asked(mut parts: axum::http::request::Parts) -> Result<usize, ApiError> {
    use axum::extract::FromRequestParts;
    use futures_util::FutureExt;

    let read = Parameters::from_request_parts(&mut parts, &()).now_or_never();
    Query::parse(&read.expect("nothing is waited for")?).map(|query| query.limit)
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use proptest::prelude::*;

    use super::{super::page::MOST, *};

    fn limit(query: &str) -> Result<usize, ApiError> {
        let request = Request::get(format!("/v2/sandboxes?{query}")).body(()).unwrap();
        asked(request.into_parts().0)
    }

    proptest! {
        #[test]
        fn no_query_breaks_or_asks_for_too_much(
            pairs in prop::collection::vec(
                ("(limit|order|state|nextToken|metadata|startedAfter|template|x)", "[a-z0-9%&=,:TZ_.-]{0,24}"),
                0..5,
            ),
        ) {
            let query: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
            if let Ok(limit) = limit(&query.join("&")) {
                prop_assert!((1..=MOST).contains(&limit));
            }
        }

        #[test]
        fn a_limit_is_taken_as_it_is_or_refused(given: i32) {
            let taken = limit(&format!("limit={given}")).ok();
            let allowed = usize::try_from(given).ok().filter(|given| (1..=MOST).contains(given));
            prop_assert_eq!(taken, allowed);
        }
    }
}
