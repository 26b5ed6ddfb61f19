//! What is left of a request's body when its answer is ready before it.
//!
//! An answer sent while the client still writes is lost to it when the connection is then closed:
//! its next write fails, and it looks no further. So a little more is read first, as servers of
//! other languages do; not more, since nobody wants it. Forms are left before their very last
//! bytes, and refusals before all of it.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use bytes::{Buf as _, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{sync::oneshot, time::timeout};

/// A client that has more to say than this meets a closed connection (bytes).
const MOST: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(2);

/// A layer: reads what the handler has left.
pub async fn read_rest(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (back, mut left) = oneshot::channel();
    let response = next.run(request.map(|body| Body::new(Lent { body, back: Some(back) }))).await;
    // It is not there when the handler reads on while it answers.
    if let Ok(body) = left.try_recv() {
        discard(body).await;
    }
    response
}

/// Reads a body that nobody has a use for to its end, if that is near.
pub async fn discard<B: HttpBody<Data: Send> + Unpin>(mut body: B) {
    let rest = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, |data| data.remaining());
            if seen > MOST {
                break;
            }
        }
    };
    // Late or not, the answer is sent.
    let _ = timeout(PATIENCE, rest).await;
}

/// A body that comes back to its lender when it is dropped.
struct Lent {
    body: Body,
    back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.back = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // Nobody waits for it once the request has been answered.
            let _ = back.send(std::mem::take(&mut self.body));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use axum::{Router, body::to_bytes, middleware, routing::post};
    use futures_util::{StreamExt as _, stream};
    use tower::ServiceExt as _;

    use super::*;

    const BLOCK: usize = 1024;

    /// A body of so many blocks, and how many of them have been taken.
    fn blocks(count: usize) -> (Body, Arc<AtomicUsize>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counting = taken.clone();
        let blocks = stream::iter(0..count).map(move |_| {
            counting.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; BLOCK]))
        });
        (Body::from_stream(blocks), taken)
    }

    async fn refuse() -> &'static str {
        "no"
    }

    async fn post_to(app: Router, body: Body) -> Bytes {
        let request = Request::post("/").body(body).unwrap();
        let response = app.layer(middleware::from_fn(read_rest)).oneshot(request).await.unwrap();
        to_bytes(response.into_body(), usize::MAX).await.unwrap()
    }

    #[tokio::test]
    async fn a_refusal_comes_after_the_rest_of_a_small_body() {
        let (body, taken) = blocks(20);
        assert_eq!(post_to(Router::new().route("/", post(refuse)), body).await, "no");
        assert_eq!(taken.load(Ordering::Relaxed), 20);
    }

    #[tokio::test]
    async fn a_big_body_is_not_read_for_nothing() {
        let (body, taken) = blocks(100_000);
        assert_eq!(post_to(Router::new().route("/", post(refuse)), body).await, "no");
        assert_eq!(taken.load(Ordering::Relaxed), MOST / BLOCK + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_is_not_waited_for_long() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(post_to(Router::new().route("/", post(refuse)), body).await, "no");
    }

    #[tokio::test]
    async fn a_handler_that_reads_while_it_answers_has_the_body_for_itself() {
        let echo =
            |request: Request| async { Body::from_stream(request.into_body().into_data_stream()) };
        let (body, _) = blocks(1000);
        assert_eq!(post_to(Router::new().route("/", post(echo)), body).await.len(), 1000 * BLOCK);
    }
}
