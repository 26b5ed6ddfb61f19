//! Ranges of IPv4 addresses, and those that no sandbox reaches whatever its policy says.

use std::{fmt, net::Ipv4Addr, str::FromStr};

/// As both packet filters have them: this network, private, shared, loopback, link-local (with the
/// metadata services of clouds), benchmarks (the sandboxes themselves), multicast and reserved;
/// and one public address at which a cloud's platform answers its machines.
const CLOSED: [Cidr; 11] = [
    Cidr::new([0, 0, 0, 0], 8),
    Cidr::new([10, 0, 0, 0], 8),
    Cidr::new([100, 64, 0, 0], 10),
    Cidr::new([127, 0, 0, 0], 8),
    Cidr::new([169, 254, 0, 0], 16),
    Cidr::new([172, 16, 0, 0], 12),
    Cidr::new([192, 0, 0, 0], 24),
    Cidr::new([192, 168, 0, 0], 16),
    Cidr::new([198, 18, 0, 0], 15),
    Cidr::new([224, 0, 0, 0], 3),
    Cidr::new([168, 63, 129, 16], 32),
];

/// [`CLOSED`] as both packet filters' rules list it.
pub fn closed_list() -> String {
    CLOSED.map(|range| format!("{}/{}", range.first(), range.prefix)).join(", ")
}

pub fn is_closed(address: Ipv4Addr) -> bool {
    CLOSED.iter().any(|range| range.has(address))
}

/// An address with how many of its bits count; the others are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cidr {
    first: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    pub const ALL: Self = Self::new([0; 4], 0);

    const fn new([a, b, c, d]: [u8; 4], prefix: u8) -> Self {
        Self { first: Ipv4Addr::new(a, b, c, d), prefix }
    }

    pub fn first(self) -> Ipv4Addr {
        self.first
    }

    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.to_bits() | !mask(self.prefix))
    }

    pub fn has(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.first.to_bits()
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// The same addresses, none of them twice: of two ranges that overlap one is in the other.
pub(super) fn disjoint(ranges: &[Cidr]) -> Vec<Cidr> {
    let mut sorted = ranges.to_vec();
    // The larger one of those that begin alike first.
    sorted.sort_unstable();
    let mut kept: Vec<Cidr> = Vec::new();
    for range in sorted {
        if !kept.last().is_some_and(|before| before.has(range.first)) {
            kept.push(range);
        }
    }
    kept
}

impl FromStr for Cidr {
    type Err = ();

    /// An address, or one with the number of bits that count; the others may be anything.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address.parse().map_err(drop)?;
        let digits = prefix.bytes().all(|b| b.is_ascii_digit());
        let plain = digits && (prefix == "0" || !prefix.starts_with('0'));
        let prefix: u8 = prefix.parse().map_err(drop)?;
        if !plain || prefix > 32 {
            return Err(());
        }
        Ok(Self { first: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix {
            32 => write!(f, "{}", self.first),
            prefix => write!(f, "{}/{prefix}", self.first),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_and_ranges_are_read_and_written_in_one_way() {
        for (text, expected) in [
            ("1.1.1.1", "1.1.1.1"),
            ("1.1.1.1/32", "1.1.1.1"),
            ("8.8.8.8/24", "8.8.8.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("255.255.255.255/1", "128.0.0.0/1"),
        ] {
            assert_eq!(cidr(text).to_string(), expected);
        }
        assert_eq!(cidr("9.9.9.9/0"), Cidr::ALL);
        for wrong in [
            "",
            "1.1.1",
            "1.1.1.1/",
            "1.1.1.1/33",
            "1.1.1.1/+8",
            "1.1.1.1/08",
            "1.1.1.1/00",
            "::1",
            "::/0",
            "a",
        ] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_no_sandbox_reaches_is_closed_and_nothing_else() {
        for closed in ["0.1.2.3", "10.9.8.7", "127.0.0.1", "169.254.169.254", "198.19.255.255"] {
            assert!(is_closed(closed.parse().unwrap()), "{closed}");
        }
        for closed in ["172.31.0.1", "224.0.0.1", "255.255.255.255", "168.63.129.16", "100.127.1.1"]
        {
            assert!(is_closed(closed.parse().unwrap()), "{closed}");
        }
        for open in ["1.1.1.1", "172.32.0.1", "198.20.0.1", "168.63.129.17", "100.128.0.1"] {
            assert!(!is_closed(open.parse().unwrap()), "{open}");
        }
    }

    proptest! {
        #[test]
        fn without_overlaps_a_list_has_the_addresses_it_had(
            ranges in prop::collection::vec((any::<u32>(), 0..=32_u8), 0..12),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let ranges: Vec<Cidr> = ranges
                .iter()
                // Few bits of the address differ, so that some overlap.
                .map(|(bits, prefix)| {
                    let address = Ipv4Addr::from_bits(bits & 0x0303_0303);
                    format!("{address}/{prefix}").parse().unwrap()
                })
                .collect();
            let kept = disjoint(&ranges);
            for pair in kept.windows(2) {
                prop_assert!(pair[0].last() < pair[1].first(), "{kept:?}");
            }
            let ends = ranges.iter().flat_map(|range| [range.first(), range.last()]);
            for address in probes.into_iter().map(Ipv4Addr::from_bits).chain(ends) {
                let had = ranges.iter().any(|range| range.has(address));
                prop_assert_eq!(kept.iter().any(|range| range.has(address)), had);
            }
        }
    }
}
