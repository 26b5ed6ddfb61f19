//! `coppice serve`.

use std::{io::Write, net::SocketAddr, path::Path, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use coppice::{
    Gateway, Parts,
    backend::{self, Backend, NetworkMode},
    config::{self, Config, Flags},
    data_dir::DataDir,
    front_door::FrontDoor,
    serve::Entrance,
    template::{Recipe, Store},
    tls::Certificates,
};
use futures_util::stream;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// After a signal: open requests have so long, then what the registry is about has.
const DRAIN: Duration = Duration::from_secs(2);
const FINISH: Duration = Duration::from_millis(2500);
/// Between one look at the files of the certificate and the next.
const LOOK: Duration = Duration::from_secs(2);

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
    // From here on, and with nothing to take up anew too: left alone it would end the process.
    let asked_anew = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    if config.network == NetworkMode::Nat && config.dns.is_empty() {
        tracing::warn!(
            "no resolver found that sandboxes could reach: names will not resolve; give --dns"
        );
    }
    let (listener, address) = listen("listen", config.listen).await?;
    let secure = match &config.tls {
        None => None,
        Some(tls) => {
            let certificates = Certificates::open(tls.files.clone()).context("TLS")?;
            let (listener, address) = listen("tls-listen", tls.listen).await?;
            Some((certificates, listener, address))
        }
    };
    let secure_address = secure.as_ref().map(|(_, _, address)| *address);
    let host = super::host(&config, data_dir)?;
    host.prepare().await.context("the host cannot be made ready; `coppice doctor` says more")?;
    let templates = Store::open(data_dir, |name, step| tracing::info!("template {name}: {step}"))?;
    templates.plan(&config.templates);
    let find = Box::new({
        let templates = templates.clone();
        move |name: &str| templates.find(name)
    });
    let sandboxes = super::sandboxes(&config, data_dir, host, find);
    sandboxes.adopt_all().await?;

    let domain = told_domain(&config, address, secure_address);
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
        async move { tokio::join!(sandboxes.keep_tidy(), sandboxes.keep_pool()) }
    });
    let (registry, metrics) = (sandboxes.registry().clone(), sandboxes.metrics().clone());
    let front_door = FrontDoor::new(registry, metrics, config.domain, coppice::router(gateway));
    let mut entrances = vec![Entrance::plain(listener)];
    let certificates = match secure {
        None => None,
        Some((certificates, listener, _)) => {
            entrances.push(Entrance::tls(listener, certificates.server().context("TLS")?));
            Some(certificates)
        }
    };
    tokio::spawn(follow(certificates, asked_anew));
    let server = tokio::spawn(coppice::serve::run(entrances, front_door, stop.clone()));
    let ready = tokio::select! {
        made = announce(&templates, address, secure_address) => made,
        () = stop.cancelled() => Ok(()),
    };
    if ready.is_ok() {
        tokio::select! {
            () = build_others(&templates, &config.templates) => stop.cancelled().await,
            () = stop.cancelled() => {}
        }
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

async fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("{setting}: cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Below which clients are told that sandboxes are. Whatever they make of it begins with `https://`.
fn told_domain(config: &Config, plain: SocketAddr, secure: Option<SocketAddr>) -> String {
    let listened = secure.unwrap_or(plain).port();
    let Some(domain) = &config.domain else { return format!("localhost:{listened}") };
    let (name, told) = domain.split_once(':').unwrap_or((domain, "443"));
    if secure.is_some() && told != listened.to_string() {
        tracing::warn!(
            "clients are told to find sandboxes on port {told} of *.{name}, and TLS is spoken on \
             port {listened}: lead the one to the other, or give --domain {name}:{listened}"
        );
    }
    domain.clone()
}

/// Takes a new certificate up when its files change, and when asked.
async fn follow(certificates: Option<Arc<Certificates>>, mut asked: Signal) {
    if let Some(certificates) = certificates {
        certificates.follow(LOOK, stream::poll_fn(|cx| asked.poll_recv(cx))).await;
        return;
    }
    while asked.recv().await.is_some() {
        tracing::info!("SIGHUP: without TLS there is no certificate to take up anew");
    }
}

/// Says so on stdout as soon as a sandbox can be made.
async fn announce(
    templates: &Arc<Store>,
    plain: SocketAddr,
    secure: Option<SocketAddr>,
) -> anyhow::Result<()> {
    templates.ensure(Recipe::Base).await.context("template base cannot be made")?;
    let mut lines = format!("listening on http://{plain}\n");
    if let Some(secure) = secure {
        lines += &format!("listening on https://{secure}\n");
    }
    // All at once: who has read the first line may read the second.
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(lines.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Sandboxes of `base` are made meanwhile, and also if nothing comes of it.
async fn build_others(templates: &Store, recipes: &[Recipe]) {
    for recipe in recipes.iter().filter(|recipe| **recipe != Recipe::Base) {
        if let Err(error) = templates.ensure(*recipe).await {
            tracing::error!("template {} cannot be made: {error}", recipe.name());
        }
    }
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
