//! The resolvers this host uses, as far as a sandbox could use them too.

use std::{fs, net::IpAddr};

/// In the order in which they are tried: systemd-resolved listens on loopback only and keeps the
/// servers it asks in a file of its own.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// What `/etc/resolv.conf` names; where that is only on loopback, what systemd-resolved asks.
pub(super) fn of_this_host() -> Vec<IpAddr> {
    let files = FILES.map(|path| fs::read_to_string(path).unwrap_or_default());
    reachable(&files)
}

fn reachable(files: &[String]) -> Vec<IpAddr> {
    let found = files.iter().map(|text| servers(text)).find(|servers| !servers.is_empty());
    found.unwrap_or_default()
}

/// The servers of a resolv.conf(5) that are not the host's own.
fn servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(words.next()?)
    });
    // A zone (`fe80::1%eth0`) does not parse, and means nothing in a sandbox's network.
    let addresses = lines.filter_map(|word| word.parse().ok());
    addresses.filter(|ip: &IpAddr| !ip.is_loopback() && !ip.is_unspecified()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_on_loopback_are_replaced_by_those_that_resolved_asks() {
        let stub = "# stub\nnameserver 127.0.0.53\noptions edns0\n".to_owned();
        let real =
            "nameserver 192.0.2.1\nnameserver fe80::1%2\nnameserver 2001:db8::1\n".to_owned();
        let expected: Vec<IpAddr> =
            ["192.0.2.1", "2001:db8::1"].iter().map(|ip| ip.parse().unwrap()).collect();
        assert_eq!(reachable(&[stub.clone(), real.clone()]), expected);
        assert_eq!(reachable(&[real, stub.clone()]), expected);
        assert_eq!(reachable(&[stub, String::new()]), Vec::<IpAddr>::new());
    }
}
