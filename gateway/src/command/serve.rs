//! `coppice serve`.

use std::{
    io::Write, net::SocketAddr, path::Path, process::ExitCode, sync::Arc, thread, time::Duration,
};

use anyhow::Context;
use coppice::{
    Gateway, Parts, agents,
    audit::Audit,
    backend::{self, Backend, NetworkMode},
    config::{self, Certificate, Config, Flags},
    data_dir::DataDir,
    events::{Scrub, export::Exporters, otlp, store::History, webhooks::Webhooks},
    front_door::FrontDoor,
    limits::Limit,
    logging::Log,
    metrics::Metrics,
    sandbox::Sandboxes,
    serve::{Entrance, Limits},
    template::{Recipe, Store},
    tls::{Acme, Certificates},
};
use envd::walls;
use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::Level;

/// After a signal: open requests and a template that is built have so long, then what the registry is
/// about has.
const DRAIN: Duration = Duration::from_secs(2);
const FINISH: Duration = Duration::from_millis(2500);
/// For the lines of the last requests.
const AUDIT: Duration = Duration::from_millis(250);
/// For the last events to get into the spools of exporters, and out of them where that is quick.
const EXPORT: Duration = AUDIT;
/// Between one look at the files of the certificate, or of the keys, and the next.
const LOOK: Duration = Duration::from_secs(2);

pub(crate) fn run(flags: Flags) -> anyhow::Result<ExitCode> {
    // While there is one thread.
    backend::shed_privileges().context("cannot give privileges away")?;
    let config = config::load(flags.clone())?;
    config.check_for_serving()?;
    let down = walls::check().map_err(anyhow::Error::msg)?;
    let log = Log::begin(&config.log)?;
    let done = begin(flags, config, &log, &down);
    log.settle();
    done
}

fn begin(flags: Flags, config: Config, log: &Log, down: &[&str]) -> anyhow::Result<ExitCode> {
    if !down.is_empty() {
        tracing::warn!(?down, "no code of others may run here: walls are down");
    }
    let log = Settings { flags, level: config.log.level, log: log.clone() };
    let data_dir = DataDir::claim(&config.data_dir)?;
    let path = data_dir.path().to_owned();
    super::run_in(data_dir, serve(config, log, &path))
}

async fn serve(config: Config, log: Settings, data_dir: &Path) -> anyhow::Result<ExitCode> {
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
            let (certificates, acme) = match &tls.certificate {
                Certificate::Files(files) => {
                    (Certificates::open(files.clone()).context("TLS")?, None)
                }
                Certificate::Acme(settings) => {
                    let acme = Acme::new(settings.clone(), data_dir);
                    (Certificates::expect(acme.files()), Some(acme))
                }
            };
            let (listener, address) = listen("tls-listen", tls.listen).await?;
            Some((certificates, acme, listener, address))
        }
    };
    let secure_address = secure.as_ref().map(|(_, _, _, address)| *address);
    let figures = match config.metrics_listen {
        None => None,
        Some(wanted) => Some(listen("metrics-listen", wanted).await?),
    };
    let host = super::host(&config, data_dir)?;
    host.prepare().await.context("the host cannot be made ready; `coppice doctor` says more")?;
    if config.sandbox_disk.is_some() && !host.enforces(Limit::Disk) {
        tracing::warn!("--sandbox-disk is told and not enforced: put the data-dir on btrfs or ZFS");
    }
    for limit in config.limits.said().filter(|limit| !host.enforces(*limit)) {
        tracing::warn!("--limits {limit} is told and not enforced: nothing here does");
    }
    let templates = Store::open(data_dir, |name, step| tracing::info!("template {name}: {step}"))?;
    templates.plan(&config.templates);
    let find = Box::new({
        let templates = templates.clone();
        move |name: &str| templates.find(name)
    });
    let sandboxes = super::sandboxes(&config, data_dir, host, find);
    sandboxes.events().scrub_by(Scrub::new(&config.events.scrub)?);
    let kept = config.events.kept(data_dir);
    let history = History::open(&kept, sandboxes.events(), stop.clone())
        .with_context(|| format!("cannot keep events in {}", kept.dir.display()))?;
    let exporters = Exporters::start(
        &config.events.exporters,
        data_dir,
        sandboxes.events(),
        sandboxes.metrics(),
    )?;
    let pushes = otlp::push_metrics(&config.events.exporters, &sandboxes, &stop);
    let webhooks = Webhooks::open(data_dir, config.events.webhooks.clone()).context("webhooks")?;
    webhooks.deliver(&sandboxes);
    if !config.events.enabled {
        sandboxes.events().close();
    }
    sandboxes.adopt_all().await?;
    sandboxes.begin_sampling().await;

    let domain = told_domain(&config, address, secure_address);
    let keys = config.keys.clone();
    let audit = Audit::open(data_dir, sandboxes.metrics()).context("cannot keep an audit trail")?;
    let gateway = Gateway::new(Parts {
        sandboxes: sandboxes.clone(),
        templates: Box::new({
            let templates = templates.clone();
            move || templates.available()
        }),
        keys: config.keys,
        audit: audit.clone(),
        history: history.clone(),
        webhooks: webhooks.clone(),
        agents: config.agents.clone(),
        domain,
        max_timeout: config.max_timeout,
        disk_bytes: backend::disk_size(data_dir).context("cannot measure the data-dir")?,
        log: log.log.clone(),
    });

    tokio::spawn(agents::keep_watch(config.agents.clone(), sandboxes.clone()));
    tokio::spawn(agents::keep_room(config.agents, sandboxes.clone()));
    let tidy = tokio::spawn({
        let sandboxes = sandboxes.clone();
        async move {
            let tidy = async { tokio::join!(sandboxes.keep_tidy(), sandboxes.keep_pool()) };
            tokio::join!(tidy, sandboxes.keep_sampling())
        }
    });
    if let Some((listener, address)) = figures {
        tell_figures(listener, address, &sandboxes, gateway.clone(), stop.clone());
    }
    let front_door = FrontDoor::new(sandboxes.clone(), config.domain, coppice::router(gateway));
    let mut entrances = vec![Entrance::plain(listener)];
    let certificates = match secure {
        None => None,
        Some((certificates, acme, listener, _)) => {
            sandboxes.metrics().certificate(certificates.until());
            if let Some(acme) = acme {
                let mut asked = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
                let asked = stream::poll_fn(move |cx| asked.poll_recv(cx));
                keep_certificate(acme, sandboxes.metrics().clone(), asked, stop.clone())?;
            }
            entrances.push(Entrance::tls(listener, certificates.server().context("TLS")?));
            Some(certificates)
        }
    };
    tokio::spawn(follow(certificates, log, asked_anew));
    let mut asked = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    tokio::spawn(async move {
        keys.follow(LOOK, stream::poll_fn(|cx| asked.poll_recv(cx))).await;
    });
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
    let built = tokio::time::timeout(DRAIN, templates.settled());
    let (drained, ended) = tokio::join!(tokio::time::timeout(DRAIN, server), built);
    if drained.is_err() {
        tracing::debug!("some connections were cut");
    }
    if ended.is_err() {
        tracing::debug!("what builds a template ends with the gateway");
    }
    if !sandboxes.stop(config.stop_sandboxes_on_exit, FINISH).await {
        tracing::warn!("stopped in the middle of something; the next start goes on with it");
    }
    tidy.abort();
    tokio::join!(
        audit.settle(AUDIT),
        history.settle(AUDIT),
        exporters.stop(EXPORT),
        webhooks.settle(EXPORT),
        pushes.join_all()
    );
    sandboxes.save_samples().await;
    ready.map(|()| ExitCode::SUCCESS)
}

async fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("{setting}: cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// For whoever asks there: `/metrics` alone.
fn tell_figures(
    listener: TcpListener,
    address: SocketAddr,
    sandboxes: &Sandboxes,
    gateway: Gateway,
    stop: CancellationToken,
) {
    tracing::info!("metrics on http://{address}/metrics");
    if !address.ip().is_loopback() {
        tracing::warn!(
            "metrics-listen: {address} can be reached from elsewhere, and whoever reaches it reads \
             what sandboxes there are and use"
        );
    }
    let door = FrontDoor::to_control(sandboxes.clone(), coppice::metrics_router(gateway));
    let entrance = vec![Entrance::plain(listener)];
    tokio::spawn(coppice::serve::run_within(Limits::few(), entrance, door, stop));
}

/// On a thread of its own: it reads and writes files, and nobody is to wait for those.
fn keep_certificate(
    acme: Acme,
    metrics: Arc<Metrics>,
    asked: impl Stream<Item = ()> + Unpin + Send + 'static,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start what gets certificates")?;
    let keep = move || {
        // Ends what it has under way, a program of the operator's among that.
        runtime.block_on(stop.run_until_cancelled(acme.keep(metrics, asked)));
    };
    thread::Builder::new().name("acme".into()).spawn(keep).context("cannot start a thread")?;
    Ok(())
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

/// Takes a new certificate up when its files change, and that and the log level when asked.
async fn follow(certificates: Option<Arc<Certificates>>, mut log: Settings, mut asked: Signal) {
    if let Some(certificates) = certificates {
        let asked = stream::poll_fn(|cx| asked.poll_recv(cx)).inspect(|()| log.take_up());
        certificates.follow(LOOK, asked).await;
        return;
    }
    while asked.recv().await.is_some() {
        log.take_up();
        tracing::info!("SIGHUP: without TLS there is no certificate to take up anew");
    }
}

/// What the log is told on SIGHUP.
struct Settings {
    flags: Flags,
    /// As they had it last. A call may have set another since, which stays until they have a new one:
    /// whoever only puts log files aside changes nothing else.
    level: Level,
    log: Log,
}

impl Settings {
    /// Reads the settings anew, of which all but this one wait for the next start.
    fn take_up(&mut self) {
        self.log.reopen();
        let level = match config::load(self.flags.clone()) {
            Ok(config) => config.log.level,
            Err(error) => {
                tracing::error!(%error, "SIGHUP: the settings cannot be read; the log level stays");
                return;
            }
        };
        if level != std::mem::replace(&mut self.level, level)
            && let Err(error) = self.log.set_level(level)
        {
            tracing::error!(%error, "SIGHUP");
        }
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
