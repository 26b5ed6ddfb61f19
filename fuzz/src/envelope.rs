//! Connect envelopes, in both codecs and cut anywhere: every stream ends with its end frame.

use std::{convert::Infallible, sync::LazyLock};

use axum::body::to_bytes;
use bytes::{Buf, Bytes};
use envd::fuzzing;
use http::Request;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));

use crate::parts;

pub(crate) fn target(bytes: &[u8]) {
    let Some((proto, cut, body)) = parts::<(bool, u8, &[u8])>(bytes) else { return };
    let kind = if proto { "application/connect+proto" } else { "application/connect+json" };
    let mut rest = Bytes::copy_from_slice(body);
    let first = rest.split_to(usize::from(cut).min(rest.len()));
    let body = fuzzing::body([first, rest].map(Ok::<_, Infallible>));
    // A method that starts nothing: reading comes first whatever the method.
    let request = Request::post("/process.Process/Connect").header("content-type", kind).body(body);
    let answer = RUNTIME.block_on(async {
        let answer = fuzzing::ask(request.expect("a request")).await;
        assert_eq!(answer.status(), 200);
        to_bytes(answer.into_body(), 1 << 20).await.expect("a body")
    });
    end(answer);
}

fn end(mut body: Bytes) {
    loop {
        let (flag, length) = (body.get_u8(), body.get_u32() as usize);
        let message = body.split_to(length);
        if body.is_empty() {
            assert_eq!(flag, 2);
            let end: serde_json::Value = serde_json::from_slice(&message).expect("JSON");
            assert!(end["error"]["code"].is_string());
            return;
        }
    }
}
