//! Addresses, as settings have them.

use std::net::{IpAddr, SocketAddr};

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an IP address and a port, such as 127.0.0.1:3000".to_owned())
}

pub(super) fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
    parts
        .map(|part| part.parse().map_err(|_| "IP addresses, separated by commas".to_owned()))
        .collect()
}
