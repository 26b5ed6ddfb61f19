//! What a client of envd's says to it, on the sockets of one sandbox: HTTP and Connect in JSON.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::world::PATIENCE;

/// Bytes of a message of envd's.
const MAX_MESSAGE: usize = 1 << 20;

pub(crate) struct Envd {
    directory: PathBuf,
    token: Option<String>,
}

/// What a command said and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Output and errors as they came.
    pub(crate) text: String,
    /// -1 for a signal.
    pub(crate) exit_code: i64,
}

/// A command that was started.
pub(crate) struct Stream {
    pub(crate) pid: u64,
    messages: Messages,
}

impl Envd {
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), token: None }
    }

    pub(crate) fn with_token(self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self }
    }

    /// Whether it answers `GET /health` within `patience`.
    pub(crate) async fn answers(&self, patience: Duration) -> bool {
        let health = self.request("GET", "/health", &[], Bytes::new());
        matches!(timeout(patience, health).await, Ok(Ok((204, _))))
    }

    pub(crate) async fn run(&self, script: &str) -> Said {
        self.start(script).await.finish().await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    pub(crate) async fn start(&self, script: &str) -> Stream {
        let process = json!({"cmd": "/bin/sh", "args": ["-c", script]});
        let started = self.try_start(json!({"process": process, "stdin": false})).await;
        started.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// An interactive shell on a terminal.
    pub(crate) async fn terminal(&self) -> Stream {
        let process = json!({"cmd": "/bin/sh", "args": ["-i"], "envs": {"TERM": "dumb"}});
        let size = json!({"cols": 200, "rows": 50});
        self.try_start(json!({"process": process, "pty": {"size": size}})).await.unwrap()
    }

    pub(crate) async fn type_in(&self, stream: &Stream, text: &str) {
        let typed = json!({
            "process": {"pid": stream.pid}, "input": {"pty": BASE64_STANDARD.encode(text)},
        });
        let headers = [("content-type", "application/json")];
        let call = self.request("POST", "/process.Process/SendInput", &headers, text_of(&typed));
        let (status, _) = timeout(PATIENCE, call).await.expect("an answer in time").unwrap();
        assert_eq!(status, 200);
    }

    pub(crate) async fn try_start(&self, request: Value) -> io::Result<Stream> {
        let headers = [("content-type", "application/connect+json")];
        let message = text_of(&request);
        let mut body = vec![0];
        body.extend(u32::try_from(message.len()).expect("a short message").to_be_bytes());
        body.extend(message);
        let path = "/process.Process/Start";
        let started = timeout(PATIENCE, async {
            let (status, body) = self.request("POST", path, &headers, body.into()).await?;
            if status != 200 {
                return Err(io::Error::other(format!("POST {path}: {status}")));
            }
            let mut messages = Messages { body, held: BytesMut::new() };
            let first = messages.next().await?;
            match first["event"]["start"]["pid"].as_u64() {
                Some(pid) => Ok(Stream { pid, messages }),
                None => Err(io::Error::other(format!("not a start: {first}"))),
            }
        });
        started.await?
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> io::Result<(u16, Incoming)> {
        let stream = UnixStream::connect(self.directory.join("envd.sock")).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "sandbox");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("x-access-token", token);
        }
        let request = request.body(Full::new(body)).map_err(io::Error::other)?;
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        Ok((response.status().as_u16(), response.into_body()))
    }

    /// What the tunnel answers for a port, in one byte.
    pub(crate) async fn tunnel(&self, port: u16) -> io::Result<u8> {
        timeout(PATIENCE, async {
            let mut socket = UnixStream::connect(self.directory.join("tunnel.sock")).await?;
            socket.write_all(&port.to_be_bytes()).await?;
            socket.read_u8().await
        })
        .await?
    }

    /// The first report it has.
    pub(crate) async fn report(&self) -> io::Result<Value> {
        timeout(PATIENCE, async {
            let mut socket = UnixStream::connect(self.directory.join("report.sock")).await?;
            socket.write_all(&0_u64.to_be_bytes()).await?;
            let mut line = Vec::new();
            while !line.ends_with(b"\n") && line.len() < envd::wire::MAX_REPORT {
                line.push(socket.read_u8().await?);
            }
            Ok(serde_json::from_slice(&line)?)
        })
        .await?
    }
}

impl Stream {
    /// To its end.
    pub(crate) async fn finish(mut self) -> io::Result<Said> {
        let mut said = Said::default();
        let mut ended = false;
        timeout(PATIENCE, async {
            while !ended {
                ended = self.take(&mut said).await?;
            }
            Ok(said)
        })
        .await?
    }

    /// Until it has said `what` at the end of all; what it said.
    pub(crate) async fn until(&mut self, what: &str) -> String {
        let mut said = Said::default();
        let waited = timeout(PATIENCE, async {
            while !said.text.contains(what) {
                let ended = self.take(&mut said).await.unwrap();
                assert!(!ended, "the shell has ended: {}", said.text);
            }
        });
        let waited = waited.await;
        assert!(waited.is_ok(), "never said {what:?}: {:?}", said.text);
        said.text
    }

    /// Whether that was the end.
    async fn take(&mut self, said: &mut Said) -> io::Result<bool> {
        let message = self.messages.next().await?;
        let event = &message["event"];
        for kind in ["stdout", "stderr", "pty"] {
            if let Some(data) = event["data"][kind].as_str() {
                let data = BASE64_STANDARD.decode(data).map_err(io::Error::other)?;
                said.text += &String::from_utf8_lossy(&data);
            }
        }
        let Some(end) = event.get("end") else { return Ok(false) };
        // Zero is left out.
        said.exit_code = end["exitCode"].as_i64().unwrap_or_default();
        Ok(true)
    }
}

struct Messages {
    body: Incoming,
    held: BytesMut,
}

impl Messages {
    async fn next(&mut self) -> io::Result<Value> {
        loop {
            if let [flags, a, b, c, d, rest @ ..] = &self.held[..] {
                let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                if length > MAX_MESSAGE {
                    return Err(io::Error::other(format!("a message of {length} bytes")));
                }
                if let Some(message) = rest.get(..length) {
                    let value: Value = serde_json::from_slice(message)?;
                    if *flags != 0 {
                        return Err(io::Error::other(format!("the stream ended: {value}")));
                    }
                    self.held.advance(5 + length);
                    return Ok(value);
                }
            }
            let frame = self.body.frame().await.ok_or(io::ErrorKind::UnexpectedEof)?;
            let data = frame.map_err(io::Error::other)?.into_data();
            self.held.extend_from_slice(&data.map_err(|_| io::ErrorKind::InvalidData)?);
        }
    }
}

fn text_of(value: &Value) -> Bytes {
    value.to_string().into()
}
