//! Forms of files, and the names in them.

use std::{convert::Infallible, sync::LazyLock};

use bytes::Bytes;
use envd::fuzzing;
use http::Request;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));

use crate::parts;

pub(crate) fn target(bytes: &[u8]) {
    let Some((cut, body)) = parts::<(u8, &[u8])>(bytes) else { return };
    fuzzing::disposition(body);
    let mut rest = Bytes::copy_from_slice(body);
    let first = rest.split_to(usize::from(cut).min(rest.len()));
    let body = fuzzing::body([first, rest].map(Ok::<_, Infallible>));
    // The query's path wins over all names in the form.
    let request = Request::post("/files?path=/dev/null/never")
        .header("content-type", "multipart/form-data; boundary=b")
        .body(body)
        .expect("a request");
    let status = RUNTIME.block_on(fuzzing::ask(request)).status().as_u16();
    assert!((400..500).contains(&status), "{status}");
}
