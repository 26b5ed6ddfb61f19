//! What a sandbox may use at most: how each limit is called, and what comes of several places that
//! have something to say of it.
//!
//! A limit has one name and one unit everywhere: in `--limits` and `coppice template limit`, with
//! `sandbox-` before it in a tenant's table of the file of keys, and in the metadata of a create
//! ([`ASKED`]). The smallest wins. A client may ask for less than it would get; for more it is
//! refused, as it would not know otherwise.
//!
//! What enforces them is the platform's.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// The key in a create's metadata, which E2B's SDKs can carry; its value is as [`Bounds::parse`]
/// reads it.
pub(crate) const ASKED: &str = "coppice.limits";

/// What a sandbox may use at most. `None` is no limit of its own: all there is, or what the
/// platform gives anybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub processes: u64,
    /// What its writable layer may take. Where the file system has no quota this is told and not
    /// enforced.
    #[serde(default)]
    pub disk_bytes: Option<u64>,
    /// Beside its memory; `None` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// Of each process on Linux, of all together on FreeBSD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// From the disk that holds its layer (bytes a second), as are the next three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_read: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_write: Option<u64>,
    /// What comes over its link, and what it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_in: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net_out: Option<u64>,
    /// Of clients' through the gateway at once; enforced there, as is the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<u64>,
    /// What clients are sent through the gateway (bytes a second).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Cpus,
    Memory,
    Swap,
    Processes,
    OpenFiles,
    Disk,
    DiskRead,
    DiskWrite,
    NetIn,
    NetOut,
    Streams,
    Output,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

impl Limit {
    pub const ALL: [Self; 12] = [
        Self::Cpus,
        Self::Memory,
        Self::Swap,
        Self::Processes,
        Self::OpenFiles,
        Self::Disk,
        Self::DiskRead,
        Self::DiskWrite,
        Self::NetIn,
        Self::NetOut,
        Self::Streams,
        Self::Output,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpus => "cpus",
            Self::Memory => "memory",
            Self::Swap => "swap",
            Self::Processes => "processes",
            Self::OpenFiles => "open-files",
            Self::Disk => "disk",
            Self::DiskRead => "disk-read",
            Self::DiskWrite => "disk-write",
            Self::NetIn => "net-in",
            Self::NetOut => "net-out",
            Self::Streams => "streams",
            Self::Output => "output",
        }
    }

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.name() == name)
    }

    /// What it is counted in, for people.
    fn unit(self) -> &'static str {
        match self {
            Self::Cpus | Self::Processes | Self::OpenFiles | Self::Streams => "",
            Self::Memory | Self::Swap | Self::Disk => " MiB",
            Self::DiskRead | Self::DiskWrite | Self::NetIn | Self::NetOut | Self::Output => {
                " KiB a second"
            }
        }
    }

    fn unit_size(self) -> u64 {
        match self {
            Self::Cpus | Self::Processes | Self::OpenFiles | Self::Streams => 1,
            Self::Memory | Self::Swap | Self::Disk => MIB,
            Self::DiskRead | Self::DiskWrite | Self::NetIn | Self::NetOut | Self::Output => KIB,
        }
    }

    /// Below the least nothing of a sandbox works, or it cannot be ended in good time.
    fn allowed(self) -> std::ops::RangeInclusive<u64> {
        match self {
            Self::Cpus => 1..=65_536,
            Self::Memory | Self::Disk => 1..=1 << 32,
            Self::Swap => 0..=1 << 32,
            Self::Processes => 16..=1 << 22,
            Self::OpenFiles => 64..=1 << 30,
            Self::DiskRead | Self::DiskWrite => 1024..=1 << 32,
            Self::NetIn | Self::NetOut | Self::Output => 16..=1 << 32,
            Self::Streams => 4..=1 << 20,
        }
    }

    /// In its units.
    pub fn most(self) -> u64 {
        *self.allowed().end()
    }

    /// So many of its units.
    fn amount(self, units: u64) -> u64 {
        units.saturating_mul(self.unit_size())
    }

    /// What it is where nobody says anything.
    fn unsaid(self) -> Option<u64> {
        (self == Self::Swap).then_some(0)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Limits {
    /// Nothing beside these has a bound.
    #[must_use]
    pub const fn of(cpus: u32, memory_bytes: u64, processes: u64) -> Self {
        Self {
            cpus,
            memory_bytes,
            processes,
            disk_bytes: None,
            swap_bytes: None,
            open_files: None,
            disk_read: None,
            disk_write: None,
            net_in: None,
            net_out: None,
            streams: None,
            output: None,
        }
    }

    /// In bytes or pieces; `None` where there is none.
    #[must_use]
    pub fn get(&self, limit: Limit) -> Option<u64> {
        let said = match limit {
            Limit::Cpus => Some(self.cpus.into()),
            Limit::Memory => Some(self.memory_bytes),
            Limit::Swap => self.swap_bytes,
            Limit::Processes => Some(self.processes),
            Limit::OpenFiles => self.open_files,
            Limit::Disk => self.disk_bytes,
            Limit::DiskRead => self.disk_read,
            Limit::DiskWrite => self.disk_write,
            Limit::NetIn => self.net_in,
            Limit::NetOut => self.net_out,
            Limit::Streams => self.streams,
            Limit::Output => self.output,
        };
        said.or(limit.unsaid())
    }

    fn set(&mut self, limit: Limit, amount: u64) {
        match limit {
            Limit::Cpus => self.cpus = u32::try_from(amount).unwrap_or(u32::MAX),
            Limit::Memory => self.memory_bytes = amount,
            Limit::Swap => self.swap_bytes = Some(amount),
            Limit::Processes => self.processes = amount,
            Limit::OpenFiles => self.open_files = Some(amount),
            Limit::Disk => self.disk_bytes = Some(amount),
            Limit::DiskRead => self.disk_read = Some(amount),
            Limit::DiskWrite => self.disk_write = Some(amount),
            Limit::NetIn => self.net_in = Some(amount),
            Limit::NetOut => self.net_out = Some(amount),
            Limit::Streams => self.streams = Some(amount),
            Limit::Output => self.output = Some(amount),
        }
    }

    /// By name and in units, what is left of a started one counting as one.
    #[must_use]
    pub fn told(&self) -> BTreeMap<&'static str, u64> {
        let told = |limit: Limit| {
            let amount = self.get(limit)?;
            Some((limit.name(), amount.div_ceil(limit.unit_size())))
        };
        Limit::ALL.into_iter().filter_map(told).collect()
    }

    /// Whether it says anything that gateways of before knew nothing of.
    #[must_use]
    pub fn are_of_today(&self) -> bool {
        let Self { cpus, memory_bytes, processes, disk_bytes, .. } = *self;
        *self != Self { cpus, memory_bytes, processes, disk_bytes, ..Self::default() }
    }
}

/// What one place says of limits: of each a number of its units, or nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds([Option<u64>; Limit::ALL.len()]);

/// A client asked for more than it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{limit}: {asked}{unit} is more than the {most}{unit} that {whose} may have", unit = limit.unit())]
pub struct TooMuch {
    limit: Limit,
    asked: u64,
    most: u64,
    whose: &'static str,
}

impl Bounds {
    /// Names and numbers, `memory=512,open-files=4096`.
    ///
    /// # Errors
    /// With what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut bounds = Self::default();
        for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
            let (name, units) = part.split_once('=').ok_or_else(form)?;
            let limit = Limit::named(name).ok_or_else(form)?;
            let digits = units.bytes().all(|byte| byte.is_ascii_digit());
            let units = units.parse().ok().filter(|_| digits);
            if bounds.get(limit).is_some() {
                return Err(format!("a list with one {limit}"));
            }
            bounds.put(limit, units)?;
        }
        Ok(bounds)
    }

    /// What the metadata of a create asks for.
    pub(crate) fn asked(metadata: &BTreeMap<String, String>) -> Result<Self, String> {
        metadata.get(ASKED).map_or_else(|| Ok(Self::default()), |text| Self::parse(text))
    }

    /// # Errors
    /// With what is allowed.
    pub fn put(&mut self, limit: Limit, units: Option<u64>) -> Result<(), String> {
        let allowed = limit.allowed();
        let Some(units) = units.filter(|units| allowed.contains(units)) else {
            let (least, most, unit) = (allowed.start(), allowed.end(), limit.unit());
            return Err(format!("{limit} from {least} to {most}{unit}, a whole number"));
        };
        self.0[limit as usize] = Some(units);
        Ok(())
    }

    #[must_use]
    pub fn get(&self, limit: Limit) -> Option<u64> {
        self.0[limit as usize]
    }

    /// The limits that something is said of.
    pub fn said(&self) -> impl Iterator<Item = Limit> {
        Limit::ALL.into_iter().filter(|limit| self.get(*limit).is_some())
    }

    /// In the place of what was said.
    #[must_use]
    pub fn over(&self, mut limits: Limits) -> Limits {
        for limit in self.said() {
            limits.set(limit, limit.amount(self.get(limit).unwrap_or_default()));
        }
        limits
    }

    /// The smaller of both.
    #[must_use]
    pub fn bound(&self, mut limits: Limits) -> Limits {
        for limit in self.said() {
            let most = limit.amount(self.get(limit).unwrap_or(u64::MAX));
            limits.set(limit, limits.get(limit).map_or(most, |has| has.min(most)));
        }
        limits
    }
}

fn form() -> String {
    let names = Limit::ALL.map(Limit::name).join(", ");
    format!("a list such as memory=512,open-files=4096, of {names}")
}

/// What a sandbox gets of what its template and this gateway have for it, when a client asks for
/// `asked` and its tenant may have `tenant` at most.
///
/// # Errors
/// When it asks for more.
pub fn resolve(template: Limits, asked: &Bounds, tenant: &Bounds) -> Result<Limits, TooMuch> {
    let most = tenant.bound(template);
    for limit in asked.said() {
        let units = asked.get(limit).unwrap_or_default();
        let Some(most) = most.get(limit).filter(|most| limit.amount(units) > *most) else {
            continue;
        };
        let whose = match template.get(limit) {
            Some(has) if has <= most => "a sandbox of this template",
            _ => "each sandbox of the tenant",
        };
        return Err(TooMuch { limit, asked: units, most: most / limit.unit_size(), whose });
    }
    Ok(asked.bound(most))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEMPLATE: Limits = Limits { net_out: Some(64 << 10), ..Limits::of(2, 1 << 30, 1024) };

    fn bounds(text: &str) -> Bounds {
        Bounds::parse(text).unwrap()
    }

    #[test]
    fn the_smallest_wins_wherever_it_stands() {
        let get = |asked, tenant| resolve(TEMPLATE, &bounds(asked), &bounds(tenant)).unwrap();
        assert_eq!(get("", ""), TEMPLATE);
        let asked = get("memory=512,disk=10", "memory=768,disk=20,net-in=16");
        assert_eq!((asked.memory_bytes, asked.disk_bytes), (512 << 20, Some(10 << 20)));
        assert_eq!((asked.net_in, asked.net_out), (Some(16 << 10), Some(64 << 10)));
        let bound = get("", "memory=768,cpus=9,net-out=17");
        assert_eq!((bound.memory_bytes, bound.cpus, bound.net_out), (768 << 20, 2, Some(17 << 10)));
    }

    #[test]
    fn more_than_there_is_is_refused_with_what_there_is_and_of_whom() {
        let error = |asked, tenant| {
            resolve(TEMPLATE, &bounds(asked), &bounds(tenant)).unwrap_err().to_string()
        };
        let template = "memory: 1025 MiB is more than the 1024 MiB that a sandbox of this template \
                        may have";
        assert_eq!(error("memory=1025", "memory=4096"), template);
        let tenant = "open-files: 65 is more than the 64 that each sandbox of the tenant may have";
        assert_eq!(error("open-files=65", "open-files=64"), tenant);
        assert!(error("swap=1", "swap=5").starts_with("swap: 1 MiB is more than the 0 MiB"));
        assert!(error("net-out=65", "").contains("64 KiB a second"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_is_allowed() {
        for (text, allowed) in [
            ("memory", "of cpus, memory, swap"),
            ("ram=5", "of cpus, memory, swap"),
            ("memory=", "memory from 1 to 4294967296 MiB"),
            ("memory=0", "memory from 1"),
            ("memory=+5", "memory from 1"),
            ("memory=-5", "memory from 1"),
            ("disk-read=1", "disk-read from 1024 to 4294967296 KiB a second"),
            ("cpus=1,cpus=1", "one cpus"),
        ] {
            let said = Bounds::parse(text).expect_err(text);
            assert!(said.contains(allowed), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_told_is_read_again_as_the_same() {
        let told = TEMPLATE.told();
        let text: Vec<String> =
            told.iter().map(|(name, units)| format!("{name}={units}")).collect();
        let again = bounds(&text.join(",")).over(Limits::default());
        assert_eq!(again, Limits { swap_bytes: Some(0), ..TEMPLATE });
        let odd = Limits { memory_bytes: (1 << 30) + 1, ..TEMPLATE };
        assert_eq!(odd.told()["memory"], 1025);
    }

    #[test]
    fn limits_of_before_are_read_and_told_from_those_of_today() {
        let old = r#"{"cpus":2,"memory_bytes":1073741824,"processes":1024,"disk_bytes":null}"#;
        let read: Limits = serde_json::from_str(old).unwrap();
        assert_eq!(read, Limits { net_out: None, ..TEMPLATE });
        assert_eq!(serde_json::to_string(&read).unwrap(), old);
        assert!(!read.are_of_today() && TEMPLATE.are_of_today());
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_any_place_says(
            template in prop::collection::vec(prop::option::of(0..5_000_000_u64), Limit::ALL.len()),
            asked in prop::collection::vec(prop::option::of(0..5_000_000_u64), Limit::ALL.len()),
            tenant in prop::collection::vec(prop::option::of(0..5_000_000_u64), Limit::ALL.len()),
        ) {
            let said = |units: Vec<Option<u64>>| {
                let mut bounds = Bounds::default();
                for (limit, units) in Limit::ALL.into_iter().zip(units) {
                    let _ = bounds.put(limit, units);
                }
                bounds
            };
            let (template, asked, tenant) = (said(template), said(asked), said(tenant));
            let template = template.over(TEMPLATE);
            match resolve(template, &asked, &tenant) {
                Ok(got) => for limit in Limit::ALL {
                    let got = got.get(limit).unwrap_or(u64::MAX);
                    prop_assert!(got <= template.get(limit).unwrap_or(u64::MAX));
                    for place in [asked, tenant] {
                        let most = place.get(limit).map_or(u64::MAX, |units| limit.amount(units));
                        prop_assert!(got <= most, "{limit}: {got} > {most}");
                    }
                },
                Err(_) => prop_assert!(asked != Bounds::default()),
            }
        }

        #[test]
        fn no_text_breaks(text in "[a-z=,0-9 -]{0,60}") {
            let _ = Bounds::parse(&text);
        }
    }
}
