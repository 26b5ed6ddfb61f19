//! What a sandbox may reach and who may reach it, as a client asks for it: parsed and validated
//! once, kept in the sandbox's record. No packet filter, no HTTP: what is to be enforced is a
//! [`Filter`], which a backend puts into force.
//!
//! Of an address outside that is not closed to every sandbox, in this order: what `allow_out` has
//! is open, what `deny_out` has is closed, all else is open.

mod begun;
mod cidr;
pub mod dns;
mod ingress;
mod pattern;
mod said;

use std::{net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::backend::NetworkMode;
pub use begun::name_of;
pub use cidr::{Cidr, closed_list, is_closed};
pub use ingress::{Ingress, InvalidIngress, MOST_PORTS};
pub use pattern::Pattern;
use said::Said;

/// Entries of one list: each may be one in the kernel.
pub const MOST_ENTRIES: usize = 1000;
/// As E2B has it.
pub const MOST_SERVERS: usize = 10;

/// Why a policy is none; to clients these are part of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    #[error("invalid denied CIDR {0}")]
    Denied(String),
    #[error("invalid allowed address or domain {0}")]
    Allowed(String),
    #[error(
        "invalid {list} out entry \"{entry}\": port-specific rules are not supported for egress"
    )]
    Port { list: &'static str, entry: String },
    #[error(
        "When specifying allowed domains in allow out, you must include 'ALL_TRAFFIC' in deny out \
         to block all other traffic."
    )]
    DomainsWithoutDeny,
    #[error("{0} has more than {1} entries")]
    TooMany(&'static str, usize),
    #[error("invalid DNS server {0}: an IPv4 address that is not private")]
    Server(String),
}

/// One entry of `allow_out`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Address(Cidr),
    Name(Pattern),
}

/// What a sandbox may reach, as its client last said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// `None` when the client did not say; `false` is all of the internet in `deny_out`.
    #[serde(default)]
    pub allow_internet_access: Option<bool>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    allow_out: Vec<Said<Target>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    deny_out: Vec<Said<Cidr>>,
    /// Asked for the names of `allow_out`; `None`: the gateway's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dns_servers: Option<Vec<Ipv4Addr>>,
}

/// What is to be enforced, beside what no sandbox may reach. Lists are free of overlaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Open though `denied` has it.
    pub allowed: Vec<Cidr>,
    pub denied: Vec<Cidr>,
    /// Open by name; only where all is denied.
    pub names: Vec<Pattern>,
    /// Who is asked for those names; `None`: the gateway's own.
    pub servers: Option<Vec<Ipv4Addr>>,
}

impl NetworkPolicy {
    /// A policy of those entries.
    ///
    /// # Errors
    /// What of it cannot be had, as clients are told.
    pub fn new(
        allow_internet_access: Option<bool>,
        allow_out: &[String],
        deny_out: &[String],
        dns_servers: Option<&[String]>,
    ) -> Result<Self, InvalidPolicy> {
        bounded("denyOut", deny_out.len(), MOST_ENTRIES)?;
        bounded("allowOut", allow_out.len(), MOST_ENTRIES)?;
        let deny_out = distinct(deny_out.iter().map(|entry| denied(entry)))?;
        let allow_out = distinct(allow_out.iter().map(|entry| allowed(entry)))?;
        let named = allow_out.iter().any(|target| matches!(target.means, Target::Name(_)));
        let all = deny_out.iter().any(|range| range.means == Cidr::ALL);
        let all_denied = allow_internet_access == Some(false) || all;
        if named && !all_denied {
            return Err(InvalidPolicy::DomainsWithoutDeny);
        }
        let dns_servers = match dns_servers {
            Some(servers) => {
                bounded("dnsServers", servers.len(), MOST_SERVERS)?;
                Some(distinct(servers.iter().map(|entry| server(entry)))?)
            }
            None => None,
        };
        Ok(Self { allow_internet_access, allow_out, deny_out, dns_servers })
    }

    /// One that says nothing but that.
    pub fn of_access(allow_internet_access: Option<bool>) -> Self {
        Self { allow_internet_access, ..Self::default() }
    }

    /// As the client wrote it.
    pub fn allow_out(&self) -> impl Iterator<Item = &str> {
        self.allow_out.iter().map(Said::text)
    }

    /// The same.
    pub fn deny_out(&self) -> impl Iterator<Item = &str> {
        self.deny_out.iter().map(Said::text)
    }

    pub fn dns_servers(&self) -> Option<&[Ipv4Addr]> {
        self.dns_servers.as_deref()
    }

    /// Whether it says more than whether there is an internet.
    pub fn has_lists(&self) -> bool {
        let Self { allow_internet_access: _, allow_out, deny_out, dns_servers } = self;
        !allow_out.is_empty() || !deny_out.is_empty() || dns_servers.is_some()
    }

    /// What is enforced where sandboxes that do not say have `default`.
    pub fn filter(&self, default: NetworkMode) -> Filter {
        let open = self.allow_internet_access.unwrap_or(default != NetworkMode::None);
        let denied: Vec<Cidr> = match open {
            true => self.deny_out.iter().map(|range| range.means).collect(),
            false => vec![Cidr::ALL],
        };
        let denied = cidr::disjoint(&denied);
        if denied.is_empty() {
            return Filter::default();
        }
        let allowed = self.allow_out.iter().filter_map(|target| match target.means {
            Target::Address(cidr) => Some(cidr),
            Target::Name(_) => None,
        });
        let names = self.allow_out.iter().filter_map(|target| match &target.means {
            Target::Name(pattern) => Some(pattern.clone()),
            Target::Address(_) => None,
        });
        let names: Vec<Pattern> = match &*denied {
            [all] if *all == Cidr::ALL => names.collect(),
            _ => Vec::new(),
        };
        let servers = self.dns_servers.clone().filter(|_| !names.is_empty());
        Filter { allowed: cidr::disjoint(&allowed.collect::<Vec<_>>()), denied, names, servers }
    }

    /// The network that a sandbox of this policy is made with. One that may reach nothing has no
    /// link, and so no rule that could be lost.
    pub fn mode(&self, default: NetworkMode) -> NetworkMode {
        let filter = self.filter(default);
        match default {
            _ if filter.is_closed() => NetworkMode::None,
            // Where nothing is between a sandbox and the host's network, nothing can be refused.
            NetworkMode::Inherit if filter.is_open() => NetworkMode::Inherit,
            _ => NetworkMode::Nat,
        }
    }
}

impl Filter {
    /// Whether it leaves all open that is open to any sandbox.
    pub fn is_open(&self) -> bool {
        self.denied.is_empty()
    }

    /// Whether it leaves nothing open.
    pub fn is_closed(&self) -> bool {
        self.denied == [Cidr::ALL] && self.allowed.is_empty() && self.names.is_empty()
    }

    /// Whether that name is open.
    pub fn allows_name(&self, name: &str) -> bool {
        self.names.iter().any(|pattern| pattern.fits(name))
    }
}

fn bounded(list: &'static str, length: usize, most: usize) -> Result<(), InvalidPolicy> {
    if length > most { Err(InvalidPolicy::TooMany(list, most)) } else { Ok(()) }
}

/// Each once, in the order in which they came.
fn distinct<T: PartialEq>(
    entries: impl Iterator<Item = Result<T, InvalidPolicy>>,
) -> Result<Vec<T>, InvalidPolicy> {
    let mut kept = Vec::new();
    for entry in entries {
        let entry = entry?;
        if !kept.contains(&entry) {
            kept.push(entry);
        }
    }
    Ok(kept)
}

fn denied(entry: &str) -> Result<Said<Cidr>, InvalidPolicy> {
    Said::new(entry).map_err(|()| with_port("deny", entry, InvalidPolicy::Denied))
}

fn allowed(entry: &str) -> Result<Said<Target>, InvalidPolicy> {
    Said::new(entry).map_err(|()| with_port("allow", entry, InvalidPolicy::Allowed))
}

fn with_port(
    list: &'static str,
    entry: &str,
    otherwise: fn(String) -> InvalidPolicy,
) -> InvalidPolicy {
    let port = entry.rsplit_once(':').is_some_and(|(address, port)| {
        !address.contains(':') && !port.is_empty() && port.bytes().all(|it| it.is_ascii_digit())
    });
    let entry = entry.to_owned();
    if port { InvalidPolicy::Port { list, entry } } else { otherwise(entry) }
}

/// The gateway asks it on the sandbox's behalf, from where private addresses can be reached.
fn server(entry: &str) -> Result<Ipv4Addr, InvalidPolicy> {
    let server: Option<Ipv4Addr> = entry.parse().ok();
    let server = server.filter(|server| !is_closed(*server));
    server.ok_or_else(|| InvalidPolicy::Server(entry.to_owned()))
}

impl FromStr for Target {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().map(Self::Address).or_else(|()| text.parse().map(Self::Name))
    }
}

#[cfg(test)]
mod tests;
