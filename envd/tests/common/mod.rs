//! An envd on plain sockets, and a client that speaks Connect byte by byte.

#![allow(dead_code, unreachable_pub)]

use std::{path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use envd::{
    Listeners,
    control::Descriptors,
    state::Envd,
    wire::{Attach, Init, LinuxAttach, PROTOCOL, Spec},
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{Request, Response, body::Incoming, header::HeaderMap};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

/// Nothing in these tests may take longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    pub envd: Arc<Envd>,
    pub directory: tempfile::TempDir,
}

pub fn spec(init: Init) -> Spec {
    Spec {
        protocol: PROTOCOL,
        sandbox_id: "0123456789abcdef0123456789abcdef".into(),
        template_id: "base".into(),
        descriptors: Vec::new(),
        attach: Attach::Linux(LinuxAttach {
            hostname: "sandbox".into(),
            memory_bytes: 1 << 30,
            shm_bytes: 0,
            cpus: vec![0],
            processes: 1024,
            open_files: None,
            network: None,
        }),
        init,
    }
}

impl Server {
    /// With root as the default user, since others may not exist here.
    pub fn start() -> Self {
        Self::with(Init { default_user: Some("root".into()), ..Init::default() })
    }

    pub fn with(init: Init) -> Self {
        Self::of(Envd::new(&spec(init)))
    }

    pub fn confined(spec: &Spec, descriptors: &mut Descriptors) -> Self {
        Self::of(Envd::with_descriptors(spec, descriptors))
    }

    fn of(envd: Arc<Envd>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bind = |name| UnixListener::bind(directory.path().join(name)).unwrap();
        let listeners = Listeners {
            envd: bind("envd.sock"),
            tunnel: bind("tunnel.sock"),
            report: bind("report.sock"),
        };
        tokio::spawn(envd::serve(envd.clone(), listeners));
        Self { envd, directory }
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub async fn send(
        &self,
        request: Request<BoxBody<Bytes, std::io::Error>>,
    ) -> Response<Incoming> {
        let stream = UnixStream::connect(self.socket("envd.sock")).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.unwrap()
    }

    /// A plain request; status and JSON body, `null` where there is none.
    pub async fn rest(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> (u16, Value) {
        let response = self.send(request(method, path, headers, body.into())).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// A unary call in JSON.
    pub async fn unary(&self, method: &str, body: Value) -> (u16, Value) {
        let headers = [("content-type", "application/json"), ("connect-protocol-version", "1")];
        self.rest("POST", &format!("/process.Process/{method}"), &headers, body.to_string()).await
    }

    pub async fn call(&self, method: &str, headers: &[(&str, &str)], body: Value) -> Stream {
        let mut all = vec![
            ("content-type", "application/connect+json"),
            ("connect-protocol-version", "1"),
            ("accept-encoding", "gzip, br, zstd"),
            ("connect-accept-encoding", "identity"),
            ("connect-content-encoding", "identity"),
        ];
        all.extend(headers);
        let path = format!("/process.Process/{method}");
        let response = self.send(request("POST", &path, &all, envelope(&body))).await;
        assert_eq!(response.status(), 200);
        Stream {
            headers: response.headers().clone(),
            body: response.into_body(),
            held: BytesMut::new(),
        }
    }

    /// Starts a shell command with the SDK's own choice of stdin.
    pub async fn sh(&self, command: &str) -> Stream {
        self.start_sh(command, &[], json!({"stdin": false})).await
    }

    pub async fn start_sh(&self, command: &str, headers: &[(&str, &str)], more: Value) -> Stream {
        let mut body = json!({"process": {"cmd": "/bin/sh", "args": ["-c", command]}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.call("Start", headers, body).await
    }

    pub async fn pids(&self) -> Vec<u64> {
        let (_, list) = self.unary("List", json!({})).await;
        let processes = list["processes"].as_array().cloned().unwrap_or_default();
        processes.iter().map(|process| process["pid"].as_u64().unwrap()).collect()
    }
}

pub fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Request<BoxBody<Bytes, std::io::Error>> {
    let mut request = Request::builder().method(method).uri(path).header("host", "sandbox");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(body).map_err(|never| match never {}).boxed()).unwrap()
}

pub fn envelope(message: &Value) -> Bytes {
    let message = message.to_string();
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message.as_bytes());
    bytes.into()
}

/// One frame of a server stream.
#[derive(Debug, PartialEq)]
pub enum Frame {
    Message(Value),
    End(Value),
}

pub struct Stream {
    pub headers: HeaderMap,
    body: Incoming,
    held: BytesMut,
}

impl Stream {
    pub async fn next(&mut self) -> Frame {
        tokio::time::timeout(PATIENCE, self.frame()).await.expect("a frame in time")
    }

    async fn frame(&mut self) -> Frame {
        loop {
            if self.held.len() >= 5 {
                let length = u32::from_be_bytes(self.held[1..5].try_into().unwrap()) as usize;
                if self.held.len() >= 5 + length {
                    let flags = self.held[0];
                    self.held.advance(5);
                    let value = serde_json::from_slice(&self.held.split_to(length)).unwrap();
                    return match flags {
                        0 => Frame::Message(value),
                        2 => Frame::End(value),
                        other => panic!("flags {other}"),
                    };
                }
            }
            let frame = self.body.frame().await.expect("an end-stream frame before the end");
            self.held.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// The next message's event.
    pub async fn event(&mut self) -> Value {
        match self.next().await {
            Frame::Message(message) => message["event"].clone(),
            Frame::End(end) => panic!("the stream ended: {end}"),
        }
    }

    /// The first event.
    pub async fn pid(&mut self) -> u64 {
        let event = self.event().await;
        event["start"]["pid"].as_u64().unwrap_or_else(|| panic!("not a start: {event}"))
    }

    /// Reads to the very end, and checks that there is one.
    pub async fn finish(mut self) -> Finished {
        let mut finished = Finished::default();
        loop {
            match self.next().await {
                Frame::Message(message) => {
                    assert!(finished.end.is_null(), "nothing follows the end event: {message}");
                    finished.take(&message["event"]);
                }
                Frame::End(end) => {
                    finished.error = end["error"].clone();
                    assert!(self.held.is_empty());
                    assert!(self.body.frame().await.is_none());
                    return finished;
                }
            }
        }
    }
}

/// What a stream said.
#[derive(Debug, Default)]
pub struct Finished {
    pub pid: Option<u64>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub pty: Vec<u8>,
    pub largest: usize,
    pub keepalives: usize,
    pub end: Value,
    pub error: Value,
}

impl Finished {
    fn take(&mut self, event: &Value) {
        if let Some(pid) = event["start"]["pid"].as_u64() {
            self.pid = Some(pid);
        }
        for (name, to) in
            [("stdout", &mut self.stdout), ("stderr", &mut self.stderr), ("pty", &mut self.pty)]
        {
            if let Some(data) = event["data"][name].as_str() {
                let data = BASE64_STANDARD.decode(data).unwrap();
                self.largest = self.largest.max(data.len());
                to.extend(data);
            }
        }
        self.keepalives += usize::from(event.get("keepalive").is_some());
        if let Some(end) = event.get("end") {
            self.end = end.clone();
        }
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn terminal(&self) -> String {
        String::from_utf8_lossy(&self.pty).into_owned()
    }
}

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

pub fn ended_well() -> Value {
    json!({"exited": true, "status": "exit status 0"})
}

/// Waits until `holds`.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let start = tokio::time::Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
