//! Requests from nobody's client: any bytes in the place of envelopes, messages and forms.
//!
//! Only methods that change nothing are asked, since some bytes are a request.

use std::{convert::Infallible, fs, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use bytes::{Buf, Bytes};
use futures_util::stream;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, time::timeout};
use tower::ServiceExt;

use crate::{filesystem::tests::directory, server::router, state::Envd};

/// More than any answer here may have.
const MOST: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The status and the body of the answer; the request's body comes in pieces of those sizes.
async fn send(target: &str, kind: &str, body: &[u8], pieces: &[usize]) -> (u16, Bytes) {
    let mut rest = Bytes::copy_from_slice(body);
    let mut chunks = Vec::new();
    for piece in pieces {
        chunks.push(rest.split_to((*piece).min(rest.len())));
    }
    chunks.push(rest);
    let body = Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, Infallible>)));
    let request = Request::post(target).header("content-type", kind).body(body).unwrap();
    let answer = async {
        let answer = router(Envd::in_no_sandbox()).oneshot(request).await.unwrap();
        (answer.status().as_u16(), to_bytes(answer.into_body(), MOST).await.unwrap())
    };
    timeout(PATIENCE, answer).await.expect("an answer in time")
}

fn envelope(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag], &length[..], message].concat()
}

/// The last envelope of a stream, which has to be whole and to say that it is the last.
fn end(mut body: Bytes) -> Value {
    loop {
        let (flag, length) = (body.get_u8(), body.get_u32() as usize);
        let message = body.split_to(length);
        if body.is_empty() {
            assert_eq!(flag, 2, "{message:?}");
            return serde_json::from_slice(&message).unwrap();
        }
    }
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..30_usize, 0..8)
}

#[test]
fn an_envelope_is_read_however_it_is_cut() {
    let runtime = runtime();
    proptest!(|(name in "[a-z]{1,30}", pieces in pieces())| {
        let message = json!({"process": {"cmd": format!("/no/such/{name}")}, "stdin": false});
        let body = envelope(0, message.to_string().as_bytes());
        let kind = "application/connect+json";
        let (status, body) = runtime.block_on(send("/process.Process/Start", kind, &body, &pieces));
        prop_assert_eq!(status, 200);
        let error = &end(body)["error"];
        prop_assert_eq!(&error["code"], "invalid_argument");
        prop_assert!(error["message"].as_str().unwrap().contains(&name), "{}", error);
    });
}

#[test]
fn no_envelopes_break_a_stream_or_leave_it_without_an_end() {
    let runtime = runtime();
    let message = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        "[{}\\[\\]\":,a-z0-9\\\\]{0,40}".prop_map(String::into_bytes),
        Just(br#"{"process":{"cmd":"/no/such"}}"#.to_vec()),
    ];
    // The flags of data, compressed and last, and any.
    let flag = prop_oneof![Just(0), Just(1), Just(2), any::<u8>()];
    let envelopes = prop::collection::vec((flag, message), 0..4);
    let length = prop_oneof![Just(0), Just(u32::MAX), Just(17 << 20), any::<u32>()];
    proptest!(|(envelopes in envelopes, length in prop::option::of(length), proto: bool, pieces in pieces())| {
        let mut body: Vec<u8> =
            envelopes.iter().flat_map(|(flag, message)| envelope(*flag, message)).collect();
        // A length that is not that of what follows.
        if let Some(place) = body.get_mut(1..5)
            && let Some(length) = length
        {
            place.copy_from_slice(&length.to_be_bytes());
        }
        let kind = if proto { "application/connect+proto" } else { "application/connect+json" };
        let (status, body) = runtime.block_on(send("/process.Process/Start", kind, &body, &pieces));
        prop_assert_eq!(status, 200);
        prop_assert!(end(body)["error"]["code"].is_string());
    });
}

const METHODS: &[&str] =
    &["filesystem.Filesystem/Stat", "process.Process/List", "process.Process/Nothing"];

#[test]
fn no_message_breaks_a_call() {
    let runtime = runtime();
    let json = prop_oneof![
        "\\PC{0,60}",
        "\\{\"(path|process|depth|x)\":[\\[\\]{}\"a-z0-9/.-]{0,30}\\}",
        (0..200_usize).prop_map(|depth| "[".repeat(1000 * depth)),
    ];
    proptest!(|(json in json, bytes: Vec<u8>, proto: bool, method in prop::sample::select(METHODS))| {
        let (kind, body) = match proto {
            true => ("application/proto", &bytes[..]),
            false => ("application/json", json.as_bytes()),
        };
        let (status, _) = runtime.block_on(send(&format!("/{method}"), kind, body, &[]));
        prop_assert!(status == 200 || (400..500).contains(&status) || status == 501, "{}", status);
    });
}

#[test]
fn a_form_is_read_however_it_is_cut() {
    let (runtime, home) = (runtime(), directory());
    let file = home.path().join("file");
    proptest!(|(content: Vec<u8>, boundary in "[a-zA-Z0-9'_-]{1,40}", pieces in pieces())| {
        let head = "Content-Disposition: form-data; name=\"file\"; filename=\"x\"";
        let mut body = format!("--{boundary}\r\n{head}\r\n\r\n").into_bytes();
        body.extend_from_slice(&content);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let (target, kind) = form(&file, &boundary);
        let (status, said) = runtime.block_on(send(&target, &kind, &body, &pieces));
        prop_assert_eq!(status, 200, "{:?}", said);
        prop_assert_eq!(fs::read(&file).unwrap(), content);
    });
}

const PARTS: &[&str] = &[
    "--b",
    "--",
    "\r\n",
    "Content-Disposition: form-data; name=\"file\"; filename=\"/a/../b\"",
    "Content-Disposition: form-data; name=file; filename*=UTF-8''%2Fx",
    "Content-Disposition: \u{fffd}; =\"",
    "Content-Type: text/plain",
    "content",
];

#[test]
fn no_form_breaks_or_writes_elsewhere() {
    let (runtime, home) = (runtime(), directory());
    let file = home.path().join("file");
    let part = prop_oneof![
        8 => prop::sample::select(PARTS).prop_map(|part| part.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    proptest!(|(parts in prop::collection::vec(part, 0..20), pieces in pieces())| {
        let (target, kind) = form(&file, "b");
        let (status, _) = runtime.block_on(send(&target, &kind, &parts.concat(), &pieces));
        prop_assert!(status == 200 || status == 400, "{}", status);
        let found = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name());
        prop_assert!(found.into_iter().all(|name| name == "file"));
    });
}

fn form(file: &std::path::Path, boundary: &str) -> (String, String) {
    let path = percent_encoding::utf8_percent_encode(
        file.to_str().unwrap(),
        percent_encoding::NON_ALPHANUMERIC,
    );
    (format!("/files?path={path}"), format!("multipart/form-data; boundary=\"{boundary}\""))
}
