//! `GET /v2/sandboxes`, in pages, and its elder `GET /sandboxes`.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue},
};
use chrono::{DateTime, Utc};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    extract::Parameters,
    page::{Cursor, Order, Paging, metadata_filter},
    shape::Listed,
};
use crate::{
    Gateway,
    auth::Caller,
    error::{ApiError, InvalidQuery},
    sandbox::{Phase, Registry, Sandbox, Shelf, Tenant},
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
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<Vec<Listed>>, ApiError> {
    let filter = Filter { metadata: metadata(&parameters)?, ..Filter::default() };
    let running = Shelf::Running(caller.tenant().clone());
    let mut found = Vec::new();
    gateway.sandboxes().registry().visit(&running, true, None, |sandbox| {
        if sandbox.phase() == Phase::Running && filter.admits(sandbox) {
            found.push(sandbox.clone());
        }
        ControlFlow::Continue(())
    });
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
        Paging,
    ),
    responses(
        (status = 200, description = "one page", body = [Listed], headers(
            ("x-next-token" = String, description = "there is another page"),
            ("x-total-running" = usize,
                description = "on all pages together; on the first, where those that run were \
                    asked for"),
        )),
        InvalidQuery,
    ))]
async fn list_v2(
    State(gateway): State<Gateway>,
    caller: Caller,
    parameters: Parameters,
) -> Result<(HeaderMap, Json<Vec<Listed>>), ApiError> {
    let tenant = caller.tenant();
    let query = Query::parse(&parameters)?;
    let mut headers = HeaderMap::new();
    let registry = gateway.sandboxes().registry();
    // Counted once: what a page costs is not to grow with what is on the others.
    if query.states.running && query.after.is_none() {
        headers.insert("x-total-running", HeaderValue::from(query.running(registry, tenant)));
    }
    let page = query.page(registry, tenant);
    if page.more
        && let Some(last) = page.found.last()
        && let Ok(token) = HeaderValue::try_from(Cursor::at(last, query.order).token())
    {
        headers.insert("x-next-token", token);
    }
    let listed = page.found.iter().filter_map(|sandbox| Listed::new(&gateway, sandbox));
    Ok((headers, Json(listed.collect())))
}

#[derive(Default)]
struct Filter {
    metadata: BTreeMap<String, String>,
    template: Option<String>,
    started_after: Option<DateTime<Utc>>,
}

impl Filter {
    fn admits_all(&self) -> bool {
        self.metadata.is_empty() && self.template.is_none() && self.started_after.is_none()
    }

    fn admits(&self, sandbox: &Sandbox) -> bool {
        let (facts, metadata) = (sandbox.facts(), sandbox.metadata());
        self.metadata.iter().all(|(key, value)| metadata.get(key) == Some(value))
            && self.template.as_ref().is_none_or(|template| *template == facts.template.id)
            && self.started_after.is_none_or(|start| facts.started_at >= start)
    }
}

struct Page {
    found: Vec<Arc<Sandbox>>,
    more: bool,
    /// Sandboxes that were looked at for it.
    visited: usize,
}

impl Cursor {
    fn at(sandbox: &Sandbox, order: Order) -> Self {
        let (started_at, id) = sandbox.position();
        Self { started_at, id, order }
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

    /// Where those are that are in one of them.
    fn shelf(self, tenant: &Tenant) -> Shelf {
        let of = match (self.running, self.paused) {
            (true, false) => Shelf::Running,
            (false, true) => Shelf::Standing,
            _ => Shelf::Of,
        };
        of(tenant.clone())
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
    fn admits(&self, sandbox: &Sandbox) -> bool {
        self.states.admit(sandbox.phase()) && self.filter.admits(sandbox)
    }

    /// One page; looks at no sandbox of another tenant or state, nor at one of the pages before, nor
    /// at more than one of the next.
    fn page(&self, registry: &Registry, tenant: &Tenant) -> Page {
        let after = self.after.map(|cursor| (cursor.started_at, cursor.id));
        let mut page = Page { found: Vec::new(), more: false, visited: 0 };
        let shelf = self.states.shelf(tenant);
        registry.visit(&shelf, self.order == Order::Descending, after, |sandbox| {
            page.visited += 1;
            if !self.admits(sandbox) {
                return ControlFlow::Continue(());
            }
            page.more = page.found.len() == self.limit;
            if page.more {
                return ControlFlow::Break(());
            }
            page.found.push(sandbox.clone());
            ControlFlow::Continue(())
        });
        page
    }

    /// On all pages together.
    fn running(&self, registry: &Registry, tenant: &Tenant) -> usize {
        let all = Shelf::Running(tenant.clone());
        if self.filter.admits_all() {
            return registry.count(&all);
        }
        let mut running = 0;
        registry.visit(&all, false, None, |sandbox| {
            let counts = sandbox.phase() == Phase::Running && self.filter.admits(sandbox);
            running += usize::from(counts);
            ControlFlow::Continue(())
        });
        running
    }

    fn parse(parameters: &Parameters) -> Result<Self, ApiError> {
        let order = match parameters.take("order").as_deref() {
            None | Some("desc") => Order::Descending,
            Some("asc") => Order::Ascending,
            Some(_) => return Err(ApiError::bad_request("order must be asc or desc")),
        };
        let Paging { limit, token } = Paging::parse(parameters)?;
        let after = token.map(|token| Cursor::parse(&token, order));
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
            limit,
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
    // Which of a template's builds is not told of a sandbox.
    name.split_once(':').map_or_else(|| name.clone(), |(name, _)| name.to_owned())
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
    use crate::sandbox::{Facts, SandboxId, testing};

    fn limit(query: &str) -> Result<usize, ApiError> {
        let request = Request::get(format!("/v2/sandboxes?{query}")).body(()).unwrap();
        asked(request.into_parts().0)
    }

    fn add(registry: &Registry, tenant: &Tenant, started_at: DateTime<Utc>) -> Arc<Sandbox> {
        let (id, tenant) = (SandboxId::random(), tenant.clone());
        let facts = Facts { id, tenant, started_at, ..testing::facts() };
        let deadline = Utc::now() + chrono::Duration::seconds(600);
        let sandbox = Arc::new(Sandbox::new(facts, "/nowhere".into(), deadline));
        registry.readmit(sandbox.clone());
        sandbox
    }

    #[test]
    fn what_a_page_costs_does_not_grow_with_what_is_on_the_others_or_is_not_asked_for() {
        let registry = Registry::default();
        let began = Utc::now();
        let [ours, theirs]: [Tenant; 2] = ["ours", "theirs"].map(|name| name.parse().unwrap());
        for n in 0..5000 {
            let started_at = began + chrono::Duration::seconds(n / 3);
            let sandbox = add(&registry, &ours, started_at);
            if n % 20 == 0 {
                testing::pause(&sandbox);
            }
            add(&registry, &theirs, started_at);
        }
        let asked = [(true, true, 5000), (true, false, 4750), (false, true, 250)];
        for order in [Order::Ascending, Order::Descending] {
            for (running, paused, count) in asked {
                let states = States { running, paused };
                let mut after = None;
                let mut seen = Vec::new();
                loop {
                    let query =
                        Query { states, filter: Filter::default(), order, limit: 100, after };
                    let page = query.page(&registry, &ours);
                    assert!(page.visited <= 101, "{} for {}", page.visited, page.found.len());
                    assert!(page.found.iter().all(|sandbox| sandbox.facts().tenant == ours));
                    seen.extend(page.found.iter().map(|sandbox| sandbox.position()));
                    after = page.found.last().map(|last| Cursor::at(last, order));
                    if !page.more {
                        assert_eq!(query.running(&registry, &ours), 4750);
                        break;
                    }
                }
                assert_eq!(seen.len(), count);
                let ascends = order == Order::Ascending;
                assert!(seen.is_sorted_by(|a, b| if ascends { a < b } else { a > b }));
            }
        }
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
