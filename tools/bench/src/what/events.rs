//! What events cost whoever uses a sandbox: a command's round trip with every kind of exporter on,
//! none of which gets anything through, against events off, in turns in the same run. Then how many
//! a second the gateway's bus, file and exporters take, and in how much memory: by a program of the
//! gateway's own, since no client can have so many happen.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::{Stage, command::Commands};
use crate::{
    gateway::Gateway,
    load::{Closed, Lane, interleave},
    report::{At, Of, Report},
    scratch::Scratch,
};

const FLAGS: [&str; 4] = ["--pool", "base=0", "--templates", "base"];
const OFF: &str = "coppice, events off";
/// A second.
const RATE: u32 = 20_000;

pub(super) async fn measure(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    round_trips(stage, report).await?;
    flood(stage, report)
}

async fn round_trips(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let dead = Dead::new()?;
    let (on, off) = (scratch.path().join("on.toml"), scratch.path().join("off.toml"));
    fs::write(&on, dead.settings(scratch.path())?).context("settings")?;
    fs::write(&off, "[events]\nenabled = false\n").context("settings")?;
    let (mut on, mut off) = (with(stage, &on)?, with(stage, &off)?);
    on.ready().await?;
    off.ready().await?;
    let hook = serde_json::json!({
        "name": "dead", "url": dead.mute(), "events": ["*"], "signatureSecret": "none"
    });
    on.api.post(&mut on.api.client(), "/events/webhooks", &hook).await?;
    report.note(
        "postgres and axiom (connection refused), otlp over http (connection refused) and \
         over grpc with metrics each second (accepted, never answered), a program that fails, and a \
         webhook (accepted, never answered); `as it is` keeps events in its file and nothing else",
    );
    let mut lanes = Vec::new();
    for (who, gateway) in
        [("coppice, all exporters dead", &on), (OFF, &off), ("coppice, as it is", &stage.gateway)]
    {
        let sandbox = gateway.api.create(&mut gateway.api.client()).await?;
        let commands = Closed(vec![Commands::new(&sandbox)]);
        lanes.push(Lane::new("run /bin/true", who, "one at a time", commands));
    }
    interleave(&mut lanes, stage.rounds(20, 200)).await?;
    report.lanes(&lanes, Of::P50);
    let aim = "command, all exporters on and dead, by events off, p50";
    report.aim_ratio(aim, At::Most, 1.05, &lanes[0], OFF);
    on.end()?;
    off.end()
}

fn with(stage: &Stage, settings: &Path) -> anyhow::Result<Gateway> {
    ensure!(stage.found.url.is_none(), "events: gateways of its own are needed, leave --url out");
    let settings = settings.to_str().context("where settings are")?;
    Gateway::reach(&stage.found, &[&FLAGS[..], &["--config", settings]].concat())
}

/// Where nothing arrives: a port that nobody listens on, and one that nobody answers on.
struct Dead {
    closed: SocketAddr,
    mute: TcpListener,
}

impl Dead {
    fn new() -> anyhow::Result<Self> {
        let listen = || TcpListener::bind("127.0.0.1:0").context("a port");
        Ok(Self { closed: listen()?.local_addr()?, mute: listen()? })
    }

    fn mute(&self) -> String {
        self.mute.local_addr().map_or_else(|_| String::new(), |at| format!("http://{at}/"))
    }

    fn settings(&self, scratch: &Path) -> anyhow::Result<String> {
        let token = scratch.join("token");
        fs::write(&token, "none\n").context("token")?;
        private(&token)?;
        let (closed, mute, token) = (self.closed, self.mute(), token.display());
        let port = closed.port();
        let exporter = |name: &str, kind: &str, table: String| {
            format!(
                "[[events.exporters]]\nname = \"{name}\"\nkind = \"{kind}\"\n\
                 [events.exporters.{kind}]\n{table}\n"
            )
        };
        let http = format!("endpoint = \"http://{closed}\"");
        let grpc =
            format!("endpoint = \"{mute}\"\nprotocol = \"grpc\"\nmetrics_interval_ms = 1000");
        let axiom = format!("url = \"http://{closed}\"\ndataset = \"d\"\ntoken_file = \"{token}\"");
        let postgres = format!("connection_string = \"host=127.0.0.1 port={port} user=nobody\"");
        Ok([
            "[events]\nwebhooks_allow = [\"127.0.0.0/8\"]\n".to_owned(),
            exporter("db", "postgres", postgres),
            exporter("axiom", "axiom", axiom),
            exporter("http", "otlp", http),
            exporter("grpc", "otlp", grpc),
            exporter("program", "program", "path = \"/bin/false\"".to_owned()),
        ]
        .concat())
    }
}

fn private(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("settings")
}

/// What the gateway's own program says.
#[derive(Deserialize)]
struct Flood {
    events: u64,
    seconds: f64,
    /// For one to be told (microseconds).
    emit_p99_us: f64,
    /// Beside what the program took before.
    grown_mib: Vec<f64>,
    cpu_seconds: f64,
    lost_by_file: u64,
}

fn flood(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let seconds = if stage.amount.quick { 1 } else { 60 };
    let own = std::env::current_exe().context("where this program is")?;
    let program = own.with_file_name("events-flood");
    let scratch = Scratch::new()?;
    let done = Command::new(&program)
        .args([&RATE.to_string(), &seconds.to_string()])
        .arg(scratch.path())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{}: not built?", program.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "events-flood: {}: {}", done.status, said.trim());
    let found: Flood = serde_json::from_slice(&done.stdout).context("what events-flood says")?;
    let rate = found.events as f64 / found.seconds;
    let how = format!("{RATE}/s for {seconds} s into the file and the same exporters, dead");
    report.figures(&format!("memory beside the beginning, {how}"), "MiB", &found.grown_mib);
    report.figures("CPU for a second of it", "s", &[found.cpu_seconds / found.seconds]);
    report.figures("99 of 100 events are told within", "µs", &[found.emit_p99_us]);
    report.figures("events that the file lacks", "", &[found.lost_by_file as f64]);
    report.aim("events a second, sustained", At::Least, f64::from(RATE) * 0.99, "/s", rate);
    let most = found.grown_mib.iter().copied().fold(0.0, f64::max);
    report.aim("memory for it at the most", At::Most, 256.0, "MiB", most);
    Ok(())
}
