//! Requests that meet a pause.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use axum::routing::any;
use tokio::sync::Notify;

use super::*;
use crate::sandbox::{Pausing, Phase, Reason};

/// A world whose port 8080 is open to all but the first who asks, who waits for ever.
struct Met {
    world: World,
    asked: Arc<Notify>,
}

async fn met(auto_resume: bool) -> Met {
    let world = World::new().await;
    let facts = world.sandbox().facts().clone();
    world.readmit(Facts { auto_resume, auto_pause: auto_resume, ..facts });
    let (asked, count) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let listener = world.bind("tunnel.sock");
    let told = asked.clone();
    world.accept(listener, move |mut stream| {
        let first = count.fetch_add(1, SeqCst) == 0;
        let told = told.clone();
        async move {
            assert_eq!(stream.read_u16().await.unwrap(), 8080);
            if first {
                told.notify_one();
                // Until the gateway gives it up.
                let _ = stream.read_u8().await;
                return;
            }
            let served = Router::new().fallback(any(async |body: String| format!("heard {body}")));
            serve_http(open_port(stream).await, served).await;
        }
    });
    Met { world, asked }
}

#[tokio::test]
async fn one_of_which_nothing_was_sent_waits_and_is_answered_once_the_sandbox_goes_on() {
    let Met { world, asked } = met(true).await;
    let mut client = world.send(8080, "POST / HTTP/1.1", "Content-Length: 3\r\n").await;
    client.write("you").await;
    asked.notified().await;
    world.sandboxes.pause(world.id, Pausing::default()).await.unwrap();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "heard you"));
    let status = world.sandbox().status();
    assert_eq!((status.phase, status.reason), (Phase::Running, Some(Reason::Traffic)));
}

#[tokio::test]
async fn one_to_a_sandbox_that_is_not_to_be_woken_may_be_sent_again() {
    let Met { world, asked } = met(false).await;
    let mut client = world.send(8080, "POST / HTTP/1.1", "Content-Length: 3\r\n").await;
    client.write("you").await;
    asked.notified().await;
    world.sandboxes.pause(world.id, Pausing::default()).await.unwrap();
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.body), (502, world.not_found()));
    assert!(!answer.head.contains("should-retry"), "{}", answer.head);
}
