//! nginx with a configuration of our own, on loopback: serving and accepting files, and proxying.
//!
//! As many workers as the gateway has threads, no access log, connections kept open, and nothing
//! proxied written to disk on its way; the rest as it is by default.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{self, Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use super::find;
use crate::machine;

const STARTS: Duration = Duration::from_secs(5);

pub(crate) struct Nginx {
    process: Child,
}

impl Nginx {
    /// Serves the files below `<dir>/files`, and stores what is PUT there.
    pub(crate) fn files(binary: &Path, dir: &Path) -> anyhow::Result<(Self, SocketAddr)> {
        let address = free_address()?;
        let root = dir.join("files");
        fs::create_dir(&root).with_context(|| root.display().to_string())?;
        let server = format!(
            "server {{ listen {address}; root {}; location / {{ dav_methods PUT; }} }}",
            root.display()
        );
        Ok((Self::start(binary, dir, &server, address)?, address))
    }

    /// Proxies to `upstream` at two addresses: with connections to it kept open, and with one for
    /// each request, as nginx does by default.
    pub(crate) fn proxy(
        binary: &Path,
        dir: &Path,
        upstream: SocketAddr,
    ) -> anyhow::Result<(Self, SocketAddr, SocketAddr)> {
        let (kept, single) = (free_address()?, free_address()?);
        let servers = format!(
            "upstream kept {{ server {upstream}; keepalive 64; keepalive_requests 1000000; }}
            server {{ listen {kept}; location / {{ proxy_pass http://kept;
                proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }}
            server {{ listen {single}; location / {{ proxy_pass http://{upstream}; }} }}"
        );
        Ok((Self::start(binary, dir, &servers, single)?, kept, single))
    }

    fn start(
        binary: &Path,
        dir: &Path,
        servers: &str,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let config = dir.join("nginx.conf");
        fs::write(&config, configuration(dir, servers)).context("nginx.conf")?;
        let log = dir.join("nginx.log");
        let process = Command::new(binary)
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).context("nginx.log")?)
            .spawn()
            .with_context(|| binary.display().to_string())?;
        let mut nginx = Self { process };
        let began = Instant::now();
        while std::net::TcpStream::connect(address).is_err() {
            let ended = nginx.process.try_wait().context("nginx")?;
            if ended.is_some() || began.elapsed() > STARTS {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("nginx does not answer at {address}: {}", said.trim());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // By signal to the master, so that its workers end too.
        let pid = i32::try_from(self.process.id()).map(nix::unistd::Pid::from_raw);
        if let Ok(pid) = pid {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.process.wait();
    }
}

/// The one that was asked for, else Debian's.
pub(crate) fn binary(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    given.map_or_else(|| find("nginx"), |path| path::absolute(path).context("nginx"))
}

fn configuration(dir: &Path, servers: &str) -> String {
    let dir = dir.display();
    let workers = machine::cores();
    format!(
        "daemon off; worker_processes {workers}; user root; pid {dir}/nginx.pid;
        error_log stderr error;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
            client_max_body_size 0;
            client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
            proxy_max_temp_file_size 0;
            fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi;
            scgi_temp_path {dir}/scgi;
            {servers}
        }}\n"
    )
}

/// One that nobody listens on at this moment.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
    listener.local_addr().context("no free port")
}
