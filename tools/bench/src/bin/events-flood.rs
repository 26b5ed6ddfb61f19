//! `events-flood RATE SECONDS DIR`: so many events a second into the bus, with the file that events
//! are kept in and one exporter of each kind, none of which gets anything through; what that takes,
//! as JSON. For `bench events`, as no client can have so many happen.

use std::{
    error::Error,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use coppice::{
    config::{self, Flags},
    events::{
        Events, New, What,
        export::Exporters,
        store::{History, Settings},
    },
    metrics::Metrics,
    sandbox::{SandboxId, Tenant},
};
use tokio_util::sync::CancellationToken;

/// Told at once, and then nothing until the next are due.
const BURST: u32 = 200;
/// Of each command's output.
const OUTPUT: usize = 200;

/// As `coppice serve` takes them.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, rate, seconds, dir] = &args[..] else {
        return Err("usage: events-flood RATE SECONDS DIR".into());
    };
    let (rate, seconds, dir) = (rate.parse::<u32>()?, seconds.parse::<u64>()?, Path::new(dir));
    let (events, metrics, stop) = (Events::default(), Metrics::default(), CancellationToken::new());
    let history = History::open(&Settings::of(dir), &events, stop.clone())?;
    let path = dir.join("settings.toml");
    fs::write(&path, settings(dir)?)?;
    let Cli { flags } =
        Cli::parse_from([OsStr::new("events-flood"), OsStr::new("--config"), path.as_ref()]);
    let config = config::load(flags)?;
    let exporters = Exporters::start(&config.events.exporters, dir, &events, &metrics)?;
    let sandboxes: Vec<SandboxId> = (0..100).map(|_| SandboxId::random()).collect();
    let template: Arc<str> = "base".into();

    let (before, cpu_before) = (resident()?, cpu()?);
    let (mut grown, mut took) = (Vec::new(), Vec::new());
    let (began, mut told) = (Instant::now(), 0_u64);
    let every = Duration::from_secs(1) * BURST / rate;
    let mut due = began;
    let mut look = began + Duration::from_secs(1);
    while began.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(due.saturating_duration_since(Instant::now())).await;
        due += every;
        for n in 0..BURST {
            let sandbox = sandboxes[n as usize % sandboxes.len()];
            let what = what(told)?;
            let start = Instant::now();
            let new = New::of(sandbox, Tenant::default(), template.clone(), what);
            events.emit(new);
            took.push(start.elapsed().as_nanos() as u32);
            told += 1;
        }
        if Instant::now() > look {
            look += Duration::from_secs(1);
            grown.push((resident()? - before) / 1024.0);
        }
    }
    let lasted = began.elapsed().as_secs_f64();
    let spent = cpu()? - cpu_before;
    took.sort_unstable();
    let p99 = f64::from(took[took.len() * 99 / 100]) / 1e3;
    let mut lost = 0;
    events.each_lost(|name, n| lost += if name == "store" { n } else { 0 });
    stop.cancel();
    drop(history);
    exporters.stop(Duration::from_secs(1)).await;
    let found = serde_json::json!({
        "events": told, "seconds": lasted, "emit_p99_us": p99, "grown_mib": grown,
        "cpu_seconds": spent, "lost_by_file": lost,
    });
    println!("{found}");
    Ok(())
}

fn what(n: u64) -> Result<What, serde_json::Error> {
    let (kind, data) = if n.is_multiple_of(2) {
        ("exec.started", serde_json::json!({"command": format!("npm test {n}"), "cwd": "/home"}))
    } else {
        let output = "x".repeat(OUTPUT);
        ("exec.completed", serde_json::json!({"exitCode": 0, "durationMs": n, "stdout": output}))
    };
    serde_json::from_value(serde_json::json!({"type": kind, "data": data}))
}

/// Where nobody listens.
fn settings(dir: &Path) -> Result<String, Box<dyn Error>> {
    let token = dir.join("token");
    fs::write(&token, "none\n")?;
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let (at, token) = (format!("http://127.0.0.1:{port}"), token.display());
    let exporters = [
        ("db", "postgres", format!("connection_string = \"host=127.0.0.1 port={port} user=x\"")),
        ("ax", "axiom", format!("url = \"{at}\"\ndataset = \"d\"\ntoken_file = \"{token}\"")),
        ("http", "otlp", format!("traces_endpoint = \"{at}\"")),
        ("grpc", "otlp", format!("traces_endpoint = \"{at}\"\nprotocol = \"grpc\"")),
        ("program", "program", "path = \"/bin/false\"".to_owned()),
    ];
    let tables = exporters.map(|(name, kind, table)| {
        format!(
            "[[events.exporters]]\nname = \"{name}\"\nkind = \"{kind}\"\n\
             [events.exporters.{kind}]\n{table}\n"
        )
    });
    Ok(tables.concat())
}

/// KiB.
fn resident() -> Result<f64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(kib.parse()?)
}

/// Seconds that this process has taken.
fn cpu() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').ok_or("no stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok());
    // Of a hundred in a second, on every Linux there is.
    let both = ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) / 100.0);
    both.ok_or_else(|| "no times".into())
}
