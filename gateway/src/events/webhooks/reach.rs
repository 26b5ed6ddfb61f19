//! Where a webhook may lead. Its address is a tenant's word, and the gateway stands where tenants
//! do not: so neither the host itself nor what is around it is asked on their behalf, but for the
//! ranges that the operator names. Looked at after the name is resolved, for each connection, and
//! what was looked at is what is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use http::Uri;

use crate::network::is_closed;

/// The longest address (characters, of which each is a byte in a URL).
const LONGEST: usize = 2048;

/// A range of addresses of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    prefix: u8,
}

impl Range {
    fn has(self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                first.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                first.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for Range {
    type Err = ();

    /// An address, or one with the number of bits that count.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(drop)?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), |prefix| prefix.parse::<u8>().map_err(drop))?;
        if prefix > most { Err(()) } else { Ok(Self { first, prefix }) }
    }
}

/// What tenants may have asked.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Beyond what is public.
    pub allowed: Vec<Range>,
}

impl Reach {
    fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.names(address)
    }

    /// Whether the operator has said that it may be asked.
    pub(super) fn names(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allowed.iter().any(|range| range.has(address))
    }

    /// Those of what a name has resolved to that may be connected to. Public addresses of the host
    /// itself are none of them: from within, all that listens there is behind its firewall.
    pub(super) fn within(&self, found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let open = |ip: IpAddr| self.names(ip) || is_public(ip.to_canonical()) && !is_own(ip);
        found.filter(|address| open(address.ip())).collect()
    }

    /// Whether it may be an address of a webhook, as far as that can be told from what it says: a
    /// name is looked up when there is something to send.
    pub(super) fn check(&self, url: &str) -> Result<Uri, &'static str> {
        if url.len() > LONGEST {
            return Err("url is longer than 2048 bytes");
        }
        let uri: Uri = url.parse().map_err(|_| "url is not a URL")?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("url has to begin with http:// or https://");
        }
        let authority = uri.authority().ok_or("url names no host")?;
        if authority.as_str().contains('@') {
            return Err("url has a user in it: a secret is to be in signatureSecret");
        }
        let host = bare(authority.host());
        // What stands behind the host is a port, or nothing.
        let port_given = authority.as_str().len() > authority.host().len();
        let no_port = port_given && authority.port_u16().is_none_or(|port| port == 0);
        if host.is_empty() || no_port {
            return Err("url names no host and port that could be reached");
        }
        let closed = match host.parse::<IpAddr>() {
            Ok(address) => !self.has(address),
            Err(_) => is_local(host) && !self.has(Ipv4Addr::LOCALHOST.into()),
        };
        if closed {
            return Err(CLOSED);
        }
        Ok(uri)
    }
}

const CLOSED: &str = "url leads to the gateway's own host or a private network, which it does not ask for tenants; \
     its operator can allow ranges, by webhooks_allow";

/// An address without the brackets of IPv6.
pub(super) fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

fn is_local(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !is_closed(address) && !is_example(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Whether the host has it. Only what it has can be bound to, unless the host is set so that all can:
/// then this is of no use, and what nobody has is bound to as well.
fn is_own(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let nobodys = match address {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 1]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    };
    let binds = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    binds(address) && !binds(nobodys)
}

/// Of documents and of nobody: 192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, and the relays of
/// 192.88.99.0/24.
fn is_example(address: Ipv4Addr) -> bool {
    matches!(
        address.octets(),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] | [192, 88, 99, _]
    )
}

/// Of what is global unicast (2000::/3), whatever does not carry an IPv4 address along that is
/// reached by somebody else's translation.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let global = segments[0] & 0xe000 == 0x2000;
    let special = matches!(
        segments,
        // Protocols' own, Teredo and ORCHID among them; documents; 6to4; documents again.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x2002, ..] | [0x3fff, 0..=0x0fff, ..]
    );
    global && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(allowed: &[&str]) -> Reach {
        Reach { allowed: allowed.iter().map(|range| range.parse().unwrap()).collect() }
    }

    #[test]
    fn only_what_is_public_is_reached_however_it_is_written() {
        let none = reach(&[]);
        for closed in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "198.18.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "2001::1",
            "2001:db8::1",
            "fec0::1",
            "fd00:ec2::254",
        ] {
            assert!(!none.has(closed.parse().unwrap()), "{closed}");
        }
        for open in ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1", "2a00::1"] {
            assert!(none.has(open.parse().unwrap()), "{open}");
        }
    }

    #[test]
    fn what_the_host_has_is_its_own() {
        for own in ["127.0.0.1", "127.0.0.9", "::ffff:127.0.0.1"] {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in ["1.1.1.1", "198.51.100.7", "2606:4700::1111"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn the_operator_allows_ranges_and_no_more_than_them() {
        let some = reach(&["10.1.0.0/16", "127.0.0.1", "fd00::/8"]);
        for open in ["10.1.255.1", "127.0.0.1", "::ffff:10.1.0.1", "fd12::1"] {
            assert!(some.has(open.parse().unwrap()), "{open}");
        }
        for closed in ["10.2.0.1", "127.0.0.2", "fe80::1"] {
            assert!(!some.has(closed.parse().unwrap()), "{closed}");
        }
        assert!(reach(&["0.0.0.0/0"]).has("10.0.0.1".parse().unwrap()));
        for wrong in ["", "10", "10.0.0.0/33", "::/129", "a/8", "10.0.0.0/", "1.1.1.1/-1"] {
            assert_eq!(wrong.parse::<Range>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn an_address_that_can_be_seen_to_lead_inside_is_refused_at_once() {
        let none = reach(&[]);
        for good in ["https://example.com/x?y", "http://example.com:8080", "https://1.1.1.1/"] {
            assert!(none.check(good).is_ok(), "{good}");
        }
        for wrong in [
            "",
            "/x",
            "example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "http://",
            "https://user:pass@example.com/",
            "http://localhost:3000",
            "http://a.LOCALHOST./",
            "http://127.0.0.1/",
            "http://[::1]:80/",
            "http://[::ffff:169.254.169.254]/",
            "http://169.254.169.254/latest",
            "https://example.com:",
            "https://example.com:0/",
            "https://example.com:99999/",
        ] {
            assert!(none.check(wrong).is_err(), "{wrong}");
        }
        assert!(none.check(&format!("https://example.com/{}", "a".repeat(2048))).is_err());
        assert!(reach(&["127.0.0.0/8"]).check("http://localhost:3000").is_ok());
    }
}
