//! A command run in a sandbox for the gateway, over envd's process API as clients speak it: a
//! stream of messages, each behind a flag and its length.
//!
//! What comes may be made up: each message is bounded, of what was said a short end is kept, and
//! what makes no sense is the end of the stream.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::{Buf, Bytes, BytesMut};
use envd::tunnel::Handed;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::sandbox::{NotRun, Ran, Task, end_of};

/// By which a task is found again.
const TAG: &str = "coppice-task";
/// The longest message (bytes); envd's have some tens of KiB of output, in base64.
const LONGEST: usize = 256 << 10;
/// Kept of what was said, until it is known which end that is.
const KEPT: usize = 4096;
/// Read in one second (bytes); the rest waits in envd, and with it the command that says so much.
const PER_SECOND: usize = 4 << 20;
/// Of the last message of a stream.
const LAST: u8 = 2;

#[derive(Serialize)]
struct Start<'a> {
    process: Process<'a>,
    tag: &'a str,
    stdin: bool,
}

#[derive(Serialize)]
struct Process<'a> {
    cmd: &'a str,
    args: &'a [String],
    envs: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<&'a str>,
}

#[derive(Serialize)]
struct Connect<'a> {
    process: Selector<'a>,
}

#[derive(Serialize)]
struct Selector<'a> {
    tag: &'a str,
}

#[derive(Default, Deserialize)]
struct Message {
    #[serde(default)]
    event: Event,
}

#[derive(Default, Deserialize)]
struct Event {
    #[serde(default)]
    data: Option<Data>,
    #[serde(default)]
    end: Option<End>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    stdout: Option<String>,
    #[serde(default)]
    stderr: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct End {
    #[serde(default)]
    exit_code: i32,
    #[serde(default)]
    exited: bool,
}

/// Of the last message.
#[derive(Default, Deserialize)]
struct Trailer {
    #[serde(default)]
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Runs it in the sandbox in `dir`, or finds it `again`, to its end.
pub(super) async fn run(dir: &Path, token: &str, task: &Task, again: bool) -> Result<Ran, NotRun> {
    let stream = Handed::dial(&dir.join("envd.sock")).map_err(NotRun::Unsent)?;
    let unsent = |error: hyper::Error| NotRun::Unsent(io::Error::other(error));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unsent)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request =
        request(token, task, again).map_err(|error| NotRun::Refused(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(lost)?;
    let status = answer.status();
    if !status.is_success() {
        return Err(NotRun::Refused(format!("envd answers with {status}")));
    }
    let mut body = answer.into_body();
    let mut heard = Heard::default();
    let (mut window, mut read) = (Instant::now(), 0);
    loop {
        while let Some(message) = heard.message()? {
            if let Some(ran) = heard.take(message)? {
                return Ok(ran);
            }
        }
        let Some(frame) = body.frame().await else { return Err(lost("it hung up")) };
        if let Ok(data) = frame.map_err(lost)?.into_data() {
            heard.buffer.extend_from_slice(&data);
            read += data.len();
            if read >= PER_SECOND {
                sleep_until(window + Duration::from_secs(1)).await;
                (window, read) = (Instant::now(), 0);
            }
        }
    }
}

fn lost(why: impl ToString) -> NotRun {
    NotRun::Lost(why.to_string())
}

fn request(token: &str, task: &Task, again: bool) -> Result<Request<Full<Bytes>>, http::Error> {
    let (call, said) = if again {
        ("Connect", serde_json::to_vec(&Connect { process: Selector { tag: TAG } }))
    } else {
        let [cmd, args @ ..] = task.command.as_slice() else {
            return Request::get("/no command").body(Full::default());
        };
        let process = Process { cmd, args, envs: &task.env_vars, cwd: task.cwd.as_deref() };
        ("Start", serde_json::to_vec(&Start { process, tag: TAG, stdin: false }))
    };
    let said = said.expect("text can be written as JSON");
    let mut body = vec![0];
    body.extend(u32::try_from(said.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(said);
    let mut request = Request::post(format!("/process.Process/{call}"))
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/connect+json")
        .header("connect-protocol-version", "1")
        .header("x-access-token", token);
    if let Some(user) = &task.user {
        let user = BASE64_STANDARD.encode(format!("{user}:"));
        request = request.header(header::AUTHORIZATION, format!("Basic {user}"));
    }
    if let Some(seconds) = task.timeout.filter(|_| !again) {
        request = request.header("connect-timeout-ms", seconds.saturating_mul(1000));
    }
    request.body(Full::from(body))
}

/// What has come of a stream.
#[derive(Default)]
struct Heard {
    buffer: BytesMut,
    /// The end of it.
    said: Vec<u8>,
}

impl Heard {
    /// The next one, with its flag, once it is there as a whole.
    fn message(&mut self) -> Result<Option<(u8, Bytes)>, NotRun> {
        let Some((head, _)) = self.buffer.split_first_chunk::<5>() else { return Ok(None) };
        let [flag, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(NotRun::Lost(format!("a message of {length} bytes")));
        }
        if self.buffer.len() < head.len() + length {
            return Ok(None);
        }
        self.buffer.advance(head.len());
        Ok(Some((flag, self.buffer.split_to(length).freeze())))
    }

    /// What came of it, where that is the end.
    fn take(&mut self, (flag, message): (u8, Bytes)) -> Result<Option<Ran>, NotRun> {
        if flag & LAST != 0 {
            let Trailer { error } = serde_json::from_slice(&message).unwrap_or_default();
            return Err(match error {
                Some(error) if error.code == "not_found" => NotRun::Gone,
                Some(error) if error.code == "deadline_exceeded" => {
                    NotRun::Refused("it took longer than it may".to_owned())
                }
                Some(error) if error.code == "resource_exhausted" => NotRun::Lost(error.message),
                Some(error) => NotRun::Refused(error.message),
                None => lost("it ended without an end"),
            });
        }
        let Message { event } = serde_json::from_slice(&message).map_err(lost)?;
        if let Some(Data { stdout, stderr }) = event.data {
            for text in [stdout, stderr].into_iter().flatten() {
                self.keep(&BASE64_STANDARD.decode(text).unwrap_or_default());
            }
        }
        Ok(event.end.map(|End { exit_code, exited }| Ran {
            exit_code: exited.then_some(exit_code),
            said: end_of(&self.said),
        }))
    }

    fn keep(&mut self, said: &[u8]) {
        self.said.extend_from_slice(&said[said.len().saturating_sub(KEPT)..]);
        self.said.drain(..self.said.len().saturating_sub(KEPT));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(flag: u8, text: &str) -> Vec<u8> {
        let mut all = vec![flag];
        all.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        all.extend(text.as_bytes());
        all
    }

    /// What is made of that stream, in pieces of that length.
    fn heard(stream: &[u8], piece: usize) -> Result<Option<Ran>, NotRun> {
        let mut heard = Heard::default();
        for piece in stream.chunks(piece) {
            heard.buffer.extend_from_slice(piece);
            while let Some(message) = heard.message()? {
                if let Some(ran) = heard.take(message)? {
                    return Ok(Some(ran));
                }
            }
        }
        Ok(None)
    }

    fn stream(end: &str) -> Vec<u8> {
        let said = BASE64_STANDARD.encode("on the way\n");
        let data = format!(r#"{{"event":{{"data":{{"stderr":"{said}"}}}}}}"#);
        let start = message(0, r#"{"event":{"start":{"pid":7}}}"#);
        let alive = message(0, r#"{"event":{"keepalive":{}}}"#);
        [start, alive, message(0, &data), message(0, end)].concat()
    }

    #[test]
    fn a_stream_is_read_whatever_it_is_cut_into() {
        let end = r#"{"event":{"end":{"exitCode":3,"exited":true,"status":"exit status 3"}}}"#;
        let ran = Ran { exit_code: Some(3), said: "on the way".to_owned() };
        for piece in [1, 4, 5, 7, 1000] {
            assert_eq!(heard(&stream(end), piece).unwrap(), Some(ran.clone()));
        }
        let good = r#"{"event":{"end":{"exited":true,"status":"exit status 0"}}}"#;
        assert_eq!(heard(&stream(good), 64).unwrap().unwrap().exit_code, Some(0));
        let killed = r#"{"event":{"end":{"exitCode":-1,"status":"signal: killed"}}}"#;
        assert_eq!(heard(&stream(killed), 64).unwrap().unwrap().exit_code, None);
    }

    #[test]
    fn what_an_envd_refuses_or_has_forgotten_is_told_apart() {
        let last = |code: &str| {
            let text = format!(r#"{{"error":{{"code":"{code}","message":"why"}}}}"#);
            heard(&message(LAST, &text), 64).unwrap_err()
        };
        assert!(matches!(last("not_found"), NotRun::Gone));
        assert!(matches!(last("invalid_argument"), NotRun::Refused(why) if why == "why"));
        assert!(matches!(last("deadline_exceeded"), NotRun::Refused(_)));
        assert!(matches!(last("resource_exhausted"), NotRun::Lost(_)));
        assert!(matches!(heard(&message(LAST, "{}"), 64), Err(NotRun::Lost(_))));
    }

    #[test]
    fn of_endless_output_an_end_is_kept_and_an_endless_message_is_none() {
        let mut heard = Heard::default();
        for _ in 0..100 {
            heard.keep(&[b'x'; 10_000]);
            heard.keep(b"y");
        }
        assert!(heard.said.len() == KEPT && heard.said.ends_with(b"xy"));
        heard.buffer.extend([0, 0xff, 0xff, 0xff, 0xff]);
        assert!(heard.message().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_break(bytes: Vec<u8>, piece in 1..20_usize) {
            let _ = heard(&bytes, piece);
        }
    }
}
