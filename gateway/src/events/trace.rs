//! The trace that a request belongs to, from where it comes in to whatever it makes happen.

use envd::trace::Traceparent;
use http::HeaderMap;

use super::TraceId;

tokio::task_local! {
    static CURRENT: Option<TraceId>;
}

/// As the request's `traceparent` names it; one that is none is as if it were not there.
pub fn of(headers: &HeaderMap) -> Option<TraceId> {
    let Traceparent { trace, .. } = Traceparent::of(headers)?;
    TraceId::new(trace.bytes())
}

/// What is done in there belongs to that trace.
pub async fn within<F: Future>(trace: Option<TraceId>, work: F) -> F::Output {
    CURRENT.scope(trace, work).await
}

/// Of a task of its own, what is done in there belongs to the trace of whoever makes it.
pub fn carried<F: Future>(work: F) -> impl Future<Output = F::Output> {
    within(current(), work)
}

/// That of the request which is being answered.
pub fn current() -> Option<TraceId> {
    CURRENT.try_with(|trace| *trace).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_trace_is_that_of_the_request_also_in_the_tasks_it_makes() {
        let text = "4bf92f3577b34da6a3ce929d0e0e4736";
        let mut headers = HeaderMap::new();
        assert_eq!(of(&headers), None);
        let value = format!("00-{text}-00f067aa0ba902b7-01");
        headers.insert("traceparent", value.parse().unwrap());
        let trace = of(&headers);
        assert_eq!(trace.unwrap().to_string(), text);
        assert_eq!(current(), None);
        within(trace, async {
            assert_eq!(current(), trace);
            assert_eq!(tokio::spawn(carried(async { current() })).await.unwrap(), trace);
            assert_eq!(tokio::spawn(async { current() }).await.unwrap(), None);
        })
        .await;
        headers.insert("traceparent", "00-0-0-0".parse().unwrap());
        assert_eq!(of(&headers), None);
    }
}
