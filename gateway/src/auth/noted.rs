//! A request that changes something, for the audit trail.

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
    response::Response,
};
use chrono::Utc;
use percent_encoding::percent_decode_str;

use super::Caller;
use crate::{
    Gateway,
    audit::{Audit, Entry, Made},
    serve::Line,
};

/// Noted when it is dropped: what a client asked for goes on when it hangs up.
pub(super) struct Noted {
    audit: Audit,
    entry: Option<Entry>,
}

impl Noted {
    pub(super) fn new(gateway: &Gateway, caller: &Caller, request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let entry = Entry {
            at: Utc::now(),
            key: caller.key().map(str::to_owned),
            tenant: caller.tenant().clone(),
            source: request.extensions().get::<Line>().map(Line::peer),
            method: name(request.method()),
            object: object(route, request.uri().path()),
            route: route.to_owned(),
            made: Vec::new(),
            status: 0,
            times: 1,
        };
        Self { audit: gateway.audit().clone(), entry: Some(entry) }
    }

    pub(super) fn answered(&mut self, answer: &Response) {
        if let Some(entry) = &mut self.entry {
            entry.status = answer.status().as_u16();
            if let Some(Made(made)) = answer.extensions().get() {
                entry.made.clone_from(made);
            }
        }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.audit.note(entry);
        }
    }
}

/// Of a method that there are routes for.
fn name(method: &Method) -> &'static str {
    let known = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let names = ["POST", "PUT", "PATCH", "DELETE"];
    let found = known.iter().zip(names).find(|(known, _)| *known == method);
    found.map_or("other", |(_, name)| name)
}

/// What stands in a path where its route has `{`.
fn object(route: &str, path: &str) -> Option<String> {
    let at = route.split('/').position(|segment| segment.starts_with('{'))?;
    let segment = path.split('/').nth(at)?;
    Some(percent_decode_str(segment).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_names_stands_where_its_route_has_a_name() {
        assert_eq!(object("/sandboxes/{id}/pause", "/sandboxes/ab/pause").as_deref(), Some("ab"));
        assert_eq!(
            object("/templates/{id}", "/templates/a%3Ab%ff").as_deref(),
            Some("a:b\u{fffd}")
        );
        assert_eq!(object("/sandboxes", "/sandboxes"), None);
    }
}
