//! The server that is proxied to, by us and by nginx: `GET /N` has N bytes.
//!
//! It is a part of this program so that the very same can run inside a sandbox and outside.

use std::{convert::Infallible, net::SocketAddr};

use anyhow::Context;
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::{client::Payload, load::SEED};

const MOST: u64 = 1 << 30;

/// Says on stdout where it listens, then answers for ever.
pub(crate) async fn answer(listen: SocketAddr) -> anyhow::Result<Infallible> {
    let listener = TcpListener::bind(listen).await.with_context(|| listen.to_string())?;
    println!("{}", listener.local_addr()?);
    let bytes = Payload::random(MOST, SEED);
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        stream.set_nodelay(true).context("nodelay")?;
        let body = bytes.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = respond(&request, &body);
                async { Ok::<_, Infallible>(answer) }
            });
            // A client that goes away is no matter here.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn respond(request: &Request<Incoming>, body: &Payload) -> Response<Payload> {
    match request.uri().path()[1..].parse::<u64>() {
        Ok(length) if length <= MOST => Response::new(body.clone().cut(length)),
        _ => {
            let mut answer = Response::new(Payload::empty());
            *answer.status_mut() = StatusCode::NOT_FOUND;
            answer
        }
    }
}
