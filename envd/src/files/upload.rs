//! `POST /files`: one file as the body, or any number as a form. Nothing is held whole.

use std::{
    collections::HashSet,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use async_compression::tokio::bufread::GzipDecoder;
use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use serde::Serialize;
use tokio_util::io::{ReaderStream, StreamReader};

use super::{Asked, bad_request, form::Disposition, sink::Sink};
use crate::{
    filesystem::{
        entry::text,
        metadata::{self, Metadata},
    },
    rest::RestError,
    wire::{self, Detail, Of, What},
};

/// Decompressed at once (bytes).
const CHUNK: usize = 128 << 10;

/// Bytes of a form that may come without being part of any file: headers, that is.
const MAX_BETWEEN: usize = 4 << 20;

/// Files in one form.
const MAX_FILES: usize = 10_000;

const METADATA_HEADER: &str = "x-metadata-";

/// An attribute's name, namespace included, has at most 255 bytes.
const MAX_KEY: usize = 255 - metadata::NAMESPACE.len();

/// One file of the answer.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    path: String,
    name: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
}

type Chunks = BoxStream<'static, std::io::Result<Bytes>>;

pub(super) async fn upload(
    asked: &Asked,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<Written>, RestError> {
    let metadata = metadata_of(headers)?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default();
    let media = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/octet-stream" => {
            let path = asked.path.as_deref().filter(|path| !path.is_empty());
            let path = path.ok_or_else(|| {
                bad_request("the path query parameter is required with application/octet-stream")
            })?;
            let mut chunks = decoded(headers, body)?;
            let mut receiving = Receiving::start(asked, asked.resolve(path)?, &metadata);
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|error| broken_body(&error))?;
                receiving.sink.write(chunk).await?;
            }
            Ok(vec![receiving.finish(asked).await?])
        }
        "multipart/form-data" => {
            let boundary = multer::parse_boundary(kind)
                .map_err(|error| bad_request(format!("error parsing the form: {error}")))?;
            form(asked, &boundary, decoded(headers, body)?, &metadata).await
        }
        _ => Err(bad_request(format!(
            "unsupported content type '{kind}': use multipart/form-data or application/octet-stream"
        ))),
    }
}

async fn form(
    asked: &Asked,
    boundary: &str,
    chunks: Chunks,
    metadata: &Metadata,
) -> Result<Vec<Written>, RestError> {
    let between = Arc::new(AtomicUsize::new(0));
    let paced = Paced { chunks, between: between.clone(), rest: false };
    let mut form = multer::Multipart::new(paced, boundary);
    let mut written = Vec::new();
    let mut paths = HashSet::new();
    while let Some(mut part) = form.next_field().await.map_err(|error| broken_form(&error))? {
        between.store(0, Ordering::Relaxed);
        let disposition = part.headers().get(header::CONTENT_DISPOSITION);
        let disposition =
            disposition.map_or_else(Default::default, |value| Disposition::parse(value.as_bytes()));
        let mut receiving = None;
        if disposition.name.as_deref() == Some("file") {
            let path = destination(asked, disposition.filename)?;
            if !paths.insert(path.clone()) {
                return Err(bad_request(format!(
                    "you cannot upload multiple files to the same path '{}' in one upload \
                     request, only the first specified file was uploaded",
                    path.display()
                )));
            }
            if paths.len() > MAX_FILES {
                return Err(bad_request(format!("more than {MAX_FILES} files in one request")));
            }
            receiving = Some(Receiving::start(asked, path, metadata));
        }
        while let Some(chunk) = part.chunk().await.map_err(|error| broken_form(&error))? {
            between.store(0, Ordering::Relaxed);
            if let Some(receiving) = &mut receiving {
                receiving.sink.write(chunk).await?;
            }
        }
        if let Some(receiving) = receiving {
            written.push(receiving.finish(asked).await?);
        }
    }
    if written.is_empty() {
        return Err(bad_request("the form has no part named 'file'"));
    }
    Ok(written)
}

/// The query's path wins, so that it fits one file only: a second one would have the same path.
fn destination(asked: &Asked, filename: Option<String>) -> Result<PathBuf, RestError> {
    let mut named = [asked.path.clone(), filename].into_iter().flatten();
    let named = named.find(|path| !path.is_empty());
    asked.resolve(&named.ok_or_else(|| bad_request("a part named 'file' has no file name"))?)
}

/// One file on its way to disk.
struct Receiving {
    sink: Sink,
    written: Written,
}

impl Receiving {
    fn start(asked: &Asked, path: PathBuf, metadata: &Metadata) -> Self {
        let written = Written {
            path: text(&path),
            name: path.file_name().map(|name| text(name.as_ref())).unwrap_or_default(),
            r#type: "file",
            metadata: metadata.clone(),
        };
        let sink = Sink::new(path, asked.user.clone(), metadata.clone());
        Self { sink, written }
    }

    async fn finish(self, asked: &Asked) -> Result<Written, RestError> {
        let (bytes, created) = self.sink.finish().await?;
        let of = Of::Written { path: wire::text(&self.written.path), created };
        asked.envd.reports.tell(What::FileWritten { bytes }, &Detail { trace: asked.trace, of });
        Ok(self.written)
    }
}

/// The body without its content encoding.
fn decoded(headers: &HeaderMap, body: Body) -> Result<Chunks, RestError> {
    let chunks = body.into_data_stream().map(|chunk| chunk.map_err(std::io::Error::other));
    let encoding = headers.get(header::CONTENT_ENCODING).map_or(Ok(""), |value| value.to_str());
    match encoding.map(|encoding| encoding.trim().to_ascii_lowercase()).as_deref() {
        Ok("" | "identity") => Ok(chunks.boxed()),
        Ok("gzip" | "x-gzip") => {
            let mut decoder = GzipDecoder::new(StreamReader::new(chunks));
            decoder.multiple_members(true);
            Ok(ReaderStream::with_capacity(decoder, CHUNK).boxed())
        }
        _ => Err(bad_request("unsupported Content-Encoding, supported: gzip, identity")),
    }
}

fn broken_body(error: &std::io::Error) -> RestError {
    bad_request(format!("error reading the request body: {error}"))
}

fn broken_form(error: &multer::Error) -> RestError {
    let mut text = format!("error reading the form: {error}");
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    bad_request(text)
}

/// Gives a form's reader one chunk per turn and nothing endless to look through.
///
/// The reader takes all that is ready into memory before it looks; a fast client would decide
/// how much that is.
struct Paced {
    chunks: Chunks,
    /// Bytes since the reader last made something of them.
    between: Arc<AtomicUsize>,
    /// The next turn passes without a chunk.
    rest: bool,
}

impl Stream for Paced {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.rest) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.chunks.poll_next_unpin(cx);
        if let Poll::Ready(Some(Ok(chunk))) = &polled {
            self.rest = true;
            let since = self.between.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len();
            if since > MAX_BETWEEN + chunk.len() {
                let text = "the form's headers are too long";
                return Poll::Ready(Some(Err(std::io::Error::other(text))));
            }
        }
        polled
    }
}

/// Every `X-Metadata-<key>` header.
fn metadata_of(headers: &HeaderMap) -> Result<Metadata, RestError> {
    let mut found = Metadata::new();
    let mut total = 0;
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(METADATA_HEADER) else { continue };
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(bad_request(format!(
                "metadata key '{key}' must have 1 to {MAX_KEY} bytes"
            )));
        }
        let value = value.as_bytes();
        if !value.iter().all(|byte| (0x20..=0x7e).contains(byte)) {
            let text = format!("the value of metadata key '{key}' must be printable ASCII");
            return Err(bad_request(text));
        }
        total += metadata::NAMESPACE.len() + key.len() + value.len();
        // The first of several wins.
        found.entry(key.to_owned()).or_insert_with(|| String::from_utf8_lossy(value).into_owned());
    }
    if total > metadata::MAX_TOTAL {
        let text = format!("metadata has {total} bytes, more than {}", metadata::MAX_TOTAL);
        return Err(RestError::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)]) -> Result<Metadata, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = header::HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, header::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        metadata_of(&map).map_err(|error| error.message)
    }

    #[test]
    fn metadata_keys_are_lower_case_and_bounded() {
        let found = check(&[("X-Metadata-Author", "me"), ("Other", "x")]).unwrap();
        assert_eq!(found, Metadata::from([("author".into(), "me".into())]));
        let key = |length: usize| format!("x-metadata-{}", "k".repeat(length));
        assert!(check(&[(&key(246), "v")]).is_ok());
        assert!(check(&[(&key(247), "v")]).is_err());
        assert!(check(&[("x-metadata-", "v")]).is_err());
        assert!(check(&[("x-metadata-k", "ü")]).is_err());
        assert!(check(&[("x-metadata-k", &"v".repeat(4096 - 10))]).is_ok());
        assert!(check(&[("x-metadata-k", &"v".repeat(4096 - 9))]).is_err());
    }
}
