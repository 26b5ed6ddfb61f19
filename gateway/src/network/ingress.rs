//! Who may reach a sandbox's ports, and how what is behind them is spoken to.

use std::collections::BTreeSet;

use envd::wire::ENVD_PORT;
use http::HeaderValue;
use serde::{Deserialize, Serialize};

/// Each is looked for among the others with every request.
pub const MOST_PORTS: usize = 100;
/// Longer names are none.
const LONGEST_HOST: usize = 253;
/// What stands for a port in [`Ingress::host`].
const PORT: &str = "${PORT}";

/// Said once, when the sandbox is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingress {
    /// Whoever knows its id may reach its ports.
    pub public: bool,
    /// What its servers are told as the host they are asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mask_host: Option<String>,
    /// Ports whose servers speak TLS.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    https_ports: BTreeSet<u16>,
}

impl Default for Ingress {
    fn default() -> Self {
        Self { public: true, mask_host: None, https_ports: BTreeSet::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIngress {
    #[error("maskRequestHost must be a host in ASCII of at most {LONGEST_HOST} characters")]
    Host,
    #[error("httpsPorts: {0} is not a port between 1 and 65535")]
    Port(u64),
    #[error("httpsPorts: port {ENVD_PORT} is the sandbox's own")]
    OwnPort,
    #[error("httpsPorts has more than {MOST_PORTS} entries")]
    TooMany,
}

impl Ingress {
    /// # Errors
    /// What of it cannot be had, as clients are told.
    pub fn new(
        public: bool,
        mask_host: Option<String>,
        https_ports: &[u64],
    ) -> Result<Self, InvalidIngress> {
        let mask_host = mask_host.filter(|host| !host.is_empty());
        if mask_host.as_deref().is_some_and(|host| !is_host(host)) {
            return Err(InvalidIngress::Host);
        }
        if https_ports.len() > MOST_PORTS {
            return Err(InvalidIngress::TooMany);
        }
        let port = |&port: &u64| match u16::try_from(port) {
            Ok(ENVD_PORT) => Err(InvalidIngress::OwnPort),
            Ok(port) if port > 0 => Ok(port),
            _ => Err(InvalidIngress::Port(port)),
        };
        let https_ports = https_ports.iter().map(port).collect::<Result<_, _>>()?;
        Ok(Self { public, mask_host, https_ports })
    }

    pub fn mask_host(&self) -> Option<&str> {
        self.mask_host.as_deref()
    }

    pub fn https_ports(&self) -> &BTreeSet<u16> {
        &self.https_ports
    }

    /// The host that the server on that port is to be told, where it is not the client's.
    pub fn host(&self, port: u16) -> Option<HeaderValue> {
        let host = self.mask_host.as_deref()?.replace(PORT, &port.to_string());
        HeaderValue::from_str(&host).ok()
    }

    pub fn speaks_tls(&self, port: u16) -> bool {
        self.https_ports.contains(&port)
    }
}

/// A name or an address, with a port or without; not more, as it goes into a header.
fn is_host(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    text.len() <= LONGEST_HOST && text.replace(PORT, "1").bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ingress(host: &str, ports: &[u64]) -> Result<Ingress, InvalidIngress> {
        Ingress::new(true, Some(host.to_owned()), ports)
    }

    #[test]
    fn a_host_is_told_with_its_port_put_in() {
        let told = |host: &str| ingress(host, &[]).unwrap().host(8080).unwrap();
        assert_eq!(told("localhost:${PORT}"), "localhost:8080");
        assert_eq!(told("${PORT}-app.example.com"), "8080-app.example.com");
        assert_eq!(told("[::1]"), "[::1]");
        assert_eq!(ingress("", &[]).unwrap(), Ingress::default());
        for wrong in ["a b", "ü.de", "a\r\nb: c", "a/b", "a@b", "${port}", "{PORT}", "a,b"] {
            assert_eq!(ingress(wrong, &[]), Err(InvalidIngress::Host), "{wrong}");
        }
        assert_eq!(ingress(&"a".repeat(254), &[]), Err(InvalidIngress::Host));
    }

    #[test]
    fn a_port_that_speaks_tls_is_a_user_s() {
        let some = ingress("", &[443, 3000, 443]).unwrap();
        assert!(some.speaks_tls(443) && some.speaks_tls(3000) && !some.speaks_tls(80));
        assert_eq!(ingress("", &[49983]), Err(InvalidIngress::OwnPort));
        for wrong in [0, 65_536, u64::MAX] {
            assert_eq!(ingress("", &[wrong]), Err(InvalidIngress::Port(wrong)));
        }
        let many: Vec<u64> = (1..=101).collect();
        assert_eq!(ingress("", &many), Err(InvalidIngress::TooMany));
    }
}
