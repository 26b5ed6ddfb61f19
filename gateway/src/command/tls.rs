//! `coppice tls dev-ca`: certificates for `E2B_DOMAIN` mode on one machine, and what to do with them.

use std::{
    io::Write,
    path::{self, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Subcommand;
use coppice::{
    config,
    tls::{Authority, Made},
};

#[derive(Subcommand)]
pub(crate) enum Tls {
    /// Make a private authority, where there is none, and a new wildcard certificate of it
    DevCa {
        /// Where both are kept
        dir: PathBuf,
        /// Sandboxes are reached under PORT-ID.DOMAIN; may carry a port
        #[arg(long)]
        domain: String,
    },
}

pub(crate) fn run(tls: Tls) -> anyhow::Result<ExitCode> {
    let Tls::DevCa { dir, domain } = tls;
    let domain = config::domain(&domain).context("--domain")?;
    let dir = path::absolute(&dir).with_context(|| dir.display().to_string())?;
    let (name, port) = domain.split_once(':').unwrap_or((&domain, "443"));
    let authority = Authority::of(&dir, name)?;
    let made = authority.issue()?;
    let mut out = std::io::stdout().lock();
    explain(&mut out, &made, authority.new, &domain, name, port)?;
    Ok(ExitCode::SUCCESS)
}

fn explain(
    out: &mut impl Write,
    made: &Made,
    new: bool,
    domain: &str,
    name: &str,
    port: &str,
) -> std::io::Result<()> {
    let (ca, cert, key) = (made.ca.display(), made.files.cert.display(), made.files.key.display());
    let authority = if new { "a new authority" } else { "the authority that was there" };
    write!(
        out,
        "\
# A certificate for {name} and *.{name}, by {authority}.
# The gateway; one that is running takes a new certificate up by itself:
coppice serve --domain {domain} --tls-listen 127.0.0.1:{port} --tls-cert {cert} --tls-key {key}

# Its clients:
export E2B_DOMAIN={domain}
export SSL_CERT_FILE={ca}
export NODE_EXTRA_CA_CERTS={ca}

# Every name below {name} has to lead to the gateway. On one machine dnsmasq does that, with
address=/{name}/127.0.0.1
# in a file below /etc/dnsmasq.d and `nameserver 127.0.0.1` first in /etc/resolv.conf. /etc/hosts
# knows no wildcards; it takes one line for the API and one more for every port of every sandbox:
#   127.0.0.1 api.{name}
#   127.0.0.1 49983-<sandbox id>.{name}
"
    )
}

#[cfg(test)]
mod tests {
    use coppice::tls::Files;

    use super::*;

    #[test]
    fn what_to_do_is_said_in_lines_that_can_be_pasted() {
        let files = Files { cert: "/d/cert.pem".into(), key: "/d/key.pem".into() };
        let made = Made { files, ca: "/d/ca.pem".into() };
        let mut out = Vec::new();
        explain(&mut out, &made, true, "sbx.test:8443", "sbx.test", "8443").unwrap();
        let said = String::from_utf8(out).unwrap();
        for line in [
            "coppice serve --domain sbx.test:8443 --tls-listen 127.0.0.1:8443 --tls-cert \
             /d/cert.pem --tls-key /d/key.pem",
            "export E2B_DOMAIN=sbx.test:8443",
            "export SSL_CERT_FILE=/d/ca.pem",
            "export NODE_EXTRA_CA_CERTS=/d/ca.pem",
            "address=/sbx.test/127.0.0.1",
        ] {
            assert!(said.lines().any(|said| said == line), "{line}\nis not in\n{said}");
        }
    }
}
