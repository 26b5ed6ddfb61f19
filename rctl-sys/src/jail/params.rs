//! The parameters of a jail, jail(8), with their types.

use std::{
    ffi::{OsStr, OsString},
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use crate::{
    abi,
    options::{Options, until_nul},
};

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
    Text(OsString),
    Int(i32),
    Flag(bool),
    Ip4(Vec<Ipv4Addr>),
    Ip6(Vec<Ipv6Addr>),
}

/// As what kind of value a parameter is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Also of what [`Share`] says.
    Int,
    Flag,
    Ip4,
    Ip6,
}

/// `security.jail.jail_max_af_ips` as the kernel comes: addresses of one family.
const MOST_ADDRESSES: usize = 255;

impl Kind {
    /// A buffer for it. The kernel wants exactly the size of a number, and at least that of others.
    pub(super) fn room(self) -> Vec<u8> {
        let size = match self {
            Self::Text => abi::MAXPATHLEN,
            Self::Int | Self::Flag => size_of::<i32>(),
            Self::Ip4 => MOST_ADDRESSES * 4,
            Self::Ip6 => MOST_ADDRESSES * 16,
        };
        vec![0; size]
    }

    /// What the kernel left in it.
    pub(super) fn read(self, bytes: &[u8]) -> Option<Value> {
        let int = || Some(i32::from_ne_bytes(bytes.try_into().ok()?));
        Some(match self {
            Self::Text => Value::Text(OsString::from_vec(until_nul(bytes).to_vec())),
            Self::Int => Value::Int(int()?),
            Self::Flag => Value::Flag(int()? != 0),
            Self::Ip4 => {
                let (addresses, []) = bytes.as_chunks::<4>() else { return None };
                Value::Ip4(addresses.iter().copied().map(Ipv4Addr::from).collect())
            }
            Self::Ip6 => {
                let (addresses, []) = bytes.as_chunks::<16>() else { return None };
                Value::Ip6(addresses.iter().copied().map(Ipv6Addr::from).collect())
            }
        })
    }
}

/// Parameters for [`set`](super::set), in order. Of two of one name the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, Value)>);

impl Params {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A string, such as `name`, `path` or `host.hostname`.
    #[must_use]
    pub fn text(self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.with(name, Value::Text(value.as_ref().to_owned()))
    }

    /// A number, such as `jid`, `enforce_statfs`, `children.max` or `devfs_ruleset`.
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

    /// How a subsystem is shared. `host` and `vnet` cannot be disabled, and `vnet` goes with
    /// neither `ip4` nor `ip6`.
    #[must_use]
    pub fn share(self, name: &str, value: Share) -> Self {
        let value = match value {
            Share::Disable => abi::JAIL_SYS_DISABLE,
            Share::New => abi::JAIL_SYS_NEW,
            Share::Inherit => abi::JAIL_SYS_INHERIT,
        };
        self.int(name, value)
    }

    /// `ip4.addr`: the jail may use no others; with none it has no IPv4.
    #[must_use]
    pub fn ip4_addr(self, addresses: &[Ipv4Addr]) -> Self {
        self.with("ip4.addr", Value::Ip4(addresses.to_vec()))
    }

    /// `ip6.addr`, likewise.
    #[must_use]
    pub fn ip6_addr(self, addresses: &[Ipv6Addr]) -> Self {
        self.with("ip6.addr", Value::Ip6(addresses.to_vec()))
    }

    /// In the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.0.push((name.to_owned(), value));
        self
    }

    pub(super) fn write(&self, options: &mut Options) -> io::Result<()> {
        for (name, value) in &self.0 {
            match value {
                Value::Text(text) => options.push_text(name, text.as_bytes())?,
                Value::Int(int) => options.push(name, Some(int.to_ne_bytes().to_vec()))?,
                Value::Flag(true) => options.push(name, None)?,
                Value::Flag(false) => options.push(&negated(name), None)?,
                Value::Ip4(addresses) => {
                    let bytes = addresses.iter().flat_map(Ipv4Addr::octets).collect();
                    options.push(name, Some(bytes))?;
                }
                Value::Ip6(addresses) => {
                    let bytes = addresses.iter().flat_map(Ipv6Addr::octets).collect();
                    options.push(name, Some(bytes))?;
                }
            }
        }
        Ok(())
    }
}

/// As jail(8) writes them.
impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            match value {
                Value::Text(text) => {
                    let text = text.to_string_lossy();
                    write!(f, "{space}{name}={}", text.escape_debug())?;
                }
                Value::Int(int) => write!(f, "{space}{name}={int}")?,
                Value::Flag(true) => write!(f, "{space}{name}")?,
                Value::Flag(false) => write!(f, "{space}{}", negated(name))?,
                Value::Ip4(addresses) => write!(f, "{space}{name}={}", commas(addresses))?,
                Value::Ip6(addresses) => write!(f, "{space}{name}={}", commas(addresses))?,
            }
        }
        Ok(())
    }
}

fn commas<T: ToString>(addresses: &[T]) -> String {
    addresses.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// "no" goes before the last part.
fn negated(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((above, last)) => format!("{above}.no{last}"),
        None => format!("no{name}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(params: &Params) -> Vec<(String, Option<Vec<u8>>)> {
        let mut options = Options::new();
        params.write(&mut options).unwrap();
        let pairs = options.pairs.into_iter().skip(1);
        pairs.map(|pair| (pair.name.into_string().unwrap(), pair.value)).collect()
    }

    fn sent(params: Params) -> (String, Option<Vec<u8>>) {
        written(&params).remove(0)
    }

    #[test]
    fn each_kind_is_sent_as_the_kernel_reads_it() {
        let new = Params::new;
        assert_eq!(sent(new().text("name", "j")), ("name".into(), Some(b"j\0".to_vec())));
        let two = Some(2_i32.to_ne_bytes().to_vec());
        assert_eq!(sent(new().int("enforce_statfs", 2)), ("enforce_statfs".into(), two.clone()));
        assert_eq!(sent(new().share("ip4", Share::Inherit)), ("ip4".into(), two));
        assert_eq!(sent(new().flag("persist", true)), ("persist".into(), None));
        let addresses = [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1)];
        let bytes = Some(vec![127, 0, 0, 2, 10, 0, 0, 1]);
        assert_eq!(sent(new().ip4_addr(&addresses)), ("ip4.addr".into(), bytes));
        assert_eq!(sent(new().ip4_addr(&[])), ("ip4.addr".into(), Some(vec![])));
        let (_, bytes) = sent(new().ip6_addr(&[Ipv6Addr::LOCALHOST]));
        assert_eq!(bytes.map(|bytes| (bytes.len(), bytes[15])), Some((16, 1)));
    }

    #[test]
    fn what_is_off_is_sent_by_its_other_name() {
        let name = |name| sent(Params::new().flag(name, false)).0;
        assert_eq!(name("persist"), "nopersist");
        assert_eq!(name("allow.raw_sockets"), "allow.noraw_sockets");
        assert_eq!(name("allow.mount.devfs"), "allow.mount.nodevfs");
    }

    #[test]
    fn they_are_shown_in_order_and_as_jail_8_writes_them() {
        let params = Params::new()
            .text("path", "/jails/x")
            .flag("persist", true)
            .flag("allow.raw_sockets", false)
            .int("children.max", 0)
            .ip4_addr(&[Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 0, 1)]);
        assert_eq!(
            params.to_string(),
            "path=/jails/x persist allow.noraw_sockets children.max=0 ip4.addr=127.0.0.1,10.0.0.1"
        );
        let names: Vec<_> = params.iter().map(|(name, _)| name).collect();
        assert_eq!(names[..2], ["path", "persist"]);
    }

    #[test]
    fn what_the_kernel_answers_is_read_by_its_kind() {
        let seven = 7_i32.to_ne_bytes();
        assert_eq!(Kind::Int.read(&seven), Some(Value::Int(7)));
        assert_eq!(Kind::Flag.read(&seven), Some(Value::Flag(true)));
        assert_eq!(Kind::Flag.read(&[0; 4]), Some(Value::Flag(false)));
        assert_eq!(Kind::Int.read(&[0; 8]), None);
        assert_eq!(Kind::Text.read(b"name\0\0\0"), Some(Value::Text("name".into())));
        assert_eq!(Kind::Ip4.read(&[127, 0, 0, 1]), Some(Value::Ip4(vec![Ipv4Addr::LOCALHOST])));
        assert_eq!(Kind::Ip4.read(&[127, 0, 0]), None);
        assert_eq!(Kind::Ip6.read(&[]), Some(Value::Ip6(vec![])));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in "[^\0]{0,40}", int: i32, ip4: Vec<u32>, ip6: Vec<u128>) {
            let ip4: Vec<_> = ip4.into_iter().map(Ipv4Addr::from).collect();
            let ip6: Vec<_> = ip6.into_iter().map(Ipv6Addr::from).collect();
            let params = Params::new().text("t", &text).int("i", int).ip4_addr(&ip4).ip6_addr(&ip6);
            let kinds = [Kind::Text, Kind::Int, Kind::Ip4, Kind::Ip6];
            for (((_, bytes), kind), (_, value)) in
                written(&params).into_iter().zip(kinds).zip(params.iter())
            {
                prop_assert_eq!(kind.read(&bytes.unwrap()), Some(value.clone()));
            }
        }

        #[test]
        fn no_answer_makes_it_panic(bytes: Vec<u8>) {
            for kind in [Kind::Text, Kind::Int, Kind::Flag, Kind::Ip4, Kind::Ip6] {
                let _ = kind.read(&bytes);
            }
        }
    }
}
