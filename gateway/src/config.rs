//! The gateway's settings: flags beat the environment, the environment beats the file.
//!
//! A setting has one name everywhere: `--max-sandboxes`, `COPPICE_MAX_SANDBOXES`, and the key
//! `max-sandboxes` of the TOML file. This module reads and checks; what a setting does is said
//! where it is used.

use std::{
    collections::BTreeMap,
    env,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    agents::Agents,
    auth::Keys,
    backend::{self, JailOptions, NetworkMode},
    events::Tariff,
    limits::Bounds,
    sandbox::PoolRules,
    template::Recipe,
};

mod addresses;
mod agents;
mod amounts;
mod cost;
mod domain;
mod events;
mod file;
mod jail;
mod logging;
mod network;
mod otlp;
mod pool;
mod resolvers;
mod scrub;
mod tls;

use addresses::{address, addresses};
pub use events::Events;
use file::read_file;
use logging::LogFlags;
pub use logging::{LogFile, LogFormat, Logging, level_named};
pub use otlp::{Otlp, Protocol, Way};
pub use tls::{Certificate, Tls};

/// Every setting that a flag, a variable or a line of the file can give.
const NAMES: [&str; 32] = [
    "listen",
    "data-dir",
    "backend",
    "domain",
    "metrics-listen",
    "tls-listen",
    "tls-cert",
    "tls-key",
    "acme-directory",
    "acme-hook",
    "acme-contact",
    "acme-ca",
    "api-keys-file",
    "stop-sandboxes-on-exit",
    "max-sandboxes",
    "max-timeout",
    "memory-headroom",
    "disk-headroom",
    "sandbox-disk",
    LIMITS,
    "pool",
    "pool-memory",
    "network",
    "allow-inherit",
    "dns",
    "jail",
    "templates",
    cost::NAME,
    cost::RESOURCE_EVENTS,
    events::NAME,
    agents::NAME,
    "config",
];
const LIMITS: &str = "limits";

fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain(logging::NAMES)
}

/// Only from the environment: a command line is seen by every user of the host.
const KEYS_VARIABLE: &str = "COPPICE_API_KEYS";

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// All a gateway is told.
#[derive(Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    /// Under which sandboxes are reached, `<port>-<id>.<domain>`; may carry a port.
    pub domain: Option<String>,
    pub tls: Option<Tls>,
    /// Where `/metrics` is without a key, and nothing else is.
    pub metrics_listen: Option<SocketAddr>,
    pub keys: Keys,
    pub log: Logging,
    pub stop_sandboxes_on_exit: bool,
    pub max_sandboxes: usize,
    /// `None`: as long as clients like.
    pub max_timeout: Option<Duration>,
    /// Bytes.
    pub memory_headroom: u64,
    /// Bytes; `None` is as it suits the disk.
    pub disk_headroom: Option<u64>,
    /// Bytes, for templates that do not say; `None` is no bound.
    pub sandbox_disk: Option<u64>,
    /// Of each sandbox, whatever its template says.
    pub limits: Bounds,
    pub pool: PoolRules,
    pub network: NetworkMode,
    /// Empty: none was found.
    pub dns: Vec<IpAddr>,
    pub jail: JailOptions,
    /// To be built where they are missing, `base` first.
    pub templates: Vec<Recipe>,
    pub tariff: Tariff,
    /// Seconds between two events of what a sandbox uses; 0 is none.
    pub resource_events: u32,
    pub events: Events,
    pub agents: Agents,
}

impl Config {
    /// Refuses to let others than the users of this host in without a key. Only for who listens:
    /// `down` and `doctor` are run with the same settings.
    pub fn check_for_serving(&self) -> Result<(), Error> {
        let addresses = [
            ("listen", Some(self.listen)),
            ("tls-listen", self.tls.as_ref().map(|tls| tls.listen)),
        ];
        for (name, listen) in addresses {
            let Some(listen) = listen.filter(|listen| !listen.ip().is_loopback()) else { continue };
            if !self.keys.is_open() {
                continue;
            }
            return Err(Error(format!(
                "{name}: {listen} can be reached from elsewhere, so API keys are needed: make one, \
                 `coppice key create --api-keys-file keys.toml`, and give --api-keys-file \
                 keys.toml; or listen on 127.0.0.1"
            )));
        }
        Ok(())
    }
}

/// As given on the command line.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Flags {
    /// Address to listen on [env: COPPICE_LISTEN] [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Where everything is kept, at most 48 bytes long [env: COPPICE_DATA_DIR] [default: var]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// What sandboxes are made of: auto, jail (FreeBSD) or linux [env: COPPICE_BACKEND] [default: auto]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Sandboxes are reached under PORT-ID.DOMAIN [env: COPPICE_DOMAIN] [default: localhost:PORT]
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Address of /metrics alone, which needs no key there [env: COPPICE_METRICS_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    metrics_listen: Option<String>,
    /// Address to speak TLS on as well [env: COPPICE_TLS_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    tls_listen: Option<String>,
    /// Certificate and its chain, in PEM; taken up anew when it changes [env: COPPICE_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<String>,
    /// The certificate's private key, in PEM [env: COPPICE_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// An authority's ACME directory, to get the certificate for --domain from; whoever names it
    /// agrees to its terms [env: COPPICE_ACME_DIRECTORY]
    #[arg(long, value_name = "URL")]
    acme_directory: Option<String>,
    /// What sets DNS records: PROGRAM present|cleanup NAME VALUE [env: COPPICE_ACME_HOOK]
    #[arg(long, value_name = "PROGRAM")]
    acme_hook: Option<String>,
    /// Address for mail that the authority is told [env: COPPICE_ACME_CONTACT]
    #[arg(long, value_name = "MAIL")]
    acme_contact: Option<String>,
    /// Whom to trust as the authority, in PEM [env: COPPICE_ACME_CA] [default: whom the system does]
    #[arg(long, value_name = "FILE")]
    acme_ca: Option<String>,
    /// File of API keys, as `coppice key` makes it or one a line; taken up anew when it changes;
    /// more in COPPICE_API_KEYS [env: COPPICE_API_KEYS_FILE]
    #[arg(long, value_name = "FILE")]
    api_keys_file: Option<String>,
    #[command(flatten)]
    log: LogFlags,
    /// End all sandboxes when the gateway stops [env: COPPICE_STOP_SANDBOXES_ON_EXIT] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    stop_sandboxes_on_exit: Option<String>,
    /// Most sandboxes at once [env: COPPICE_MAX_SANDBOXES] [default: 200]
    #[arg(long, value_name = "N")]
    max_sandboxes: Option<String>,
    /// The longest a sandbox may run without a pause, in hours [env: COPPICE_MAX_TIMEOUT] [default: none]
    #[arg(long, value_name = "HOURS")]
    max_timeout: Option<String>,
    /// Memory of the host to leave alone, in MiB [env: COPPICE_MEMORY_HEADROOM] [default: 256]
    #[arg(long, value_name = "MIB")]
    memory_headroom: Option<String>,
    /// Disk of the data directory to leave free of snapshots and forks, in MiB [env: COPPICE_DISK_HEADROOM] [default: 1024, less on a small disk]
    #[arg(long, value_name = "MIB")]
    disk_headroom: Option<String>,
    /// What a sandbox may write, in MiB, enforced on btrfs and ZFS; 0 is no bound [env: COPPICE_SANDBOX_DISK] [default: 0]
    #[arg(long, value_name = "MIB")]
    sandbox_disk: Option<String>,
    /// What each sandbox may use at most, whatever its template says: memory=512,open-files=4096,..;
    /// a table in the file [env: COPPICE_LIMITS] [default: none]
    #[arg(long, value_name = "NAME=N,...")]
    limits: Option<String>,
    /// Sandboxes kept ready, by template; a table in the file [env: COPPICE_POOL] [default: code-interpreter-v1=1]
    #[arg(long, value_name = "TEMPLATE=N,...")]
    pool: Option<String>,
    /// Memory that those may take together, in MiB [env: COPPICE_POOL_MEMORY] [default: 2048]
    #[arg(long, value_name = "MIB")]
    pool_memory: Option<String>,
    /// For sandboxes that do not say: nat, none or inherit [env: COPPICE_NETWORK] [default: nat]
    #[arg(long, value_name = "MODE")]
    network: Option<String>,
    /// Network inherit, the host's own, for development on FreeBSD [env: COPPICE_ALLOW_INHERIT] [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_inherit: Option<String>,
    /// Resolvers for sandboxes, by commas [env: COPPICE_DNS] [default: the host's]
    #[arg(long, value_name = "IP,IP")]
    dns: Option<String>,
    /// More for jails, FreeBSD: procfs, tmpfs, vmemory=MIB, readbps=MIB, writebps=MIB; a table in
    /// the file [env: COPPICE_JAIL] [default: none]
    #[arg(long, value_name = "OPTION,...")]
    jail: Option<String>,
    /// Templates to build where they are missing: base, or base,code-interpreter-v1
    /// [env: COPPICE_TEMPLATES] [default: base,code-interpreter-v1]
    #[arg(long, value_name = "NAME,NAME")]
    templates: Option<String>,
    /// What sandboxes cost, for events of it: core-second=N,gib-second=N,paused-gib-hour=N; a table
    /// in the file [env: COPPICE_COST] [default: none]
    #[arg(long, value_name = "NAME=N,...")]
    cost: Option<String>,
    /// Between two events of what a sandbox uses; 0 is none [env: COPPICE_RESOURCE_EVENTS] [default: 30]
    #[arg(long, value_name = "SECONDS")]
    resource_events: Option<String>,
    /// Agents whose sandboxes are counted together, by ids; tables in the file [env: COPPICE_AGENTS]
    #[arg(long, value_name = "ID,ID")]
    agents: Option<String>,
    /// TOML file of settings named as the flags are [env: COPPICE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

impl Flags {
    fn named(self) -> BTreeMap<&'static str, String> {
        let values = [
            self.listen,
            self.data_dir,
            self.backend,
            self.domain,
            self.metrics_listen,
            self.tls_listen,
            self.tls_cert,
            self.tls_key,
            self.acme_directory,
            self.acme_hook,
            self.acme_contact,
            self.acme_ca,
            self.api_keys_file,
            self.stop_sandboxes_on_exit,
            self.max_sandboxes,
            self.max_timeout,
            self.memory_headroom,
            self.disk_headroom,
            self.sandbox_disk,
            self.limits,
            self.pool,
            self.pool_memory,
            self.network,
            self.allow_inherit,
            self.dns,
            self.jail,
            self.templates,
            self.cost,
            self.resource_events,
            None,
            self.agents,
            self.config,
        ];
        let named = NAMES.into_iter().zip(values);
        let named = named.chain(logging::NAMES.into_iter().zip(self.log.values()));
        named.filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// A domain that is given outside of the settings.
pub fn domain(text: &str) -> Result<String, Error> {
    let domain = domain::parse(text).and_then(|domain| domain.ok_or("a domain".to_owned()));
    domain.map_err(|allowed| Error(format!("{text:?} is not {allowed}")))
}

/// The file of keys, as this process's settings name it.
pub fn api_keys_file(
    file: Option<String>,
    config: Option<String>,
) -> Result<Option<PathBuf>, Error> {
    let flags = Flags { api_keys_file: file, config, ..Flags::default() };
    let mut given = Given::new(flags.named(), &|name: &str| env::var(name).ok())?;
    Ok(given.0.remove("api-keys-file").map(|(path, _)| path.into()))
}

/// The settings of this process.
pub fn load(flags: Flags) -> Result<Config, Error> {
    read(flags.named(), |name| env::var(name).ok())
}

fn read(
    flags: BTreeMap<&'static str, String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Config, Error> {
    let mut given = Given::new(flags, &variable)?;

    given.take("backend", "auto", |text| match text {
        "auto" => Ok(()),
        name if name == backend::BUILT_IN => Ok(()),
        "jail" | "linux" => Err(format!("auto or {}, on this system", backend::BUILT_IN)),
        _ => Err("auto, jail or linux".to_owned()),
    })?;
    let listen = given.take("listen", "127.0.0.1:3000", address)?;
    let tls = given.tls()?;
    let keys = given.keys(variable(KEYS_VARIABLE))?;
    Ok(Config {
        listen,
        metrics_listen: given.take("metrics-listen", "", |text| match text {
            "" => Ok(None),
            given => address(given).map(Some),
        })?,
        tls,
        keys,
        data_dir: given.take("data-dir", "var", |text| Ok(PathBuf::from(text)))?,
        domain: given.take("domain", "", domain::parse)?,
        log: given.logging()?,
        stop_sandboxes_on_exit: given.take("stop-sandboxes-on-exit", "false", |text| {
            text.parse().map_err(|_| "true or false".to_owned())
        })?,
        max_sandboxes: given.number("max-sandboxes", "200", 1, 100_000)?,
        max_timeout: given.take("max-timeout", "none", amounts::hours)?,
        disk_headroom: given.take("disk-headroom", "auto", amounts::headroom)?,
        memory_headroom: (given.number("memory-headroom", "256", 0, 1 << 24)? as u64) << 20,
        sandbox_disk: match given.number("sandbox-disk", "0", 0, 1 << 32)? as u64 {
            0 => None,
            mib => Some(mib << 20),
        },
        limits: given.take(LIMITS, "", Bounds::parse)?,
        pool: given.pool()?,
        network: given.network()?,
        dns: match given.take("dns", "", addresses)? {
            none if none.is_empty() => resolvers::of_this_host(),
            given => given,
        },
        jail: given.jail()?,
        templates: given.take("templates", "base,code-interpreter-v1", recipes)?,
        tariff: given.tariff()?,
        resource_events: given.resource_events()?,
        events: given.events(&variable)?,
        agents: given.agents()?,
    })
}

/// Sandboxes are of `base` where nothing else is said, so it is always one of them.
fn recipes(text: &str) -> Result<Vec<Recipe>, String> {
    let named = text.split(',').map(|name| Recipe::named(name.trim()));
    let recipes = named.collect::<Option<Vec<_>>>().filter(|all| all.contains(&Recipe::Base));
    recipes.ok_or_else(|| "base, or base,code-interpreter-v1".to_owned())
}

/// What was given, by name, and where, for the message of an error.
struct Given(BTreeMap<String, (String, String)>);

impl Given {
    fn new(
        flags: BTreeMap<&'static str, String>,
        variable: &impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let mut given = BTreeMap::new();
        for name in names() {
            let of_env = format!("COPPICE_{}", name.replace('-', "_").to_uppercase());
            if let Some(value) = variable(&of_env).filter(|value| !value.is_empty()) {
                given.insert(name.to_owned(), (value, of_env));
            }
        }
        for (name, value) in flags {
            given.insert(name.to_owned(), (value, format!("--{name}")));
        }
        if let Some((path, place)) = given.get("config").cloned() {
            for (name, value) in read_file(Path::new(&path), &place)? {
                let place = format!("{name} in {path}");
                given.entry(name).or_insert((value, place));
            }
        }
        Ok(Self(given))
    }

    /// The setting `name` or its default, made into what it means; `parse` fails with what is
    /// allowed.
    fn take<T>(
        &mut self,
        name: &str,
        default: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Error> {
        let given = self.0.remove(name);
        let (value, place) = given.unwrap_or_else(|| (default.to_owned(), name.to_owned()));
        parse(&value).map_err(|allowed| Error(format!("{place}: {value:?} is not {allowed}")))
    }

    fn number(
        &mut self,
        name: &str,
        default: &str,
        least: usize,
        most: usize,
    ) -> Result<usize, Error> {
        self.take(name, default, |text| {
            let number = text.parse().ok().filter(|n| (least..=most).contains(n));
            number.ok_or_else(|| format!("a whole number from {least} to {most}"))
        })
    }

    fn keys(&mut self, of_env: Option<String>) -> Result<Keys, Error> {
        let of_env = Keys::parse(&of_env.unwrap_or_default())
            .map_err(|e| Error(format!("{KEYS_VARIABLE}: {e}")))?;
        let Some((path, place)) = self.0.remove("api-keys-file") else { return Ok(of_env) };
        of_env.with_file(Path::new(&path)).map_err(|e| Error(format!("{place}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    type Pairs<'a> = &'a [(&'static str, &'a str)];

    pub(super) fn config(flags: Pairs, variables: Pairs) -> Result<Config, Error> {
        let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        read(flags, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file_which_beats_the_defaults() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let toml = "listen = \"127.0.0.1:1\"\nmax-sandboxes = 7\nnetwork = \"none\"\n\
                    stop-sandboxes-on-exit = true\nlimits = {open-files = 99}\ndns = [\"192.0.2.1\", \"192.0.2.2\"]\n";
        fs::write(file.path(), toml).unwrap();
        let path = file.path().to_str().unwrap();
        let environment = [("COPPICE_LISTEN", "127.0.0.1:2"), ("COPPICE_MAX_SANDBOXES", "8")];
        let all = config(&[("listen", "127.0.0.1:3"), ("config", path)], &environment).unwrap();
        assert_eq!(all.listen.port(), 3);
        assert_eq!(all.max_sandboxes, 8);
        assert_eq!(all.network, NetworkMode::None);
        assert!(all.stop_sandboxes_on_exit);
        assert_eq!(all.limits, Bounds::parse("open-files=99").unwrap());
        assert_eq!(all.dns.len(), 2);
        assert_eq!(all.max_timeout, None);
        assert_eq!(all.data_dir, Path::new("var"));
        let empty = config(&[], &[("COPPICE_LISTEN", ""), ("COPPICE_DOMAIN", "")]).unwrap();
        assert_eq!((empty.listen.port(), empty.domain), (3000, None));
    }

    #[test]
    fn every_wrong_value_is_refused_with_its_setting_and_what_is_allowed() {
        for (flag, value, expected) in [
            ("listen", "localhost", "--listen: \"localhost\" is not an IP address and a port"),
            ("listen", "127.0.0.1:99999", "127.0.0.1:3000"),
            ("backend", "docker", "auto, jail or linux"),
            ("log-level", "loud", "error, warn, info, debug or trace"),
            ("log-format", "xml", "text or json"),
            ("stop-sandboxes-on-exit", "yes", "true or false"),
            ("max-sandboxes", "0", "a whole number from 1 to 100000"),
            ("max-sandboxes", "-1", "--max-sandboxes"),
            ("max-timeout", "1.5", "none, or a whole number of hours from 1 to 8760"),
            ("memory-headroom", "1G", "a whole number"),
            ("disk-headroom", "1G", "auto, or a whole number of MiB"),
            ("dns", "one.one", "IP addresses"),
            ("templates", "code-interpreter-v1", "base, or base,code-interpreter-v1"),
            ("limits", "memory=0", "memory from 1 to 4294967296 MiB"),
            ("templates", "base,mine", "base, or base,code-interpreter-v1"),
            ("domain", "https://x.org", "without a scheme"),
            ("domain", "*.x.org", "a name such as"),
            ("domain", "x.org:0", "a name such as"),
            ("api-keys-file", "/no/such/file", "--api-keys-file: cannot read /no/such/file"),
            ("config", "/no/such/file", "--config: /no/such/file"),
        ] {
            let error = config(&[(flag, value)], &[]).err().expect(value).to_string();
            assert!(error.contains(expected), "{error}");
        }
        let error = config(&[], &[("COPPICE_MAX_TIMEOUT", "x")]).err().unwrap().to_string();
        assert!(error.starts_with("COPPICE_MAX_TIMEOUT:"), "{error}");
        let error = config(&[], &[("COPPICE_API_KEYS", "e2b_12")]).err().unwrap().to_string();
        assert!(error.starts_with("COPPICE_API_KEYS:") && error.contains("too short"), "{error}");
    }

    #[test]
    fn another_systems_backend_is_refused() {
        let other = if backend::BUILT_IN == "linux" { "jail" } else { "linux" };
        let error = config(&[("backend", other)], &[]).err().unwrap().to_string();
        assert!(error.contains("on this system"), "{error}");
        assert!(config(&[("backend", backend::BUILT_IN)], &[]).is_ok());
    }

    #[test]
    fn unknown_keys_and_malformed_files_are_refused_with_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        for (toml, expected) in [
            ("max_sandboxes = 5", "there is no setting \"max_sandboxes\", only listen"),
            ("listen = ", path),
            ("listen = 1.5", "listen must be"),
            ("max-sandboxes = \"many\"", "max-sandboxes in "),
        ] {
            fs::write(file.path(), toml).unwrap();
            let error = config(&[("config", path)], &[]).err().expect(toml).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn without_keys_only_loopback_is_listened_on() {
        let key = format!("e2b_{}", "0".repeat(40));
        for listen in ["0.0.0.0:3000", "[::]:3000", "192.0.2.1:3000"] {
            // As good as any for a command that listens on nothing.
            let without = config(&[("listen", listen)], &[]).unwrap();
            let error = without.check_for_serving().unwrap_err().to_string();
            assert!(error.contains("--api-keys-file"), "{error}");
            let with = config(&[("listen", listen)], &[("COPPICE_API_KEYS", &key)]).unwrap();
            assert!(with.check_for_serving().is_ok());
        }
        let loopback = config(&[("listen", "[::1]:3000")], &[]).unwrap();
        assert!(loopback.check_for_serving().is_ok());
    }
}
