//! jail(2): making, finding, entering and removing jails, by parameters of jail(8).

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr},
    ops::BitOr,
    path::PathBuf,
};

use crate::Error;

/// The number of a jail. Never 0, which is the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Jid(i32);

impl Jid {
    /// `None` for the host, and for what is no jail.
    #[must_use]
    pub fn new(raw: i32) -> Option<Self> {
        (raw > 0).then_some(Self(raw))
    }

    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What [`set`] and [`get`] may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(i32);

impl Flags {
    pub const NONE: Self = Self(0);
    /// `JAIL_CREATE`
    pub const CREATE: Self = Self(1);
    /// `JAIL_UPDATE`
    pub const UPDATE: Self = Self(2);
    /// `JAIL_ATTACH`: the caller enters it.
    pub const ATTACH: Self = Self(4);
    /// `JAIL_DYING`: also one that is being removed.
    pub const DYING: Self = Self(8);
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How a jail shares one of the host's subsystems (`JAIL_SYS_*`): the value of `host`, `vnet`,
/// `ip4`, `ip6`, `sysvmsg`, `sysvsem` and `sysvshm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Disable,
    New,
    Inherit,
}

/// The value of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Int(i32),
    Flag(bool),
    Ip4(Vec<Ipv4Addr>),
    Ip6(Vec<Ipv6Addr>),
}

/// What kind of value a parameter is asked for as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Int,
    Flag,
    Ip4,
    Ip6,
}

/// Parameters for [`set`], in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, Value)>);

impl Params {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A string, such as `name`, `path` or `host.hostname`.
    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        self.with(name, Value::Text(value.to_owned()))
    }

    /// A number, such as `enforce_statfs`, `children.max` or `devfs_ruleset`.
    #[must_use]
    pub fn int(self, name: &str, value: i32) -> Self {
        self.with(name, Value::Int(value))
    }

    /// A boolean, such as `persist` or `allow.raw_sockets`; false is sent as its "no" form
    /// (`nopersist`, `allow.noraw_sockets`).
    #[must_use]
    pub fn flag(self, name: &str, value: bool) -> Self {
        self.with(name, Value::Flag(value))
    }

    /// How a subsystem is shared: `vnet`, `ip4`, `sysvshm` and the like.
    #[must_use]
    pub fn share(self, name: &str, value: Share) -> Self {
        self.with(
            name,
            Value::Int(match value {
                Share::Disable => 0,
                Share::New => 1,
                Share::Inherit => 2,
            }),
        )
    }

    /// `ip4.addr`
    #[must_use]
    pub fn ip4_addr(self, addresses: &[Ipv4Addr]) -> Self {
        self.with("ip4.addr", Value::Ip4(addresses.to_vec()))
    }

    /// `ip6.addr`
    #[must_use]
    pub fn ip6_addr(self, addresses: &[Ipv6Addr]) -> Self {
        self.with("ip6.addr", Value::Ip6(addresses.to_vec()))
    }

    /// In the order they were given, e.g. to compare a plan.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.0.push((name.to_owned(), value));
        self
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// How [`get`] finds a jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By<'a> {
    Jid(Jid),
    Name(&'a str),
    /// The next one after this number, from 0: `lastjid` of jail_get(2).
    After(i32),
}

/// A jail, with the parameters that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub jid: Jid,
    pub values: BTreeMap<String, Value>,
}

impl Found {
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.values.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    #[must_use]
    pub fn int(&self, name: &str) -> Option<i32> {
        match self.values.get(name) {
            Some(Value::Int(int)) => Some(*int),
            _ => None,
        }
    }

    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.values.get(name) {
            Some(Value::Flag(flag)) => Some(*flag),
            _ => None,
        }
    }
}

/// A jail as [`list`] shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jail {
    pub jid: Jid,
    pub name: String,
    pub path: PathBuf,
    pub hostname: String,
    /// Removed, but something still holds it.
    pub dying: bool,
}

fn unsupported<T>(call: &'static str, argument: impl ToString) -> Result<T, Error> {
    Err(Error::new(call, argument.to_string(), io::Error::from_raw_os_error(libc::ENOSYS)))
}

/// Creates or changes a jail: jail_set(2).
///
/// # Errors
/// With the kernel's `errmsg`.
pub fn set(params: &Params, _flags: Flags) -> Result<Jid, Error> {
    unsupported("jail_set", params)
}

/// A jail and those of its parameters: jail_get(2). `None` when there is none.
///
/// # Errors
/// With the kernel's `errmsg`.
pub fn get(by: By<'_>, _wanted: &[(&str, Kind)], _flags: Flags) -> Result<Option<Found>, Error> {
    unsupported("jail_get", format!("{by:?}"))
}

/// The jail of that name that is alive.
///
/// # Errors
/// As [`get`].
pub fn find(name: &str) -> Result<Option<Jid>, Error> {
    Ok(get(By::Name(name), &[], Flags::NONE)?.map(|found| found.jid))
}

/// All jails below the caller's, those that are dying included.
///
/// # Errors
/// As [`get`].
pub fn list() -> Result<Vec<Jail>, Error> {
    unsupported("jail_get", "")
}

/// Enters a jail, for good: jail_attach(2). The working directory becomes the jail's root.
///
/// # Errors
/// As the man page says.
pub fn attach(jid: Jid) -> Result<(), Error> {
    unsupported("jail_attach", jid)
}

/// Removes a jail and kills what runs in it: jail_remove(2). False when there was none.
///
/// # Errors
/// As the man page says.
pub fn remove(jid: Jid) -> Result<bool, Error> {
    unsupported("jail_remove", jid)
}
