//! The packet filter's rules as text, and what pfctl(8) says of them. Decides nothing of when they
//! are loaded.
//!
//! Each gateway has an anchor of its own, `coppice/<tag>`, whose rules are for one interface
//! group: that of its sandboxes' links. They name no sandbox but those that are kept from more than
//! all are, so that they are loaded when the gateway starts, and not when a sandbox is made. The administrator's `/etc/pf.conf` has the two
//! lines that lead there, [`ANCHORS`].

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use super::{
    fences::{Fence, Fences},
    net_slot::NETWORK,
};
use crate::network::{Cidr, closed_list};

/// What `/etc/pf.conf` has to have.
pub(super) const ANCHORS: [&str; 2] = ["nat-anchor \"coppice/*\"", "anchor \"coppice/*\""];

/// Of one sandbox at once: the host's table of states is for all of them.
const MAX_STATES: u32 = 4096;

/// What tells one gateway's interfaces and rules from another's: letters, as the name of an
/// interface group must not end in a digit (if_addgroup, net/if.c).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag(String);

impl Tag {
    pub(super) fn of(data_dir: &Path) -> Self {
        let hash = blake3::hash(data_dir.as_os_str().as_encoded_bytes());
        let nibbles = hash.as_bytes()[..4].iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Self(nibbles.map(|nibble| char::from(b'a' + nibble)).collect())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The interface group of its links: 15 letters, the most there may be.
    pub(super) fn group(&self) -> String {
        format!("coppice{}", self.0)
    }

    pub(super) fn anchor(&self) -> String {
        format!("coppice/{}", self.0)
    }
}

/// A name that means nothing but an interface to pfctl. FreeBSD allows others, with blanks and
/// quotes in them, to whoever renames his interfaces so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interface(String);

impl Interface {
    pub(super) fn new(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
        (starts_well && name.len() < libc::IFNAMSIZ && name.bytes().all(plain))
            .then(|| Self(name.to_owned()))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All that the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) tag: Tag,
    pub(super) resolvers: Vec<Ipv4Addr>,
    /// The host's interfaces that have an address to send from.
    pub(super) uplinks: Vec<Interface>,
    pub(super) fences: Fences,
}

impl Rules {
    pub(super) fn new(tag: Tag, dns: &[IpAddr], uplinks: Vec<Interface>, fences: Fences) -> Self {
        let ipv4 = |address: &IpAddr| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        };
        Self { tag, resolvers: dns.iter().filter_map(ipv4).collect(), uplinks, fences }
    }
}

/// For `pfctl -a coppice/<tag> -f -`, which replaces what the anchor has as a whole or not at all.
/// Every rule is `quick`, so what the host's own rules say of these links does not matter.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = self.tag.group();
        for (source, fence) in &self.fences {
            for (name, list) in lists(*source, fence) {
                // pf.conf(5): a table of an anchor's own, replaced with its rules as one.
                if list.len() > 1 {
                    writeln!(f, "table <{name}> const {{ {} }}", joined(list))?;
                }
            }
        }
        for uplink in &self.uplinks {
            // In parentheses: the address it has at the time; `:0` its first.
            writeln!(f, "nat on {uplink} inet from {NETWORK} to any -> ({uplink}:0)")?;
        }
        // The source's route leads back to its own link: nobody speaks for another. (Nor for the
        // host, whose addresses are routed to lo0.)
        writeln!(f, "block drop in quick on {links} inet6 all")?;
        writeln!(f, "block drop in quick on {links} from urpf-failed to any")?;
        let state =
            format!("tag coppice keep state (source-track rule, max-src-states {MAX_STATES})");
        for (source, fence) in &self.fences {
            for resolver in self.resolvers.iter().filter(|resolver| !fence.permits(**resolver)) {
                writeln!(f, "block drop in quick on {links} inet from {source} to {resolver}")?;
            }
        }
        for resolver in &self.resolvers {
            for protocol in ["tcp", "udp"] {
                writeln!(
                    f,
                    "pass in quick on {links} inet proto {protocol} from any to {resolver} \
                     port 53 {state}"
                )?;
            }
        }
        // In parentheses: all addresses the host has at the time.
        writeln!(f, "block drop in quick on {links} inet from any to (self)")?;
        writeln!(f, "block drop in quick on {links} inet from any to {{ {} }}", closed_list())?;
        for (source, fence) in &self.fences {
            let [allowed, denied] = lists(*source, fence).map(|(name, list)| match list {
                [] => None,
                [one] => Some(one.to_string()),
                _ => Some(format!("<{name}>")),
            });
            if let Some(allowed) = allowed {
                writeln!(f, "pass in quick on {links} inet from {source} to {allowed} {state}")?;
            }
            if let Some(denied) = denied {
                writeln!(f, "block drop in quick on {links} inet from {source} to {denied}")?;
            }
        }
        writeln!(f, "pass in quick on {links} inet from any to any {state}")?;
        // A pass rule lets only the first segment of a TCP connection begin one.
        writeln!(f, "block drop in quick on {links} all")?;
        // Replies belong to a state, and ask no rule.
        writeln!(f, "block drop out quick on {links} all")?;
        writeln!(f, "pass out quick inet all tagged coppice keep state")
    }
}

/// Both lists of a sandbox, with the names of their tables: 31 characters are the most
/// (PF_TABLE_NAME_SIZE, net/pfvar.h).
fn lists(source: Ipv4Addr, fence: &Fence) -> [(String, &[Cidr]); 2] {
    let [_, _, high, low] = source.octets();
    [
        (format!("allowed_{high}_{low}"), &fence.allowed),
        (format!("denied_{high}_{low}"), &fence.denied),
    ]
}

fn joined(list: &[Cidr]) -> String {
    list.iter().map(Cidr::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether `pfctl -s info` speaks of a filter that runs.
pub(super) fn is_enabled(info: &str) -> bool {
    info.lines().any(|line| line.trim_start().starts_with("Status: Enabled"))
}

/// Whether a listing of the main rules (`pfctl -s rules` or `-s nat`) leads to ours.
pub(super) fn leads_here(listing: &str, anchor: &str) -> bool {
    listing.lines().any(|line| line.trim_start().starts_with(anchor))
}

/// The first of the main rules (`pfctl -s rules`) that decides before ours are asked.
pub(super) fn decides_before(listing: &str, anchor: &str) -> Option<String> {
    let before = listing.lines().map(str::trim).take_while(|line| !line.starts_with(anchor));
    let mut decisions = before.filter(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("pass" | "block")) && words.any(|word| word == "quick")
    });
    decisions.next().map(str::to_owned)
}

/// The limit on states that `pfctl -s memory` tells: `states        hard limit   100000`.
pub(super) fn state_limit(memory: &str) -> Option<u64> {
    let line = memory.lines().find(|line| line.starts_with("states"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(dns: &[&str], uplinks: &[&str]) -> String {
        let dns: Vec<IpAddr> = dns.iter().map(|text| text.parse().unwrap()).collect();
        let uplinks = uplinks.iter().map(|name| Interface::new(name).unwrap()).collect();
        Rules::new(Tag("abcdefgh".into()), &dns, uplinks, Fences::new()).to_string()
    }

    #[test]
    fn the_rules_are_these() {
        let golden = "\
nat on em0 inet from 198.18.0.0/15 to any -> (em0:0)
nat on wg0 inet from 198.18.0.0/15 to any -> (wg0:0)
block drop in quick on coppiceabcdefgh inet6 all
block drop in quick on coppiceabcdefgh from urpf-failed to any
pass in quick on coppiceabcdefgh inet proto tcp from any to 10.0.0.53 port 53 \
tag coppice keep state (source-track rule, max-src-states 4096)
pass in quick on coppiceabcdefgh inet proto udp from any to 10.0.0.53 port 53 \
tag coppice keep state (source-track rule, max-src-states 4096)
block drop in quick on coppiceabcdefgh inet from any to (self)
block drop in quick on coppiceabcdefgh inet from any to { 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, \
127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.0.0.0/24, 192.168.0.0/16, 198.18.0.0/15, \
224.0.0.0/3, 168.63.129.16/32 }
pass in quick on coppiceabcdefgh inet from any to any \
tag coppice keep state (source-track rule, max-src-states 4096)
block drop in quick on coppiceabcdefgh all
block drop out quick on coppiceabcdefgh all
pass out quick inet all tagged coppice keep state
";
        assert_eq!(rules(&["10.0.0.53", "fd00::1"], &["em0", "wg0"]), golden);
    }

    #[test]
    fn a_sandbox_of_a_policy_has_rules_of_its_own_behind_those_of_all() {
        let cidrs = |list: &[&str]| -> Vec<Cidr> {
            list.iter().map(|range| range.parse().unwrap()).collect()
        };
        let fence = |allowed: &[&str], denied: &[&str]| Fence {
            allowed: cidrs(allowed),
            denied: cidrs(denied),
        };
        let fences = Fences::from([
            (Ipv4Addr::new(198, 18, 0, 2), fence(&["1.1.1.1", "8.8.0.0/16"], &["0.0.0.0/0"])),
            (Ipv4Addr::new(198, 19, 0, 6), fence(&[], &["9.9.9.9"])),
        ]);
        let dns = ["10.0.0.53".parse().unwrap(), "8.8.8.8".parse().unwrap()];
        let text = Rules::new(Tag("abcdefgh".into()), &dns, Vec::new(), fences).to_string();
        let on = "in quick on coppiceabcdefgh inet";
        let state = "tag coppice keep state (source-track rule, max-src-states 4096)";
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "table <allowed_0_2> const { 1.1.1.1, 8.8.0.0/16 }");
        let at = |line: &str| {
            let found = lines.iter().position(|it| *it == line);
            found.unwrap_or_else(|| panic!("{line} is not in\n{text}"))
        };
        let resolver = at(&format!("block drop {on} from 198.18.0.2 to 10.0.0.53"));
        assert!(!text.contains("from 198.18.0.2 to 8.8.8.8"), "it is allowed");
        assert!(!text.contains("from 198.19.0.6 to 10.0.0.53"), "it is not denied");
        let open = at(&format!("pass {on} proto udp from any to 10.0.0.53 port 53 {state}"));
        let closed = lines.iter().position(|line| line.contains("169.254.0.0/16")).unwrap();
        let allowed = at(&format!("pass {on} from 198.18.0.2 to <allowed_0_2> {state}"));
        let denied = at(&format!("block drop {on} from 198.18.0.2 to 0.0.0.0/0"));
        let other = at(&format!("block drop {on} from 198.19.0.6 to 9.9.9.9"));
        let rest = at(&format!("pass {on} from any to any {state}"));
        let order = [resolver, open, closed, allowed, denied, other, rest];
        assert!(order.is_sorted(), "{order:?} in\n{text}");
    }

    #[test]
    fn resolvers_are_open_before_the_host_and_private_ranges_are_closed() {
        let text = rules(&["192.168.1.1"], &[]);
        let open = text.find("to 192.168.1.1 port 53").unwrap();
        assert!(open < text.find("(self)").unwrap());
        assert!(open < text.find("169.254.0.0/16").unwrap());
        assert!(!rules(&[], &["em0"]).contains("port 53"));
    }

    #[test]
    fn nothing_that_concerns_a_sandbox_is_left_to_the_host_s_own_rules() {
        let text = rules(&["1.1.1.1"], &["em0"]);
        for line in text.lines().filter(|line| !line.starts_with("nat ")) {
            assert!(line.contains(" quick "), "{line}");
        }
        for line in text.lines().filter(|line| line.starts_with("pass in")) {
            assert!(line.contains("max-src-states"), "uncounted: {line}");
        }
        let last = text.lines().rfind(|line| line.contains(" in quick ")).unwrap();
        assert_eq!(last, "block drop in quick on coppiceabcdefgh all");
    }

    #[test]
    fn a_gateway_s_tag_fits_a_group_and_ends_in_a_letter() {
        let (one, two) = (Tag::of(Path::new("/srv/one")), Tag::of(Path::new("/srv/two")));
        assert_ne!(one, two);
        assert_eq!(one, Tag::of(Path::new("/srv/one")));
        assert_eq!(one.group().len(), libc::IFNAMSIZ - 1);
        assert!(one.group().bytes().all(|byte| byte.is_ascii_lowercase()));
        assert_eq!(one.anchor(), format!("coppice/{}", one.as_str()));
    }

    #[test]
    fn what_is_no_plain_name_is_no_interface() {
        for name in ["em0", "vlan.12", "wg-home", "bridge0", "abcdefghijklmno"] {
            assert_eq!(Interface::new(name).unwrap().to_string(), name);
        }
        for name in ["", "em0 all", "a\"b", "a\nb", "{em0}", "$x", "0em", "(em0)", "-a", "ü0"] {
            assert_eq!(Interface::new(name), None, "{name:?}");
        }
        assert_eq!(Interface::new("abcdefghijklmnop"), None, "too long");
    }

    #[test]
    fn pfctl_is_understood() {
        let on = "Status: Enabled for 0 days 00:00:12           Debug: Urgent\n";
        assert!(is_enabled(on) && is_enabled(&format!("No ALTQ support in kernel\n{on}")));
        assert!(!is_enabled("Status: Disabled for 3 days 01:02:03     Debug: Urgent\n"));
        assert!(!is_enabled(""));
        let listing = "block drop all\nanchor \"coppice/*\" all\npass out all flags S/SA\n";
        assert!(leads_here(listing, ANCHORS[1]) && !leads_here(listing, ANCHORS[0]));
        assert!(leads_here("nat-anchor \"coppice/*\" all\n", ANCHORS[0]));
        assert!(!leads_here("nat-anchor \"coppice/*\" all\n", ANCHORS[1]));
        assert!(!leads_here("anchor \"coppice\" all\n", ANCHORS[1]));
        assert_eq!(decides_before(listing, ANCHORS[1]), None);
        let quick = "scrub in all\npass in quick on em0 all\nanchor \"coppice/*\" all\n";
        let rule = decides_before(quick, ANCHORS[1]);
        assert_eq!(rule.as_deref(), Some("pass in quick on em0 all"));
        let after = "anchor \"coppice/*\" all\nblock drop in quick all\n";
        assert_eq!(decides_before(after, ANCHORS[1]), None);
        let memory = "states        hard limit   100000\nsrc-nodes     hard limit    10000\n";
        assert_eq!(state_limit(memory), Some(100_000));
        assert_eq!(state_limit("states        hard limit  unlimited"), None);
    }
}
