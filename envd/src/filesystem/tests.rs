//! The service as clients meet it: Connect over JSON, on a real disk.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
    path::Path,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, BodyDataStream, to_bytes},
    http::Request,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::{Buf as _, BytesMut};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::*;

/// Beside the test binary: that disk keeps attributes, which a tmpfs need not.
pub(crate) fn directory() -> TempDir {
    let binary = std::env::current_exe().unwrap();
    tempfile::tempdir_in(binary.parent().unwrap()).unwrap()
}

fn service() -> Router {
    let service = Arc::new(FilesystemService::new(Envd::in_no_sandbox()));
    let router = connectrpc::Router::new().add_service(service);
    Router::new()
        .fallback_service(router.into_axum_service())
        .layer(axum::middleware::from_fn(crate::connect::take_stream_timeout))
}

async fn call_as(service: &Router, user: &str, method: &str, body: Value) -> (u16, Value) {
    let mut request = Request::post(format!("/filesystem.Filesystem/{method}"))
        .header("content-type", "application/json")
        .header("connect-protocol-version", "1");
    if !user.is_empty() {
        let basic = BASE64_STANDARD.encode(format!("{user}:"));
        request = request.header("authorization", format!("Basic {basic}"));
    }
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = service.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 64 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn call(service: &Router, method: &str, body: Value) -> Value {
    let (status, answer) = call_as(service, "", method, body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn fails(service: &Router, method: &str, body: Value) -> (u16, String, String) {
    let (status, answer) = call_as(service, "", method, body).await;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("message"))
}

/// One enveloped message after the other.
struct Frames {
    body: BodyDataStream,
    held: BytesMut,
}

impl Frames {
    async fn open(service: &Router, body: Value, headers: &[(&str, &str)]) -> Self {
        let body = body.to_string();
        let mut frame = vec![0];
        frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        frame.extend(body.as_bytes());
        let mut request = Request::post("/filesystem.Filesystem/WatchDir")
            .header("content-type", "application/connect+json")
            .header("connect-protocol-version", "1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(frame)).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self { body: response.into_body().into_data_stream(), held: BytesMut::new() }
    }

    async fn next(&mut self) -> (u8, Value) {
        tokio::time::timeout(Duration::from_secs(10), self.read()).await.expect("a frame in time")
    }

    async fn read(&mut self) -> (u8, Value) {
        loop {
            if self.held.len() >= 5 {
                let length = u32::from_be_bytes(self.held[1..5].try_into().unwrap()) as usize;
                if self.held.len() >= 5 + length {
                    let flag = self.held[0];
                    self.held.advance(5);
                    return (flag, serde_json::from_slice(&self.held.split_to(length)).unwrap());
                }
            }
            self.held.extend_from_slice(&self.body.next().await.unwrap().unwrap());
        }
    }

    /// The next event in short: `create a/b`.
    async fn event(&mut self) -> String {
        let (flag, message) = self.next().await;
        assert_eq!(flag, 0, "{message}");
        short(&message["filesystem"])
    }

    async fn events(&mut self, count: usize) -> Vec<String> {
        let mut events = Vec::new();
        for _ in 0..count {
            events.push(self.event().await);
        }
        events
    }
}

fn short(event: &Value) -> String {
    let kind = event["type"].as_str().unwrap().strip_prefix("EVENT_TYPE_").unwrap().to_lowercase();
    format!("{kind} {}", event["name"].as_str().unwrap())
}

#[tokio::test]
async fn stat_tells_all_of_a_file() {
    let (service, home) = (service(), directory());
    let path = home.path().join("file.txt");
    fs::write(&path, "hello").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&path, Some(1), Some(4711)).unwrap();
    xattr::set(&path, "user.e2b.author", b"me").unwrap();
    xattr::set(&path, "user.other", b"x").unwrap();
    let entry = call(&service, "Stat", json!({"path": path})).await["entry"].clone();
    let modified = entry["modifiedTime"].as_str().unwrap().to_owned();
    assert!(modified.ends_with('Z'), "{modified}");
    assert_eq!(
        entry,
        json!({
            "name": "file.txt", "type": "FILE_TYPE_FILE", "path": path, "size": "5",
            "mode": 0o640, "permissions": "-rw-r-----", "owner": "daemon", "group": "4711",
            "modifiedTime": modified, "metadata": {"author": "me"},
        })
    );
}

#[tokio::test]
async fn a_links_type_is_its_targets_and_a_broken_one_exists() {
    let (service, home) = (service(), directory());
    let root = home.path().canonicalize().unwrap();
    fs::create_dir(root.join("dir")).unwrap();
    symlink("dir", root.join("one")).unwrap();
    symlink("one", root.join("two")).unwrap();
    symlink("nowhere", root.join("broken")).unwrap();
    let two = call(&service, "Stat", json!({"path": root.join("two")})).await["entry"].clone();
    assert_eq!(two["type"], "FILE_TYPE_DIRECTORY");
    assert_eq!(two["mode"], 0o755);
    assert_eq!(two["permissions"], "Lrwxrwxrwx");
    assert_eq!(two["symlinkTarget"], json!(root.join("dir")));
    assert_eq!(two["isSymlink"], true);
    let path = root.join("broken");
    let broken = call(&service, "Stat", json!({"path": path})).await["entry"].clone();
    assert_eq!(broken["symlinkTarget"], json!(path));
    assert!(broken.get("type").is_none() && broken.get("mode").is_none(), "{broken}");
}

#[tokio::test]
async fn errors_have_the_codes_sdks_look_for() {
    let (service, home) = (service(), directory());
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let missing = home.path().join("missing");
    let dangling = home.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    let path = json!({"path": missing});
    for (method, body, code) in [
        ("Stat", path.clone(), "not_found"),
        ("Stat", json!({"path": file.join("x")}), "not_found"),
        ("Stat", json!({"path": "~nobody/x"}), "invalid_argument"),
        ("Stat", json!({"path": "/a\u{0}b"}), "invalid_argument"),
        ("MakeDir", json!({"path": home.path()}), "already_exists"),
        ("MakeDir", json!({"path": file}), "invalid_argument"),
        ("MakeDir", json!({"path": dangling}), "invalid_argument"),
        ("MakeDir", json!({"path": dangling.join("x")}), "invalid_argument"),
        ("Move", json!({"source": missing, "destination": file}), "not_found"),
        ("Move", json!({"source": home.path(), "destination": missing}), "invalid_argument"),
        ("ListDir", path.clone(), "not_found"),
        ("ListDir", json!({"path": file}), "invalid_argument"),
        ("CreateWatcher", path.clone(), "not_found"),
        ("CreateWatcher", json!({"path": file}), "invalid_argument"),
        ("GetWatcherEvents", json!({"watcherId": "w9"}), "not_found"),
        ("RemoveWatcher", json!({"watcherId": "w9"}), "not_found"),
    ] {
        let (_, found, message) = fails(&service, method, body).await;
        assert_eq!(found, code, "{method}: {message}");
    }
    let (status, _, message) = fails(&service, "Stat", path.clone()).await;
    assert_eq!((status, message), (404, format!("file not found: {}", missing.display())));
    let (status, answer) = call_as(&service, "ghost", "Stat", path).await;
    assert_eq!((status, answer["code"].as_str()), (401, Some("unauthenticated")));
    assert_eq!(answer["message"], "invalid username: 'ghost'");
    let missing_is_removed = json!({"path": missing});
    assert_eq!(call(&service, "Remove", missing_is_removed).await, json!({}));
}

#[tokio::test]
async fn directories_made_are_the_users_own() {
    let (service, home) = (service(), directory());
    let kept = fs::metadata(home.path()).unwrap().uid();
    let path = home.path().join("a/b/c");
    let (status, answer) = call_as(&service, "daemon", "MakeDir", json!({"path": path})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["entry"]["type"], "FILE_TYPE_DIRECTORY");
    assert_eq!(answer["entry"]["owner"], "daemon");
    for made in ["a", "a/b", "a/b/c"] {
        let found = fs::metadata(home.path().join(made)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (1, 0o755), "{made}");
    }
    assert_eq!(fs::metadata(home.path()).unwrap().uid(), kept);
}

#[tokio::test]
async fn a_move_makes_parents_and_replaces_files() {
    let (service, home) = (service(), directory());
    let at = |name: &str| home.path().join(name);
    fs::write(at("a"), "new").unwrap();
    fs::create_dir_all(at("x")).unwrap();
    fs::write(at("x/b"), "old").unwrap();
    let both = json!({"source": at("a"), "destination": at("x/b")});
    let moved = call(&service, "Move", both).await;
    assert_eq!(moved["entry"]["path"], json!(at("x/b")));
    assert_eq!(fs::read(at("x/b")).unwrap(), b"new");
    call(&service, "Move", json!({"source": at("x"), "destination": at("y/z")})).await;
    assert!(at("y/z/b").exists() && !at("x").exists());
}

#[tokio::test]
async fn a_move_between_filesystems_copies_and_removes() {
    let home = directory();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        return println!("skipped: there is no second filesystem at /dev/shm");
    };
    let at = |name: &str| home.path().join(name);
    fs::create_dir_all(at("tree/sub")).unwrap();
    fs::write(at("tree/sub/file"), "x").unwrap();
    fs::set_permissions(at("tree/sub/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    chown(at("tree/sub"), Some(1), Some(1)).unwrap();
    symlink("sub", at("tree/link")).unwrap();
    let destination = other.path().join("tree");
    let both = json!({"source": at("tree"), "destination": destination});
    call(&service(), "Move", both).await;
    assert!(!at("tree").exists());
    let file = fs::metadata(destination.join("sub/file")).unwrap();
    assert_eq!(file.mode() & 0o7777, 0o4711);
    assert_eq!(fs::metadata(destination.join("sub")).unwrap().uid(), 1);
    assert_eq!(fs::read_link(destination.join("link")).unwrap(), Path::new("sub"));
}

#[tokio::test]
async fn a_listing_has_the_depth_asked_for() {
    let (service, home) = (service(), directory());
    fs::create_dir_all(home.path().join("b/c/d")).unwrap();
    fs::write(home.path().join("a"), "").unwrap();
    let list = |depth: u32| {
        let (service, path) = (service.clone(), home.path().to_owned());
        async move {
            let answer = call(&service, "ListDir", json!({"path": path, "depth": depth})).await;
            let entries = answer["entries"].as_array().unwrap().clone();
            entries
                .iter()
                .map(|entry| entry["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(list(0).await, ["a", "b"]);
    assert_eq!(list(2).await, ["a", "b", "c"]);
    assert_eq!(list(9).await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_watch_starts_and_tells_changes_in_order() {
    let (service, home) = (service(), directory());
    let at = |name: &str| home.path().join(name);
    fs::write(at("old"), "x").unwrap();
    let mut frames = Frames::open(&service, json!({"path": home.path()}), &[]).await;
    assert_eq!(frames.next().await, (0, json!({"start": {}})));
    fs::write(at("new"), "x").unwrap();
    assert_eq!(frames.events(2).await, ["create new", "write new"]);
    fs::set_permissions(at("new"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(frames.event().await, "chmod new");
    fs::rename(at("new"), at("newer")).unwrap();
    assert_eq!(frames.events(2).await, ["rename new", "create newer"]);
    fs::remove_file(at("newer")).unwrap();
    assert_eq!(frames.event().await, "remove newer");
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/unseen"), "x").unwrap();
    fs::write(at("old"), "y").unwrap();
    assert_eq!(frames.event().await, "create sub");
    assert!(frames.event().await.starts_with("write old"));
}

#[tokio::test]
async fn a_recursive_watch_follows_new_directories() {
    let (service, home) = (service(), directory());
    let at = |name: &str| home.path().join(name);
    fs::create_dir_all(at("known/below")).unwrap();
    let wanted = json!({"path": home.path(), "recursive": true});
    let mut frames = Frames::open(&service, wanted, &[]).await;
    frames.next().await;
    fs::write(at("known/below/file"), "x").unwrap();
    assert_eq!(frames.events(2).await, ["create known/below/file", "write known/below/file"]);
    // All at once, so that some of it is there before the watch is.
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::write(at("a/b/c/file"), "").unwrap();
    let mut seen = frames.events(4).await;
    seen.sort();
    assert_eq!(seen, ["create a", "create a/b", "create a/b/c", "create a/b/c/file"]);
    fs::rename(at("a"), at("z")).unwrap();
    assert_eq!(frames.events(2).await, ["rename a", "create z"]);
    // Long enough for the new names to be watched.
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Opened without truncating, which can be an event of its own.
    let mut file = fs::OpenOptions::new().append(true).open(at("z/b/c/file")).unwrap();
    file.write_all(b"y").unwrap();
    assert_eq!(frames.event().await, "write z/b/c/file");
    fs::remove_dir(at("known/below")).err().unwrap();
    fs::remove_file(at("known/below/file")).unwrap();
    fs::remove_dir(at("known/below")).unwrap();
    fs::write(at("last"), "").unwrap();
    let removed = frames.events(3).await;
    assert_eq!(removed, ["remove known/below/file", "remove known/below", "create last"]);
}

#[tokio::test]
async fn events_carry_the_entry_on_request() {
    let (service, home) = (service(), directory());
    let wanted = json!({"path": home.path(), "includeEntry": true});
    let mut frames = Frames::open(&service, wanted, &[]).await;
    frames.next().await;
    fs::write(home.path().join("file"), "12345").unwrap();
    let (_, created) = frames.next().await;
    assert_eq!(created["filesystem"]["entry"]["name"], "file");
    assert_eq!(created["filesystem"]["entry"]["type"], "FILE_TYPE_FILE");
}

#[tokio::test]
async fn a_watch_ends_with_its_directory() {
    let (service, home) = (service(), directory());
    let root = home.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut frames = Frames::open(&service, json!({"path": root}), &[]).await;
    frames.next().await;
    fs::remove_dir(&root).unwrap();
    let mut last = frames.next().await;
    while last.0 == 0 {
        last = frames.next().await;
    }
    assert_eq!((last.0, last.1["error"]["code"].as_str()), (2, Some("not_found")));
}

#[tokio::test]
async fn a_quiet_watch_is_kept_alive_until_its_timeout() {
    let (service, home) = (service(), directory());
    let headers = [("keepalive-ping-interval", "1"), ("connect-timeout-ms", "1500")];
    let mut frames = Frames::open(&service, json!({"path": home.path()}), &headers).await;
    assert_eq!(frames.next().await.1, json!({"start": {}}));
    assert_eq!(frames.next().await.1, json!({"keepalive": {}}));
    let (flag, end) = frames.next().await;
    assert_eq!((flag, end["error"]["code"].as_str()), (2, Some("deadline_exceeded")));
}

#[tokio::test]
async fn a_polled_watcher_keeps_events_until_they_are_fetched() {
    let (service, home) = (service(), directory());
    let made = call(&service, "CreateWatcher", json!({"path": home.path()})).await;
    let id = json!({"watcherId": made["watcherId"]});
    fs::write(home.path().join("file"), "x").unwrap();
    let mut seen = Vec::new();
    for _ in 0..100 {
        let answer = call(&service, "GetWatcherEvents", id.clone()).await;
        seen.extend(answer["events"].as_array().into_iter().flatten().map(short));
        if seen.len() >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(seen, ["create file", "write file"]);
    call(&service, "RemoveWatcher", id.clone()).await;
    assert_eq!(fails(&service, "GetWatcherEvents", id).await.1, "not_found");
}

#[tokio::test]
async fn watchers_are_bounded_and_a_removed_one_makes_room() {
    let (service, home) = (service(), directory());
    let path = json!({"path": home.path()});
    let mut ids = Vec::new();
    let refused = loop {
        let (status, answer) = call_as(&service, "", "CreateWatcher", path.clone()).await;
        match status {
            200 => ids.push(answer["watcherId"].clone()),
            _ => break answer,
        }
    };
    assert_eq!(refused["code"], "resource_exhausted", "{refused}");
    assert!(ids.len() <= 64);
    call(&service, "RemoveWatcher", json!({"watcherId": ids[0]})).await;
    for _ in 0..100 {
        if call_as(&service, "", "CreateWatcher", path.clone()).await.0 == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no room after a removal");
}
