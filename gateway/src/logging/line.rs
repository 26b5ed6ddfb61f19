//! What a line looks like: as `tracing_subscriber` writes it, with the request that it is about.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Json, Writer},
    },
    registry::LookupSpan,
};

use super::request::{self, Ids};

/// Of text. Each record begins with a time at the beginning of a line and nothing else does, so that
/// no text that came from elsewhere can pass for one.
pub(super) struct Plain(pub(super) Format<Full>);

/// Of JSON, one object a line.
pub(super) struct Objects(pub(super) Format<Json>);

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        out.write_str(&plain(&text, request::current()))
    }
}

impl<S, N> FormatEvent<S, N> for Objects
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        out.write_str(&object(text, request::current()))
    }
}

fn plain(text: &str, ids: Option<Ids>) -> String {
    let mut parts = text.trim_end().split(['\n', '\r']).filter(|part| !part.is_empty());
    let mut whole = parts.next().unwrap_or_default().to_owned();
    // Behind the first: there whoever searches finds it with the time and the level.
    if let Some(ids) = ids {
        whole += &format!(" {ids}");
    }
    for part in parts {
        whole += "\n    ";
        whole += part;
    }
    whole.push('\n');
    whole
}

fn object(mut text: String, ids: Option<Ids>) -> String {
    if let Some(ids) = ids
        && let Some(end) = text.rfind('}')
    {
        text.truncate(end);
        text += &format!(",{}}}\n", ids.members());
    }
    text
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use serde_json::Value;

    use super::*;

    fn ids() -> Option<Ids> {
        let mut headers = HeaderMap::new();
        headers.insert("x-request-id", HeaderValue::from_static("req-1"));
        let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", HeaderValue::from_static(trace));
        Some(Ids::of(&headers))
    }

    #[test]
    fn lines_of_text_say_whose_they_are_and_nothing_else_begins_where_they_do() {
        assert_eq!(plain("then INFO a: b c=d\n", None), "then INFO a: b c=d\n");
        let trace = "trace_id=4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(plain("a: b\n", ids()), format!("a: b request_id=req-1 {trace}\n"));
        let forged = "a: b\n2026-01-01T00:00:00Z ERROR all is lost\r\n\n\n";
        let whole = plain(forged, ids());
        assert_eq!(
            whole,
            format!("a: b request_id=req-1 {trace}\n    2026-01-01T00:00:00Z ERROR all is lost\n")
        );
    }

    #[test]
    fn objects_have_it_as_members_of_their_own() {
        let text = "{\"level\":\"INFO\",\"fields\":{\"message\":\"}\\n\"}}\n";
        let whole = object(text.to_owned(), ids());
        assert!(whole.ends_with("}\n"));
        let whole: Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(whole["request_id"], "req-1");
        assert_eq!(whole["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(whole["fields"]["message"], "}\n");
        assert_eq!(object(text.to_owned(), None), text);
    }
}
