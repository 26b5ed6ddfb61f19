//! `GET /files`.

use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, Seek as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_compression::tokio::bufread::GzipEncoder;
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use tokio::io::{AsyncRead, BufReader, ReadBuf};
use tokio_util::io::ReaderStream;

use super::{
    Asked, bad_request,
    encoding::{self, Encoding},
    internal,
    pieces::{self, Pieces},
    range::{self, Part},
    reader::Reader,
};
use crate::{os, rest::RestError};

/// Read from disk and handed on at once (bytes).
const CHUNK: usize = 128 << 10;

/// A file of no more than this is small (bytes).
const AT_ONCE: u64 = 64 << 10;

pub(super) async fn download(
    asked: &Asked,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, RestError> {
    let path = asked.resolve(asked.path.as_deref().unwrap_or_default())?;
    let conditional =
        [header::RANGE, header::IF_RANGE, header::IF_MODIFIED_SINCE, header::IF_NONE_MATCH]
            .iter()
            .any(|name| headers.contains_key(name));
    let accept = text(headers, header::ACCEPT_ENCODING);
    let encoding = encoding::choose(accept, conditional).map_err(|_| {
        let text = "error parsing Accept-Encoding: no acceptable encoding found, supported: gzip, identity";
        RestError::new(StatusCode::NOT_ACCEPTABLE, text)
    })?;

    // What is most likely wanted comes at once with the file.
    let eager = method == Method::GET && !conditional && encoding == Encoding::Identity;
    let opened = match eager.then(|| open_at_once(&path)).flatten() {
        Some(opened) => opened,
        None => {
            let path = path.clone();
            let opened = tokio::task::spawn_blocking(move || open(&path, eager)).await;
            opened.map_err(|error| internal(error.to_string()))??
        }
    };
    let Opened { file, found, length, first } = opened;
    let modified = modified(&found).map(http_date);

    let mut response = if not_modified(headers, &found) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let reader = (method == Method::GET).then(|| Reader::new(asked, &path)).transpose()?;
        let body = Contents { file, first, length, reader };
        match encoding {
            // Of an empty file clients rely on the length, which compressed it would not have.
            Encoding::Gzip if length != Some(0) => body.compressed(),
            Encoding::Gzip | Encoding::Identity => {
                // A range of a file that has changed since is of no use to the client.
                let same = match text(headers, header::IF_RANGE) {
                    Some(since) => modified.as_deref() == Some(since),
                    None => true,
                };
                let range = text(headers, header::RANGE).filter(|_| same);
                body.plain(range).map_err(|error| {
                    internal(format!("error reading file '{}': {error}", path.display()))
                })?
            }
        }
    };

    let answer = response.headers_mut();
    answer.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    answer.insert(header::CONTENT_DISPOSITION, disposition(&path));
    if let Some(modified) = modified.and_then(|date| HeaderValue::try_from(date).ok()) {
        answer.insert(header::LAST_MODIFIED, modified);
    }
    if response.status().is_success() {
        let kind = HeaderValue::from_static(content_type(&path));
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}

struct Opened {
    file: File,
    found: Metadata,
    /// `None` where only reading tells: files of /proc say that they are empty.
    length: Option<u64>,
    /// Some of its beginning.
    first: Vec<u8>,
}

/// A small file, where nobody has to be waited for: without a trip to another thread, which takes
/// longer than all else here. What the disk takes for so little, the others can wait.
fn open_at_once(path: &Path) -> Option<Opened> {
    let file = os::open_at_once(path)?;
    let found = file.metadata().ok()?;
    let length = found.len();
    if !found.is_file() || !(1..=AT_ONCE).contains(&length) {
        return None;
    }
    let first = pieces::read(&file, length, Vec::new()).ok()?;
    Some(Opened { file, found, length: Some(length), first })
}

/// Regular files only: anything else might answer never.
fn open(path: &Path, eager: bool) -> Result<Opened, RestError> {
    let shown = path.display();
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            RestError::new(StatusCode::NOT_FOUND, format!("path '{shown}' does not exist"))
        }
        _ => internal(format!("error opening file '{shown}': {error}")),
    };
    check(path, &std::fs::metadata(path).map_err(failed)?)?;
    // Should a pipe have come in its place, opening does not wait for the other end.
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    let file =
        OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    check(path, &found)?;
    let length = match found.len() {
        0 if file.read_at(&mut [0], 0).map_err(failed)? > 0 => None,
        length => Some(length),
    };
    let first = match length {
        Some(length) if eager => pieces::read(&file, length, Vec::new()).map_err(failed)?,
        _ => Vec::new(),
    };
    Ok(Opened { file, found, length, first })
}

fn check(path: &Path, found: &Metadata) -> Result<(), RestError> {
    let shown = path.display();
    if found.is_dir() {
        Err(bad_request(format!("path '{shown}' is a directory")))
    } else if !found.is_file() {
        Err(bad_request(format!("path '{shown}' is not a regular file")))
    } else {
        Ok(())
    }
}

struct Contents {
    file: File,
    first: Vec<u8>,
    length: Option<u64>,
    reader: Option<Reader>,
}

impl Contents {
    /// With its length, which also ends it should the file grow meanwhile.
    fn plain(mut self, range: Option<&str>) -> io::Result<Response> {
        let Some(length) = self.length else {
            let file = Counted::new(self.file, None, self.reader);
            let body = ReaderStream::with_capacity(file, CHUNK);
            return Ok(Body::from_stream(body).into_response());
        };
        let (status, bytes) = match range::part(range, length) {
            Part::Whole => (StatusCode::OK, 0..length),
            Part::Bytes(bytes) => (StatusCode::PARTIAL_CONTENT, bytes),
            Part::Unsatisfiable => {
                let range = [(header::CONTENT_RANGE, format!("bytes */{length}"))];
                let text = "the requested range lies beyond the end of the file";
                let error = RestError::new(StatusCode::RANGE_NOT_SATISFIABLE, text);
                return Ok((range, error).into_response());
            }
        };
        if bytes.start > 0 {
            self.file.seek(io::SeekFrom::Start(bytes.start))?;
        }
        let part = bytes.end - bytes.start;
        let content_range = (status == StatusCode::PARTIAL_CONTENT)
            .then(|| format!("bytes {}-{}/{length}", bytes.start, bytes.end - 1));
        let body = Body::new(Pieces::new(self.file, self.first, part, self.reader));
        let mut response =
            (status, [(header::CONTENT_LENGTH, part.to_string())], body).into_response();
        response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(range) = content_range.and_then(|range| HeaderValue::try_from(range).ok()) {
            response.headers_mut().insert(header::CONTENT_RANGE, range);
        }
        Ok(response)
    }

    fn compressed(self) -> Response {
        let file = Counted::new(self.file, self.length, self.reader);
        let compressed = GzipEncoder::new(BufReader::with_capacity(CHUNK, file));
        let body = Body::from_stream(ReaderStream::with_capacity(compressed, CHUNK));
        ([(header::CONTENT_ENCODING, "gzip")], body).into_response()
    }
}

/// Reports what was read when the client has it, or has gone; fails should that be less than was
/// there at first.
struct Counted {
    inner: tokio::fs::File,
    bytes: u64,
    expected: u64,
    reader: Option<Reader>,
}

impl Counted {
    fn new(file: File, length: Option<u64>, reader: Option<Reader>) -> Self {
        let inner = tokio::fs::File::from_std(file);
        Self { inner, bytes: 0, expected: length.unwrap_or(0), reader }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let read = (buffer.filled().len() - before) as u64;
        if read == 0 && self.bytes < self.expected {
            return Poll::Ready(Err(pieces::became_shorter()));
        }
        self.bytes += read;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.report(self.bytes);
        }
    }
}

fn not_modified(headers: &HeaderMap, found: &Metadata) -> bool {
    // There are no entity tags here, so that only "any" can match one.
    if let Some(tags) = text(headers, header::IF_NONE_MATCH) {
        return tags.trim() == "*";
    }
    let since = text(headers, header::IF_MODIFIED_SINCE)
        .and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    match (since, modified(found)) {
        (Some(since), Some(modified)) => modified.timestamp() <= since.timestamp(),
        _ => false,
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// A file's clock may say anything; what no calendar holds is left out.
fn modified(found: &Metadata) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(found.mtime(), 0)
}

fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// `inline; filename=…`, with whatever a header cannot hold percent-encoded.
fn disposition(path: &Path) -> HeaderValue {
    let name = PathBuf::from(path.file_name().unwrap_or_default());
    let name = name.to_string_lossy();
    let simple = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let value = if name.bytes().all(simple) {
        format!("inline; filename={name}")
    } else {
        let encoded =
            percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
        format!("inline; filename*=utf-8''{encoded}")
    };
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("inline"))
}

/// What a browser should show rather than save.
fn content_type(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()).unwrap_or_default() {
        "txt" | "log" | "md" | "py" | "rs" | "sh" | "toml" | "yaml" | "yml" => {
            "text/plain; charset=utf-8"
        }
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "svg" => "image/svg+xml",
        "webp" => "image/webp",
        _ => "application/octet-stream",
    }
}
