//! `/files` as clients meet it, on a real disk.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use axum::{
    body::to_bytes,
    http::{Request, Response},
};
use futures_util::stream;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::*;
use crate::{filesystem::tests::directory, wire::What};

async fn send(request: Request<Body>) -> Response<Body> {
    routes().with_state(Envd::in_no_sandbox()).oneshot(request).await.unwrap()
}

async fn body(response: Response<Body>) -> Vec<u8> {
    to_bytes(response.into_body(), 64 << 20).await.unwrap().into()
}

async fn answer(response: Response<Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&body(response).await).unwrap())
}

fn uri(path: &Path) -> String {
    let path = percent_encoding::utf8_percent_encode(
        path.to_str().unwrap(),
        percent_encoding::NON_ALPHANUMERIC,
    );
    format!("/files?path={path}")
}

async fn get_with(path: &Path, headers: &[(&str, &str)]) -> Response<Body> {
    let mut request = Request::get(uri(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(request.body(Body::empty()).unwrap()).await
}

fn octets(path: &Path) -> axum::http::request::Builder {
    Request::post(uri(path)).header("content-type", "application/octet-stream")
}

fn multipart(uri: &str, parts: &[(&str, &str, &str)]) -> Request<Body> {
    let mut body = String::new();
    for (name, filename, content) in parts {
        body += &format!(
            "--b0\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{filename}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n{content}\r\n"
        );
    }
    body += "--b0--\r\n";
    let kind = "multipart/form-data; boundary=b0";
    Request::post(uri).header("content-type", kind).body(Body::from(body)).unwrap()
}

fn file(content: &[u8]) -> (TempDir, PathBuf) {
    let home = directory();
    let path = home.path().join("file.txt");
    fs::write(&path, content).unwrap();
    (home, path)
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_file_comes_with_its_length() {
    let (_home, path) = file(b"hello");
    let response = get_with(&path, &[]).await;
    assert_eq!(response.status(), 200);
    assert_eq!(header(&response, "content-length"), "5");
    assert_eq!(header(&response, "vary"), "Accept-Encoding");
    assert_eq!(header(&response, "content-disposition"), "inline; filename=file.txt");
    assert_eq!(body(response).await, b"hello");
    let (_home, empty) = file(b"");
    for accept in ["identity", "gzip, deflate, br, zstd"] {
        let response = get_with(&empty, &[("accept-encoding", accept)]).await;
        assert_eq!(header(&response, "content-length"), "0", "{accept}");
        assert_eq!(header(&response, "content-encoding"), "", "{accept}");
        assert_eq!(body(response).await, b"");
    }
    let request = Request::head(uri(&path)).body(Body::empty()).unwrap();
    let response = send(request).await;
    assert_eq!((response.status().as_u16(), header(&response, "content-length")), (200, "5"));
}

#[tokio::test]
async fn so_many_may_download_at_once_and_the_next_when_one_has_ended() {
    let (_home, path) = file(b"hello");
    let service = routes().with_state(Envd::in_no_sandbox());
    let ask = async |method: &str, encoding: &str| {
        let request = Request::builder().method(method).uri(uri(&path));
        let request = request.header("accept-encoding", encoding).body(Body::empty()).unwrap();
        service.clone().oneshot(request).await.unwrap()
    };
    let mut held = Vec::new();
    for number in 0..reader::MAX_READERS {
        held.push(ask("GET", if number % 2 == 0 { "identity" } else { "gzip" }).await);
        assert_eq!(held[number].status(), 200);
    }
    assert_eq!(ask("GET", "identity").await.status(), 429);
    assert_eq!(ask("HEAD", "identity").await.status(), 200);
    for response in held.drain(..2) {
        drop(response);
        let next = ask("GET", "identity").await;
        assert_eq!((next.status().as_u16(), body(next).await), (200, b"hello".to_vec()));
    }
}

#[tokio::test]
async fn a_file_is_compressed_for_those_who_ask() {
    let content = "abc".repeat(100_000);
    let (_home, path) = file(content.as_bytes());
    let response = get_with(&path, &[("accept-encoding", "gzip, deflate, br, zstd")]).await;
    assert_eq!(header(&response, "content-encoding"), "gzip");
    assert_eq!(header(&response, "content-length"), "");
    let packed = body(response).await;
    assert!(packed.len() < content.len() / 10);
    assert_eq!(unzip(&packed).await, content.as_bytes());
    let response = get_with(&path, &[("accept-encoding", "*;q=0")]).await;
    assert_eq!(response.status(), 406);
}

#[tokio::test]
async fn a_file_that_does_not_know_its_length_is_read_to_its_end() {
    let path = Path::new("/proc/self/status");
    if !path.exists() {
        return println!("skipped: no file here hides its length");
    }
    let plain = get_with(path, &[]).await;
    assert_eq!((plain.status().as_u16(), header(&plain, "content-length")), (200, ""));
    assert!(body(plain).await.starts_with(b"Name:"));
    let packed = get_with(path, &[("accept-encoding", "gzip")]).await;
    assert!(unzip(&body(packed).await).await.starts_with(b"Name:"));
}

async fn unzip(packed: &[u8]) -> Vec<u8> {
    use tokio::io::AsyncReadExt as _;
    let mut content = Vec::new();
    let mut decoder = async_compression::tokio::bufread::GzipDecoder::new(packed);
    decoder.read_to_end(&mut content).await.unwrap();
    content
}

async fn zip(content: &[u8]) -> Vec<u8> {
    use tokio::io::AsyncReadExt as _;
    let mut packed = Vec::new();
    let mut encoder = async_compression::tokio::bufread::GzipEncoder::new(content);
    encoder.read_to_end(&mut packed).await.unwrap();
    packed
}

#[tokio::test]
async fn a_range_is_a_part_and_never_compressed() {
    let (_home, path) = file(b"0123456789");
    let range = [("range", "bytes=2-4"), ("accept-encoding", "gzip")];
    let response = get_with(&path, &range).await;
    assert_eq!(response.status(), 206);
    assert_eq!(header(&response, "content-range"), "bytes 2-4/10");
    assert_eq!(header(&response, "content-length"), "3");
    assert_eq!(body(response).await, b"234");
    let response = get_with(&path, &[("range", "bytes=10-")]).await;
    assert_eq!(
        (response.status().as_u16(), header(&response, "content-range")),
        (416, "bytes */10")
    );
    let modified = header(&get_with(&path, &[]).await, "last-modified").to_owned();
    let response = get_with(&path, &[("if-modified-since", &modified)]).await;
    assert_eq!(response.status(), 304);
    let stale = [("range", "bytes=2-4"), ("if-range", "Thu, 01 Jan 1970 00:00:00 GMT")];
    assert_eq!(get_with(&path, &stale).await.status(), 200);
}

#[tokio::test]
async fn what_is_not_a_file_is_refused_at_once() {
    let home = directory();
    let (root, missing) = (home.path(), home.path().join("missing"));
    let pipe = root.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, status, message) in [
        (missing.as_path(), 404, format!("path '{}' does not exist", missing.display())),
        (root, 400, format!("path '{}' is a directory", root.display())),
        (&pipe, 400, format!("path '{}' is not a regular file", pipe.display())),
        (Path::new("/dev/zero"), 400, "path '/dev/zero' is not a regular file".into()),
    ] {
        let found = answer(get_with(path, &[]).await).await;
        assert_eq!(found, (status, json!({"code": status, "message": message})));
    }
    for (path, message) in [
        (root, format!("path is a directory: {}", root.display())),
        (&pipe, format!("path is not a regular file: {}", pipe.display())),
    ] {
        let found = answer(send(octets(path).body(Body::from("x")).unwrap()).await).await;
        assert_eq!(found, (400, json!({"code": 400, "message": message})));
    }
    let ghost = Request::get("/files?username=ghost&path=x").body(Body::empty()).unwrap();
    let text = "error looking up user 'ghost': user: unknown user ghost";
    assert_eq!(answer(send(ghost).await).await, (401, json!({"code": 401, "message": text})));
}

#[tokio::test]
async fn a_body_becomes_a_file_of_the_user() {
    let home = directory();
    let path = home.path().join("a/b/ü.bin");
    let chunks = stream::iter((0..300).map(|_| Ok::<_, std::io::Error>(vec![7u8; 4096])));
    let request = Request::post(format!("{}&username=daemon", uri(&path)))
        .header("content-type", "application/octet-stream")
        .body(Body::from_stream(chunks))
        .unwrap();
    let (status, written) = answer(send(request).await).await;
    let expect = json!([{"path": path, "name": "ü.bin", "type": "file"}]);
    assert_eq!((status, written), (200, expect));
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.len(), found.uid(), found.mode() & 0o777), (300 * 4096, 1, 0o644));
    assert_eq!(fs::metadata(home.path().join("a")).unwrap().uid(), 1);
}

#[tokio::test]
async fn an_overwritten_file_keeps_its_inode_and_loses_its_rest() {
    let (_home, path) = file(b"a long content");
    let inode = fs::metadata(&path).unwrap().ino();
    let packed = zip(b"short").await;
    let request = octets(&path).header("content-encoding", "gzip").body(Body::from(packed));
    assert_eq!(send(request.unwrap()).await.status(), 200);
    assert_eq!(fs::read(&path).unwrap(), b"short");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
}

#[tokio::test]
async fn metadata_is_replaced_by_each_upload() {
    let (_home, path) = file(b"");
    let request = octets(&path).header("X-Metadata-Author", "me").header("x-metadata-b", "2");
    let (_, written) = answer(send(request.body(Body::from("x")).unwrap()).await).await;
    assert_eq!(written[0]["metadata"], json!({"author": "me", "b": "2"}));
    assert_eq!(xattr::get(&path, "user.e2b.author").unwrap(), Some(b"me".to_vec()));
    let (_, written) = answer(send(octets(&path).body(Body::from("x")).unwrap()).await).await;
    assert_eq!(written[0].get("metadata"), None);
    assert_eq!(xattr::get(&path, "user.e2b.author").unwrap(), None);
}

#[tokio::test]
async fn a_form_carries_many_files_with_whole_paths() {
    let home = directory();
    let at = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let big = "x".repeat(3 << 20);
    let parts = [
        ("file", at("a.txt"), "one"),
        ("comment", at("ignored"), big.as_str()),
        ("file", at("deep/ü/b.txt"), big.as_str()),
        ("file", at("empty"), ""),
    ];
    let parts: Vec<_> = parts.iter().map(|(a, b, c)| (*a, b.as_str(), *c)).collect();
    let (status, written) = answer(send(multipart("/files", &parts)).await).await;
    assert_eq!(status, 200, "{written}");
    let names: Vec<_> = written.as_array().unwrap().iter().map(|file| &file["name"]).collect();
    assert_eq!(names, ["a.txt", "b.txt", "empty"]);
    assert_eq!(fs::read(at("a.txt")).unwrap(), b"one");
    assert_eq!(fs::read(at("deep/ü/b.txt")).unwrap(), big.as_bytes());
    assert_eq!(fs::read(at("empty")).unwrap(), b"");
    assert!(!Path::new(&at("ignored")).exists());
}

#[tokio::test]
async fn the_path_of_the_query_wins_for_one_file() {
    let home = directory();
    let path = home.path().join("chosen");
    let one = [("file", "/nowhere/else", "one")];
    let (status, written) = answer(send(multipart(&uri(&path), &one)).await).await;
    assert_eq!((status, &written[0]["path"]), (200, &json!(path)));
    assert_eq!(fs::read(&path).unwrap(), b"one");
    let two = [("file", "a", "first"), ("file", "b", "second")];
    let (status, _) = answer(send(multipart(&uri(&path), &two)).await).await;
    assert_eq!((status, fs::read(&path).unwrap()), (400, b"first".to_vec()));
}

#[tokio::test]
async fn uploads_that_make_no_sense_are_refused() {
    let home = directory();
    let path = home.path().join("x");
    let none = Request::post("/files").header("content-type", "application/octet-stream");
    let kind = Request::post(uri(&path)).header("content-type", "text/plain");
    let coding = octets(&path).header("content-encoding", "br");
    let broken = octets(&path).header("content-encoding", "gzip");
    let control = octets(&path).header("x-metadata-k", "\u{fc}");
    for request in [none, kind, coding, broken, control] {
        let found = answer(send(request.body(Body::from("not gzip")).unwrap()).await).await;
        assert_eq!((found.0, &found.1["code"]), (400, &json!(400)), "{}", found.1);
    }
    let empty = answer(send(multipart("/files", &[("other", "a", "b")])).await).await;
    assert_eq!(empty.0, 400);
    gone(&path).await;
}

/// A failed upload's file is removed behind the answer's back.
async fn gone(path: &Path) {
    for _ in 0..100 {
        if !path.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("'{}' is still there", path.display());
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_half_of_a_new_file() {
    use tokio::{
        io::AsyncWriteExt as _,
        net::{UnixListener, UnixStream},
    };
    let home = directory();
    let (socket, path) = (home.path().join("s"), home.path().join("new"));
    let listener = UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        axum::serve(listener, routes().with_state(Envd::in_no_sandbox())).await.unwrap();
    });
    let mut client = UnixStream::connect(&socket).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n\
         content-length: 9999999\r\n\r\n",
        uri(&path)
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![1; 2 << 20]).await.unwrap();
    let partial = || {
        let names = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| is_partial(path))
    };
    for _ in 0..500 {
        if partial().is_some_and(|path| fs::metadata(path).is_ok_and(|found| found.len() > 0)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let growing = partial().expect("it is being written");
    assert!(!path.exists());
    drop(client);
    gone(&growing).await;
    assert!(!path.exists());
    server.abort();
}

#[tokio::test]
async fn bytes_read_and_written_are_reported() {
    let (_home, path) = file(b"hello");
    let envd = Envd::in_no_sandbox();
    let router = routes().with_state(envd.clone());
    let request = Request::get(uri(&path)).body(Body::empty()).unwrap();
    body(router.clone().oneshot(request).await.unwrap()).await;
    let request = octets(&path).body(Body::from("abc")).unwrap();
    body(router.oneshot(request).await.unwrap()).await;
    let told: Vec<_> = envd.reports.after(0).await.into_iter().map(|report| report.what).collect();
    assert_eq!(told, [What::FileRead { bytes: 5 }, What::FileWritten { bytes: 3 }]);
}

/// Runs itself again on a filesystem of its own, in a mount namespace that ends with the process.
#[tokio::test]
async fn a_full_disk_is_507_and_leaves_nothing_behind() {
    const SMALL_DISK: &str = "COPPICE_TEST_SMALL_DISK";
    let Some(disk) = std::env::var_os(SMALL_DISK) else {
        let home = directory();
        let script = "mount -t tmpfs -o size=1m tmpfs \"$1\" || exit 77; \
            exec \"$2\" --exact files::tests::a_full_disk_is_507_and_leaves_nothing_behind";
        let run = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
            .args([home.path(), &std::env::current_exe().unwrap()])
            .env(SMALL_DISK, home.path())
            .output();
        return match run {
            Ok(run) if run.status.success() => {}
            Ok(run) if run.status.code() != Some(77) => {
                panic!("{}", String::from_utf8_lossy(&run.stdout))
            }
            cannot => {
                assert!(std::env::var_os("CI").is_none(), "cannot mount a tmpfs: {cannot:?}");
                println!("skipped: cannot mount a tmpfs in a mount namespace: {cannot:?}");
            }
        };
    };
    let path = Path::new(&disk).join("new");
    let request = octets(&path).body(Body::from(vec![1; 3 << 20])).unwrap();
    let (status, error) = answer(send(request).await).await;
    assert_eq!(status, 507, "{error}");
    let text = "attempted to write 3145728 bytes: not enough disk space available";
    assert_eq!(error["message"], text);
    let is_empty = || fs::read_dir(&disk).unwrap().next().is_none();
    for _ in 0..100 {
        if is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(is_empty());

    // What was there stays, whether the new content comes in pieces or at once.
    let short = Path::new(&disk).join("short");
    fs::write(&short, b"short").unwrap();
    let long = vec![7; 900 << 10];
    fs::write(&path, &long).unwrap();
    for (path, old, length) in [(&path, &long[..], 1 << 20), (&short, b"short", 200 << 10)] {
        let request = octets(path).body(Body::from(vec![1; length])).unwrap();
        assert_eq!(send(request).await.status(), 507);
        assert!(fs::read(path).unwrap() == old);
    }
}

#[tokio::test]
async fn a_long_upload_takes_the_place_of_the_file_that_a_link_leads_to() {
    let (home, path) = file(b"old");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o751)).unwrap();
    let (link, dangling) = (home.path().join("link"), home.path().join("dangling"));
    std::os::unix::fs::symlink("file.txt", &link).unwrap();
    std::os::unix::fs::symlink(home.path().join("new"), &dangling).unwrap();
    for (to, name, mode) in [(&link, "file.txt", 0o751), (&dangling, "new", 0o644)] {
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
        let chunks: Vec<_> =
            content.chunks(100_001).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
        let request = octets(to).header("x-metadata-a", "b");
        let request = request.body(Body::from_stream(stream::iter(chunks))).unwrap();
        assert_eq!(send(request).await.status(), 200);
        assert!(to.is_symlink());
        let found = home.path().join(name);
        assert!(fs::read(&found).unwrap() == content);
        assert_eq!(fs::metadata(&found).unwrap().mode() & 0o7777, mode);
        assert_eq!(xattr::get(&found, "user.e2b.a").unwrap(), Some(b"b".to_vec()));
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 4);
}

#[tokio::test]
async fn a_file_longer_than_a_piece_comes_whole_and_one_cut_short_breaks() {
    // Does not become so short that it fits into the buffers.
    let content: Vec<u8> =
        (0..2_000_003_u32).map(|n| (n.wrapping_mul(0x9E37_79B1) >> 13) as u8).collect();
    let (_home, path) = file(&content);
    assert!(body(get_with(&path, &[]).await).await == content);
    let part = get_with(&path, &[("range", "bytes=300001-1900000")]).await;
    assert!(body(part).await == content[300_001..=1_900_000]);

    for encoding in ["identity", "gzip"] {
        fs::write(&path, &content).unwrap();
        let response = get_with(&path, &[("accept-encoding", encoding)]).await;
        assert_eq!(header(&response, "content-encoding") == "gzip", encoding == "gzip");
        let mut response = response.into_body();
        response.frame().await.unwrap().unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1_000_000).unwrap();
        let end = loop {
            match response.frame().await {
                Some(Ok(_)) => {}
                end => break end,
            }
        };
        assert!(end.expect("no silent end").is_err(), "{encoding}");
    }
}
