//! What the gateway itself says to the envds of its sandboxes, and hears from them.

use std::{io, path::Path, pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use envd::{tunnel::Handed, wire::Init};
use http::{Request, header, request};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::{reports, task};
use crate::{
    events::Events,
    metrics::Metrics,
    sandbox::{Inside, NotRun, Ran, Sandbox, Task},
};

/// Of an envd that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of one on a host that is busy: what does not answer by then is lost with what it has in memory.
const HEALTH: Duration = Duration::from_secs(5);
/// For a kernel, which is a large program, on a host that is busy.
const WARMING: Duration = Duration::from_secs(60);

/// All of them.
pub struct Envds;

#[async_trait]
impl Inside for Envds {
    fn follow(&self, sandbox: Arc<Sandbox>, metrics: &Arc<Metrics>, events: &Events) {
        tokio::spawn(reports::follow(sandbox, metrics.clone(), events.clone()));
    }

    async fn answers(&self, dir: &Path) -> bool {
        let asked = ask(dir, Request::get("/health"), Vec::new());
        timeout(HEALTH, asked).await.is_ok_and(|answer| answer.is_ok())
    }

    async fn warm(&self, dir: &Path) -> io::Result<()> {
        timeout(WARMING, post(dir, "/warm", Vec::new())).await?
    }

    async fn begin(&self, dir: &Path, init: &Init) -> io::Result<()> {
        timeout(PATIENCE, post(dir, "/init", serde_json::to_vec(init)?)).await?
    }

    async fn run(&self, dir: &Path, token: &str, run: &Task, again: bool) -> Result<Ran, NotRun> {
        task::run(dir, token, run, again).await
    }
}

async fn post(dir: &Path, path: &str, body: Vec<u8>) -> io::Result<()> {
    ask(dir, Request::post(path), body).await
}

/// Of what is answered only the status is looked at.
async fn ask(dir: &Path, request: request::Builder, body: Vec<u8>) -> io::Result<()> {
    let stream = Handed::dial(&dir.join("envd.sock"))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let path = request.uri_ref().map(ToString::to_string).unwrap_or_default();
    let request = request
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(io::Error::other)?;
    let mut answer = pin!(sender.send_request(request));
    let answered = tokio::select! {
        answered = &mut answer => answered,
        ended = connection => match ended {
            // The answer may have come with the end.
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    let status = answered.map_err(io::Error::other)?.status();
    if status.is_success() {
        return Ok(());
    }
    Err(io::Error::other(format!("envd answers {path} with {status}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use envd::{
        Listeners,
        state::Envd,
        wire::{Attach, LinuxAttach, PROTOCOL, Spec},
    };
    use tokio::net::UnixListener;

    use super::*;

    fn init(token: &str, env: &[(&str, &str)]) -> Init {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Init {
            env_vars: Some(env.collect::<BTreeMap<_, _>>()),
            access_token: Some(token.to_owned()),
            ..Init::default()
        }
    }

    /// An envd outside of any sandbox.
    fn serve(dir: &Path) -> Arc<Envd> {
        let envd = Envd::new(&Spec {
            protocol: PROTOCOL,
            sandbox_id: "id".into(),
            template_id: "base".into(),
            descriptors: Vec::new(),
            attach: Attach::Linux(LinuxAttach {
                hostname: "sandbox".into(),
                memory_bytes: 0,
                shm_bytes: 0,
                cpus: Vec::new(),
                processes: 0,
                open_files: None,
                network: None,
            }),
            init: init("of nobody", &[("OLD", "1")]),
        });
        let listen = |name| UnixListener::bind(dir.join(name)).unwrap();
        let listeners = Listeners {
            envd: listen("envd.sock"),
            tunnel: listen("tunnel.sock"),
            report: listen("report.sock"),
        };
        tokio::spawn(envd::serve(envd.clone(), listeners));
        envd
    }

    #[tokio::test]
    async fn an_envd_is_told_whose_it_is_and_keeps_nothing_of_before() {
        let dir = tempfile::tempdir().unwrap();
        let envd = serve(dir.path());
        Envds.begin(dir.path(), &init("of its owner", &[("NEW", "2")])).await.unwrap();
        let settings = envd.settings();
        assert_eq!(settings.access_token.as_deref(), Some("of its owner"));
        assert_eq!(settings.env["NEW"], "2");
        assert!(!settings.env.contains_key("OLD"));
        assert_eq!(settings.env["E2B_SANDBOX_ID"], "id");
    }

    #[tokio::test]
    async fn an_envd_that_is_gone_mute_or_of_another_mind_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Envds.begin(dir.path(), &Init::default()).await.is_err());
        let listener = UnixListener::bind(dir.path().join("envd.sock")).unwrap();
        let began = tokio::time::Instant::now();
        let mute = Envds.begin(dir.path(), &Init::default()).await;
        assert!(mute.is_err() && began.elapsed() >= PATIENCE);
        drop(listener);
        std::fs::remove_file(dir.path().join("envd.sock")).unwrap();
        serve(dir.path());
        let refused = post(dir.path(), "/health/x", Vec::new()).await.unwrap_err().to_string();
        assert!(refused.starts_with("envd answers /health/x with 4"), "{refused}");
    }
}
