//! The trace that a request belongs to, from where it comes in to whatever it makes happen.

use envd::trace::Traceparent;
use http::HeaderMap;

use super::TraceId;
use crate::logging::request;

/// As the request's `traceparent` names it; one that is none is as if it were not there.
pub fn of(headers: &HeaderMap) -> Option<TraceId> {
    let Traceparent { trace, .. } = Traceparent::of(headers)?;
    TraceId::new(trace.bytes())
}

/// That of the request which is being answered.
pub fn current() -> Option<TraceId> {
    request::current()?.trace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trace_is_that_of_the_request_that_is_answered() {
        let text = "4bf92f3577b34da6a3ce929d0e0e4736";
        let mut headers = HeaderMap::new();
        assert_eq!(of(&headers), None);
        let value = format!("00-{text}-00f067aa0ba902b7-01");
        headers.insert("traceparent", value.parse().unwrap());
        let trace = of(&headers);
        assert_eq!(trace.unwrap().to_string(), text);
        assert_eq!(current(), None);
        let ids = request::Ids::of(&headers);
        ids.scope(async { assert_eq!(current(), trace) }).await;
        headers.insert("traceparent", "00-0-0-0".parse().unwrap());
        assert_eq!(of(&headers), None);
    }
}
