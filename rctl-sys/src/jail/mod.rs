//! jail(2): making, finding, entering and removing jails, by the parameters of jail(8).
//!
//! Root only. All may be called from any thread, but [`attach`] changes the whole process, and two
//! threads that attach to two jails at once may end up half in each (sys/kern/kern_jail.c). All
//! allocate but [`attach`] and [`remove`], which are bare system calls where they succeed.

mod params;

use std::{collections::BTreeMap, ffi::OsStr, fmt, io, ops::BitOr, path::PathBuf};

pub use params::{Kind, Params, Share, Value};

use crate::{Error, abi, options::Options, sys};

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
    /// [`set`]: makes a jail, which must not be there unless [`Flags::UPDATE`] is given, too.
    pub const CREATE: Self = Self(abi::JAIL_CREATE);
    /// [`set`]: changes the jail named by the parameter `jid` or `name`.
    pub const UPDATE: Self = Self(abi::JAIL_UPDATE);
    /// [`set`]: the caller enters it.
    pub const ATTACH: Self = Self(abi::JAIL_ATTACH);
    /// [`get`]: finds a jail also when it was removed and something still holds it.
    pub const DYING: Self = Self(abi::JAIL_DYING);

    #[must_use]
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// How [`get`] finds a jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By<'a> {
    Jid(Jid),
    Name(&'a str),
    /// The one with the next higher number, from 0: `lastjid`.
    After(i32),
}

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jid(jid) => write!(f, "jid={jid}"),
            Self::Name(name) => write!(f, "name={}", name.escape_debug()),
            Self::After(jid) => write!(f, "lastjid={jid}"),
        }
    }
}

/// A jail, with the parameters that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub jid: Jid,
    pub values: BTreeMap<String, Value>,
}

impl Found {
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&OsStr> {
        match self.values.get(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    #[must_use]
    pub fn int(&self, name: &str) -> Option<i32> {
        match self.values.get(name)? {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        match self.values.get(name)? {
            Value::Flag(flag) => Some(*flag),
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
    /// Removed, but something still holds it: a process that is not yet dead, a socket, a mount.
    pub dying: bool,
}

/// Creates or changes a jail: jail_set(2).
///
/// # Errors
/// With what the kernel says of it, where it says something: `EEXIST` when there is one of that
/// name or number, `ENOENT` when there is none to change, `EPERM` when the caller's own jail may
/// have no children.
pub fn set(params: &Params, flags: Flags) -> Result<Jid, Error> {
    let failed = |error| Error::new("jail_set", params.to_string(), error);
    let mut options = Options::new();
    params.write(&mut options).map_err(failed)?;
    let jid = sys::jail_set(&mut options, flags.0)
        .map_err(|error| failed(error).with_message(options.errmsg()))?;
    jid_of(jid).map_err(failed)
}

/// A jail and those of its parameters: jail_get(2). `None` when there is none, or only one that is
/// dying and this was not asked for with [`Flags::DYING`].
///
/// # Errors
/// With what the kernel says of it, where it says something: `EINVAL` for a parameter that it does
/// not know, or that has another kind.
pub fn get(by: By<'_>, wanted: &[(&str, Kind)], flags: Flags) -> Result<Option<Found>, Error> {
    let failed = |error| Error::new("jail_get", by.to_string(), error);
    let mut options = Options::new();
    let key = match by {
        By::Jid(_) => "jid",
        By::Name(_) => "name",
        By::After(_) => "lastjid",
    };
    // Of two of one name the kernel forgets the first, so that what names the jail comes last, and
    // once.
    let asked = wanted.iter().filter(|(name, _)| *name != key);
    for (name, kind) in asked {
        options.push(name, Some(kind.room())).map_err(failed)?;
    }
    match by {
        By::Jid(Jid(number)) | By::After(number) => {
            options.push(key, Some(number.to_ne_bytes().to_vec())).map_err(failed)?;
        }
        By::Name(name) => options.push_text(key, name.as_bytes()).map_err(failed)?,
    }
    let jid = match sys::jail_get(&mut options, flags.0) {
        Ok(jid) => jid_of(jid).map_err(failed)?,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(failed(error).with_message(options.errmsg())),
    };
    let read = |&(name, kind): &(&str, Kind)| {
        let bytes = options.value(name).unwrap_or_default();
        let value = kind.read(bytes).ok_or_else(|| {
            failed(odd(format!("{name} came as {} bytes, which is no {kind:?}", bytes.len())))
        })?;
        Ok((name.to_owned(), value))
    };
    let values = wanted.iter().map(read).collect::<Result<_, Error>>()?;
    Ok(Some(Found { jid, values }))
}

/// The jail of that name that is alive.
///
/// # Errors
/// As [`get`].
pub fn find(name: &str) -> Result<Option<Jid>, Error> {
    Ok(get(By::Name(name), &[], Flags::NONE)?.map(|found| found.jid))
}

/// All jails below the caller's, those that are dying included, by their numbers. Jails that come
/// and go meanwhile may be in it or not.
///
/// # Errors
/// As [`get`].
pub fn list() -> Result<Vec<Jail>, Error> {
    let wanted = [
        ("name", Kind::Text),
        ("path", Kind::Text),
        ("host.hostname", Kind::Text),
        ("dying", Kind::Flag),
    ];
    let mut jails = Vec::new();
    let mut last = 0;
    while let Some(found) = get(By::After(last), &wanted, Flags::DYING)? {
        if found.jid.raw() <= last {
            let error = odd(format!("jail {} comes after jail {last}", found.jid));
            return Err(Error::new("jail_get", By::After(last).to_string(), error));
        }
        last = found.jid.raw();
        let text = |name| found.text(name).unwrap_or_default();
        jails.push(Jail {
            jid: found.jid,
            name: text("name").to_string_lossy().into_owned(),
            path: PathBuf::from(text("path")),
            hostname: text("host.hostname").to_string_lossy().into_owned(),
            dying: found.flag("dying").unwrap_or_default(),
        });
    }
    Ok(jails)
}

/// Enters a jail, for good: jail_attach(2). Root and working directory become the jail's; a
/// descriptor of a directory outside stays one, and is a way out.
///
/// # Errors
/// `EINVAL` when there is no such jail, or it is dying.
pub fn attach(jid: Jid) -> Result<(), Error> {
    sys::jail_attach(jid.raw()).map_err(|error| Error::new("jail_attach", jid.to_string(), error))
}

/// Removes a jail, kills what runs in it and does not wait for that: jail_remove(2). False when
/// there was none.
///
/// # Errors
/// As the man page says.
pub fn remove(jid: Jid) -> Result<bool, Error> {
    match sys::jail_remove(jid.raw()) {
        Ok(()) => Ok(true),
        // FreeBSD: this is all that EINVAL means here.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(Error::new("jail_remove", jid.to_string(), error)),
    }
}

fn jid_of(raw: i32) -> io::Result<Jid> {
    Jid::new(raw).ok_or_else(|| odd(format!("the kernel answered with jail {raw}")))
}

fn odd(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_no_jail() {
        assert_eq!(Jid::new(0), None);
        assert_eq!(Jid::new(-1), None);
        assert_eq!(Jid::new(7).map(Jid::raw), Some(7));
    }

    #[test]
    fn flags_add_up() {
        assert_eq!((Flags::CREATE | Flags::ATTACH).raw(), 5);
    }

    #[cfg(not(target_os = "freebsd"))]
    #[test]
    fn elsewhere_the_errors_name_call_argument_and_errno() {
        let errno = Some(libc::ENOSYS);
        let params = Params::new().text("name", "j").flag("persist", true);
        let error = set(&params, Flags::CREATE).unwrap_err();
        assert_eq!(error.errno(), errno);
        assert!(error.to_string().starts_with("jail_set(name=j persist): "), "{error}");

        let error = find("j").unwrap_err();
        assert!(error.to_string().starts_with("jail_get(name=j): "), "{error}");
        let jid = Jid::new(3).unwrap();
        let error = get(By::Jid(jid), &[("path", Kind::Text)], Flags::NONE).unwrap_err();
        assert!(error.to_string().starts_with("jail_get(jid=3): "), "{error}");
        assert!(list().unwrap_err().to_string().starts_with("jail_get(lastjid=0): "));
        assert!(attach(jid).unwrap_err().to_string().starts_with("jail_attach(3): "));
        assert!(remove(jid).unwrap_err().to_string().starts_with("jail_remove(3): "));
    }

    #[test]
    fn a_nul_is_refused_before_the_kernel_is_asked() {
        let error = find("a\0b").unwrap_err();
        assert_eq!(error.errno(), None);
        assert_eq!(error.to_string(), r"jail_get(name=a\0b): a NUL in the value of name");
        let error = set(&Params::new().text("path", "/a\0b"), Flags::CREATE).unwrap_err();
        assert_eq!(error.errno(), None);
    }
}
