//! The code interpreter's port, which is envd's where the template has kernels.

use axum::{Router, http::HeaderMap, routing::any};
use envd::wire::{CODE_HEADER, CODE_PORT};

use super::*;
use crate::sandbox::testing;

/// Says who was asked, and what the request says of itself.
fn who(name: &'static str) -> Router {
    Router::new().fallback(any(async move |headers: HeaderMap| {
        let has = |header: &str| if headers.contains_key(header) { "+" } else { "-" };
        let said = [CODE_HEADER, "x-access-token", "x-forwarded-for"].map(has).concat();
        format!("{name} {said}")
    }))
}

async fn world(kernels: bool) -> World {
    let world = World::new().await;
    let template = crate::template::Template { kernels, ..testing::template() };
    let dir = world.dir.path();
    world.registry.readmit(testing::sandbox_of(template, world.id, dir, TOKEN));
    world.envd(who("envd"));
    world.port(CODE_PORT, who("user"));
    world
}

#[tokio::test]
async fn where_there_are_kernels_envd_answers_without_a_token() {
    let world = world(true).await;
    let headers = format!("X-Access-Token: {TOKEN}\r\nCoppice-Code: forged\r\n");
    for headers in ["", &headers] {
        let mut client = world.send(CODE_PORT, "GET / HTTP/1.1", headers).await;
        assert_eq!(client.answer().await.body, "envd +--");
    }
    // What is internal there is no path of this port.
    assert_eq!(world.ask(CODE_PORT, "POST /init HTTP/1.1").await.body, "envd +--");
}

#[tokio::test]
async fn where_there_are_none_the_port_is_the_users() {
    let world = world(false).await;
    let headers = format!("X-Access-Token: {TOKEN}\r\nCoppice-Code: own\r\n");
    let mut client = world.send(CODE_PORT, "GET / HTTP/1.1", &headers).await;
    assert_eq!(client.answer().await.body, "user +-+");
}

#[tokio::test]
async fn no_request_to_another_port_passes_for_one_to_it() {
    let world = world(true).await;
    let mut client = world.send(49983, "GET / HTTP/1.1", "Coppice-Code: 1\r\n").await;
    assert_eq!(client.answer().await.body, "envd ---");
    let mut client = world.send(49983, "POST /warm HTTP/1.1", "").await;
    assert_eq!(client.answer().await.status, 404);
}

#[tokio::test]
async fn a_client_that_closes_its_half_is_gone_at_once() {
    for (port, patient) in [(CODE_PORT, false), (8080, true)] {
        let world = World::new().await;
        let template = crate::template::Template { kernels: true, ..testing::template() };
        let sandbox = testing::sandbox_of(template, world.id, world.dir.path(), TOKEN);
        world.registry.readmit(sandbox);
        let (feed, body) = channel();
        let body = Arc::new(parking_lot::Mutex::new(Some(body)));
        let endless = Router::new()
            .fallback(any(async move || body.lock().take().expect("it is asked once")));
        world.envd(endless.clone());
        world.port(8080, endless);

        let mut client = world.send(port, "POST /execute HTTP/1.1", "").await;
        client.head().await;
        client.stream.shutdown().await.unwrap();
        let gone = timeout(Duration::from_secs(2), feed.closed()).await;
        assert_eq!(gone.is_err(), patient, "port {port}");
    }
}
