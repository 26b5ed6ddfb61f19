//! A gateway of our own: the release binary with a data directory and a port of its own, ended
//! with all its sandboxes however a run ends. Or the one at a URL, which is left as it is found.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, ToSocketAddrs},
    os::unix::{fs::symlink, process::CommandExt},
    path::{self, Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use http::Uri;

use crate::{api::Api, machine, scratch::Scratch};

/// Where there are no keys, any will do that looks like one.
const ANY_KEY: &str = "e2b_0000000000000000000000000000000000000000";
/// What it says on stderr, for when it does not start.
const LOG: &str = "log";
/// More than any run has.
const MAX_SANDBOXES: &str = "1200";

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Measure the gateway that is there already instead of starting one
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// API key for --url
    #[arg(long, global = true, env = "E2B_API_KEY", hide_env_values = true, default_value = ANY_KEY)]
    api_key: String,
    /// The gateway's binary
    #[arg(long, global = true, env = "COPPICE_BIN", default_value = "target/release/coppice")]
    coppice: PathBuf,
    /// Templates shared by gateways; `base` is built there when it is missing
    #[arg(long, global = true, default_value = "target/e2e/templates")]
    templates: PathBuf,
}

pub(crate) struct Gateway {
    pub(crate) api: Arc<Api>,
    own: Option<Own>,
}

struct Own {
    process: Child,
    binary: PathBuf,
    data_dir: PathBuf,
    flags: Vec<String>,
    scratch: Scratch,
}

impl Gateway {
    /// One of our own does not answer yet: see [`Self::ready`]. It is started with `flags`.
    pub(crate) fn reach(options: &Options, flags: &[&str]) -> anyhow::Result<Self> {
        let Some(url) = &options.url else { return Self::start(options, flags) };
        let (address, authority) = resolve(url)?;
        Ok(Self { api: Api::new(address, &authority, &options.api_key), own: None })
    }

    fn start(options: &Options, flags: &[&str]) -> anyhow::Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "sandboxes take root: run this as root");
        let binary = fs::canonicalize(&options.coppice)
            .with_context(|| format!("{}: no gateway to measure", options.coppice.display()))?;
        let scratch = Scratch::new()?;
        let data_dir = scratch.path().join("d");
        private_dir(&data_dir)?;
        private_dir(&options.templates)?;
        symlink(path::absolute(&options.templates)?, data_dir.join("templates"))
            .context("templates")?;
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let process = serve(&binary, nowhere, &data_dir, &flags, &scratch)?;
        let own = Own { process, binary, data_dir, flags, scratch };
        Ok(Self { api: Api::new(nowhere, "", ""), own: Some(own) })
    }

    /// Kills one of our own and starts it anew where it was, with the sandboxes it had. When the
    /// new process was started; it is ready by now.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<Instant> {
        let own = self.own.as_mut().context("another's gateway is not restarted")?;
        own.process.kill().context("kill the gateway")?;
        own.process.wait().context("waiting for the gateway")?;
        let start = Instant::now();
        let address = self.api.address();
        own.process = serve(&own.binary, address, &own.data_dir, &own.flags, &own.scratch)?;
        self.ready().await?;
        Ok(start)
    }

    /// Waits until a sandbox can be made; where the template is missing, that takes minutes.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let stdout = own.process.stdout.take().context("the gateway was waited for before")?;
        let first = tokio::task::spawn_blocking(move || {
            let mut said = String::new();
            BufReader::new(stdout).read_line(&mut said).map(|_| said)
        });
        let said = first.await?.context("the gateway's first line")?;
        let Some(url) = said.trim().strip_prefix("listening on ") else {
            let log = fs::read_to_string(own.scratch.path().join(LOG)).unwrap_or_default();
            bail!("the gateway did not start; its log:\n{log}");
        };
        let (address, authority) = resolve(url)?;
        self.api = Api::new(address, &authority, ANY_KEY);
        Ok(())
    }

    /// The process of a gateway of our own.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.own.as_ref().map(|own| own.process.id())
    }

    /// Ends a gateway of our own with all its sandboxes.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        let Some(mut own) = self.own.take() else { return Ok(()) };
        let down = command(&own.binary).arg("down").arg("--data-dir").arg(&own.data_dir).output();
        // `down` has stopped it; killed, it cannot be waited for in vain.
        let _ = own.process.kill();
        own.process.wait().context("waiting for the gateway")?;
        let down = down.context("coppice down")?;
        let said = String::from_utf8_lossy(&down.stderr);
        ensure!(down.status.success(), "coppice down: {}: {}", down.status, said.trim());
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("error: the gateway could not be ended: {error:#}");
        }
    }
}

/// The tree of template `base`, for peers to run in.
pub(crate) fn template(options: &Options) -> anyhow::Result<PathBuf> {
    let record = options.templates.join("base.json");
    let text = fs::read_to_string(&record)
        .with_context(|| format!("{}: no template for the peers", record.display()))?;
    let record: serde_json::Value = serde_json::from_str(&text).context("base.json")?;
    let layer = record["layers"][0].as_str().context("base.json names no layer")?;
    fs::canonicalize(options.templates.join("layers").join(layer)).context("layer")
}

fn serve(
    binary: &Path,
    listen: SocketAddr,
    data_dir: &Path,
    flags: &[String],
    scratch: &Scratch,
) -> anyhow::Result<Child> {
    command(binary)
        .args(["serve", "--listen", &listen.to_string(), "--log-level", "warn"])
        .args(["--max-sandboxes", MAX_SANDBOXES, "--data-dir"])
        .arg(data_dir)
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(fs::File::create(scratch.path().join(LOG)).context(LOG)?)
        // Ctrl-C in a terminal is for this program, which then ends the gateway.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))
}

/// The gateway's binary with nothing of our environment that it would read as settings.
fn command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COPPICE_") {
            command.env_remove(name);
        }
    }
    command
}

fn private_dir(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| path.display().to_string())
}

fn resolve(url: &str) -> anyhow::Result<(SocketAddr, String)> {
    let uri: Uri = url.parse().with_context(|| format!("url {url}"))?;
    ensure!(uri.scheme_str() == Some("http"), "url {url}: only http:// is measured");
    let authority = uri.authority().with_context(|| format!("url {url}"))?;
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let mut found = (host, port).to_socket_addrs().with_context(|| format!("url {url}"))?;
    let address = found.next().with_context(|| format!("url {url}: no address"))?;
    Ok((address, authority.to_string()))
}

/// What a result says of the gateway.
pub(crate) fn described(gateway: &Gateway, flags: &[&str]) -> String {
    match gateway.own {
        Some(_) => {
            let flags: String = flags.iter().map(|flag| format!(" {flag}")).collect();
            format!(
                "started for this run, {} of tokio's workers; default settings, but for --max-sandboxes \
                 {MAX_SANDBOXES} --log-level warn{flags}",
                (machine::cores() / 2).max(1)
            )
        }
        None => "found running; its settings are not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_address_and_what_to_call_it() {
        let (address, authority) = resolve("http://127.0.0.1:3000/").unwrap();
        assert_eq!(
            (address.to_string(), authority),
            ("127.0.0.1:3000".into(), "127.0.0.1:3000".into())
        );
        assert_eq!(resolve("http://[::1]:8").unwrap().0.to_string(), "[::1]:8");
        for wrong in ["https://127.0.0.1:3000", "127.0.0.1:3000", "http://"] {
            assert!(resolve(wrong).is_err(), "{wrong}");
        }
    }
}
