//! As much of the E2B API as is measured, spoken raw.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, request};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::{Client, Keep, Payload},
    envelope,
};

/// Where envd is reached.
const ENVD: u16 = 49_983;
const INTERPRETER: u16 = 49_999;
/// Longer than anything takes here, so that nothing expires while it is measured.
const TIMEOUT_SECONDS: u32 = 2 * 3600;
/// For what is paused to be on the disk, and between two looks whether it is.
const DURABLE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(2);

/// A gateway and the right to use it.
pub(crate) struct Api {
    address: SocketAddr,
    authority: String,
    key: String,
}

impl Api {
    pub(crate) fn new(address: SocketAddr, authority: &str, key: &str) -> Arc<Self> {
        Arc::new(Self { address, authority: authority.to_owned(), key: key.to_owned() })
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    fn request(&self, method: Method, path: &str) -> request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .header("x-api-key", &self.key)
    }

    pub(crate) async fn create(self: &Arc<Self>, client: &mut Client) -> anyhow::Result<Sandbox> {
        self.create_as(client, json!({})).await
    }

    /// With more fields than any create has.
    pub(crate) async fn create_as(
        self: &Arc<Self>,
        client: &mut Client,
        mut wanted: Value,
    ) -> anyhow::Result<Sandbox> {
        if wanted.get("templateID").is_none() {
            wanted["templateID"] = "base".into();
        }
        wanted["timeout"] = TIMEOUT_SECONDS.into();
        let wanted = wanted.to_string();
        let request = self
            .request(Method::POST, "/v2/sandboxes")
            .header("content-type", "application/json")
            .body(Payload::of(wanted))?;
        let answer = client.send(request, Keep::All).await?.successful().context("create")?;
        let made: Made = serde_json::from_slice(&answer.body).context("the answer to a create")?;
        Ok(Sandbox { api: Arc::clone(self), id: made.id, token: made.token })
    }

    pub(crate) async fn get(&self, client: &mut Client, path: &str) -> anyhow::Result<Value> {
        let request = self.request(Method::GET, path).body(Payload::empty())?;
        let answer =
            client.send(request, Keep::All).await?.successful().context(path.to_owned())?;
        serde_json::from_slice(&answer.body).context(path.to_owned())
    }

    pub(crate) async fn post(
        &self,
        client: &mut Client,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        let request = request.body(Payload::of(body.to_string()))?;
        let answer =
            client.send(request, Keep::All).await?.successful().context(path.to_owned())?;
        serde_json::from_slice(&answer.body).context(path.to_owned())
    }

    pub(crate) async fn delete(&self, client: &mut Client, path: &str) -> anyhow::Result<()> {
        let request = self.request(Method::DELETE, path).body(Payload::empty())?;
        client.send(request, Keep::Length).await?.successful().context(path.to_owned())?;
        Ok(())
    }

    /// A figure of `/metrics`, by its name and labels as they stand there.
    pub(crate) async fn figure(&self, client: &mut Client, name: &str) -> anyhow::Result<f64> {
        let request = self.request(Method::GET, "/metrics").body(Payload::empty())?;
        let answer = client.send(request, Keep::All).await?.successful().context("metrics")?;
        let text = std::str::from_utf8(&answer.body).context("metrics")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.with_context(|| format!("no {name} in /metrics"))?.parse().context("metrics")
    }

    /// All of `/metrics`, in that coding; its length.
    pub(crate) async fn scrape(&self, client: &mut Client, coding: &str) -> anyhow::Result<u64> {
        let request = self.request(Method::GET, "/metrics").header("accept-encoding", coding);
        let request = request.body(Payload::empty())?;
        Ok(client.send(request, Keep::Length).await?.successful().context("metrics")?.length)
    }

    pub(crate) async fn healthy(&self, client: &mut Client) -> anyhow::Result<()> {
        let request = self.request(Method::GET, "/health").body(Payload::empty())?;
        client.send(request, Keep::Length).await?.successful().context("health")?;
        Ok(())
    }
}

#[derive(Deserialize)]
struct Made {
    #[serde(rename = "sandboxID")]
    id: String,
    #[serde(rename = "envdAccessToken")]
    token: Option<String>,
}

/// A running sandbox. It is left running when dropped: a gateway of our own is ended with all of
/// them, and one that was given is another's.
#[derive(Clone)]
pub(crate) struct Sandbox {
    api: Arc<Api>,
    pub(crate) id: String,
    token: Option<String>,
}

impl Sandbox {
    pub(crate) fn client(&self) -> Client {
        self.api.client()
    }

    pub(crate) async fn kill(&self, client: &mut Client) -> anyhow::Result<()> {
        let path = format!("/sandboxes/{}", self.id);
        let request = self.api.request(Method::DELETE, &path).body(Payload::empty())?;
        client.send(request, Keep::Length).await?.successful().context("kill")?;
        Ok(())
    }

    pub(crate) async fn pause(&self, client: &mut Client) -> anyhow::Result<()> {
        let path = format!("/sandboxes/{}/pause", self.id);
        let request = self.api.request(Method::POST, &path).body(Payload::empty())?;
        client.send(request, Keep::Length).await?.successful().context("pause")?;
        Ok(())
    }

    /// It has to be paused.
    pub(crate) async fn resume(&self, client: &mut Client) -> anyhow::Result<()> {
        let path = format!("/v2/sandboxes/{}/connect", self.id);
        let request = self
            .api
            .request(Method::POST, &path)
            .header("content-type", "application/json")
            .body(Payload::of(json!({ "timeout": TIMEOUT_SECONDS }).to_string()))?;
        let answer = client.send(request, Keep::Length).await?.successful().context("connect")?;
        ensure!(answer.status == StatusCode::CREATED, "connect: {}: it ran", answer.status);
        Ok(())
    }

    /// It has to be paused; returns when it is on the disk.
    pub(crate) async fn until_durable(&self, client: &mut Client) -> anyhow::Result<()> {
        let path = format!("/sandboxes/{}", self.id);
        let deadline = Instant::now() + DURABLE;
        while Instant::now() < deadline {
            let request = self.api.request(Method::GET, &path).body(Payload::empty())?;
            let answer = client.send(request, Keep::All).await?.successful().context("look")?;
            let shown: Value = serde_json::from_slice(&answer.body).context("a sandbox")?;
            if shown.get("durableAt").is_some() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        bail!("not on the disk after {DURABLE:?}")
    }

    /// As its envd says, which can only be asked while it does.
    pub(crate) async fn is_running(&self, client: &mut Client) -> anyhow::Result<bool> {
        let request = self.to_envd(Method::GET, "/health").body(Payload::empty())?;
        Ok(client.send(request, Keep::Length).await?.status.is_success())
    }

    /// A request to one of its ports.
    pub(crate) fn to_port(&self, method: Method, port: u16, path: &str) -> request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.api.authority)
            .header("e2b-sandbox-id", &self.id)
            .header("e2b-sandbox-port", port)
    }

    fn to_envd(&self, method: Method, path: &str) -> request::Builder {
        let request = self.to_port(method, ENVD, path);
        match &self.token {
            Some(token) => request.header("x-access-token", token),
            None => request,
        }
    }

    /// Runs a program to its end, which has to be a good one.
    pub(crate) async fn run(
        &self,
        client: &mut Client,
        program: &str,
        args: &[&str],
    ) -> anyhow::Result<()> {
        let wanted = json!({ "process": { "cmd": program, "args": args }, "stdin": false });
        let request = self
            .to_envd(Method::POST, "/process.Process/Start")
            .header("content-type", "application/connect+json")
            .header("connect-protocol-version", "1")
            .body(Payload::of(envelope::wrap(wanted.to_string().as_bytes())))?;
        let answer =
            client.send(request, Keep::All).await?.successful().context(program.to_owned())?;
        check_events(&envelope::unwrap(answer.body).context(program.to_owned())?)
    }

    /// Runs code in the default context.
    pub(crate) fn execute(&self, code: &str) -> anyhow::Result<Request<Payload>> {
        let request = self.to_port(Method::POST, INTERPRETER, "/execute");
        let body = Payload::of(json!({ "code": code }).to_string());
        Ok(request.header("content-type", "application/json").body(body)?)
    }

    pub(crate) fn upload(&self, path: &str, file: Payload) -> anyhow::Result<Request<Payload>> {
        let request = self.to_envd(Method::POST, &format!("/files?path={path}"));
        Ok(request.header("content-type", "application/octet-stream").body(file)?)
    }

    pub(crate) fn download(&self, path: &str) -> anyhow::Result<Request<Payload>> {
        let request = self.to_envd(Method::GET, &format!("/files?path={path}"));
        Ok(request.body(Payload::empty())?)
    }
}

/// The first event is the start of a process, the last one its good end.
fn check_events(messages: &[Bytes]) -> anyhow::Result<()> {
    let event = |message: &Bytes| -> anyhow::Result<Value> {
        Ok(serde_json::from_slice::<Value>(message)?["event"].take())
    };
    let [first, .., last] = messages else {
        anyhow::bail!("{} events of a process", messages.len())
    };
    let (first, last) = (event(first)?, event(last)?);
    ensure!(first["start"]["pid"].is_u64(), "a process began with {first}");
    let end = &last["end"];
    ensure!(end["exited"] == true && end.get("exitCode").is_none(), "a process ended with {last}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_started_and_exited_well_counts_as_run() {
        let events = |texts: &[&str]| -> Vec<Bytes> {
            texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect()
        };
        let start = r#"{"event":{"start":{"pid":7}}}"#;
        let good = r#"{"event":{"end":{"exited":true,"status":"exit status 0"}}}"#;
        let bad = r#"{"event":{"end":{"exited":true,"exitCode":1}}}"#;
        assert!(check_events(&events(&[start, good])).is_ok());
        assert!(check_events(&events(&[start, r#"{"event":{"data":{}}}"#, good])).is_ok());
        for wrong in [&[start, bad][..], &[start], &[good], &[good, start], &[]] {
            assert!(check_events(&events(wrong)).is_err(), "{wrong:?}");
        }
    }
}
