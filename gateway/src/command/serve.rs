//! `coppice serve`.

use std::{io::Write, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use coppice::{
    Gateway, Parts,
    backend::{self, Backend, NetworkMode},
    config::{self, Config, Flags},
    data_dir::DataDir,
    front_door::FrontDoor,
    template::Store,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// After a signal: open requests have so long, then what the registry is about has.
const DRAIN: Duration = Duration::from_secs(2);
const FINISH: Duration = Duration::from_millis(2500);

pub(crate) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    let config = config::load(flags)?;
    config.check_for_serving()?;
    super::log(&config);
    let data_dir = DataDir::claim(&config.data_dir)?;
    let path = data_dir.path().to_owned();
    super::run_in(data_dir, serve(config, &path))
}

async fn serve(config: Config, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let stop = stop_on_signal()?;
    if config.network == NetworkMode::Nat && config.dns.is_empty() {
        tracing::warn!(
            "no resolver found that sandboxes could reach: names will not resolve; give --dns"
        );
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen: cannot listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    let host = super::host(&config, data_dir)?;
    host.prepare().await.context("the host cannot be made ready; `coppice doctor` says more")?;
    let templates = Store::open(data_dir)?;
    let sandboxes = super::sandboxes(&config, data_dir, host, templates.clone());
    sandboxes.adopt_all().await?;

    let domain = config.domain.clone().unwrap_or_else(|| format!("localhost:{}", address.port()));
    let gateway = Gateway::new(Parts {
        sandboxes: sandboxes.clone(),
        templates: Box::new({
            let templates = templates.clone();
            move || templates.available()
        }),
        keys: config.keys,
        domain,
        max_timeout: config.max_timeout,
        disk_bytes: backend::disk_size(data_dir).context("cannot measure the data-dir")?,
    });

    let tidy = tokio::spawn({
        let sandboxes = sandboxes.clone();
        async move { sandboxes.keep_tidy().await }
    });
    let registry = sandboxes.registry().clone();
    let front_door = FrontDoor::new(registry, config.domain, coppice::router(gateway));
    let server = tokio::spawn(coppice::serve::run(listener, front_door, stop.clone()));
    let ready = tokio::select! {
        made = announce(&templates, address) => made,
        () = stop.cancelled() => Ok(()),
    };
    if ready.is_ok() {
        stop.cancelled().await;
        tracing::info!("stopping");
    }
    stop.cancel();
    if tokio::time::timeout(DRAIN, server).await.is_err() {
        tracing::debug!("some connections were cut");
    }
    if !sandboxes.stop(config.stop_sandboxes_on_exit, FINISH).await {
        tracing::warn!("stopped in the middle of something; the next start goes on with it");
    }
    tidy.abort();
    ready.map(|()| ExitCode::SUCCESS)
}

/// Says so on stdout as soon as a sandbox can be made.
async fn announce(templates: &Arc<Store>, address: std::net::SocketAddr) -> anyhow::Result<()> {
    templates.ensure_base().await.context("template base cannot be made")?;
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "listening on http://{address}")?;
    stdout.flush()?;
    Ok(())
}

/// The token is cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}
