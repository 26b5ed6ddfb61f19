//! nmount(2), unmount(2) and getfsstat(2).

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use crate::Error;

/// One mount to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    fstype: String,
    path: PathBuf,
    options: Vec<(String, Option<OsString>)>,
    flags: u64,
}

impl Mount {
    /// `fstype` such as `nullfs`, `tmpfs`, `devfs`, `fdescfs`, `procfs`; `path` is where.
    #[must_use]
    pub fn new(fstype: &str, path: impl Into<PathBuf>) -> Self {
        Self { fstype: fstype.to_owned(), path: path.into(), options: Vec::new(), flags: 0 }
    }

    /// What is mounted: the directory below a nullfs. Sent as `target` for nullfs, as `from` else.
    #[must_use]
    pub fn from(self, source: &Path) -> Self {
        let name = if self.fstype == "nullfs" { "target" } else { "from" };
        self.option(name, source.as_os_str())
    }

    /// `ro`
    #[must_use]
    pub fn read_only(self) -> Self {
        self.flag("ro")
    }

    /// `nosuid`
    #[must_use]
    pub fn nosuid(self) -> Self {
        self.flag("nosuid")
    }

    /// `ruleset` of devfs(5).
    #[must_use]
    pub fn ruleset(self, number: u16) -> Self {
        self.option("ruleset", number.to_string())
    }

    /// `size` of tmpfs(5), in bytes.
    #[must_use]
    pub fn size(self, bytes: u64) -> Self {
        self.option("size", bytes.to_string())
    }

    /// Any other option with a value.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.options.push((name.to_owned(), Some(value.into())));
        self
    }

    /// Any other option without one.
    #[must_use]
    pub fn flag(mut self, name: &str) -> Self {
        self.options.push((name.to_owned(), None));
        self
    }

    #[must_use]
    pub fn fstype(&self) -> &str {
        &self.fstype
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fstype, self.path.display())
    }
}

/// The number of a mounted filesystem, for unmount(2) with `MNT_BYFSID`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fsid(pub [i32; 2]);

/// A mounted filesystem, statfs(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub fsid: Fsid,
    pub fstype: String,
    pub from: OsString,
    pub path: PathBuf,
    /// `MNT_*` of mount(2).
    pub flags: u64,
    pub total_bytes: u64,
    /// Free for who is not root; below zero where root has used what is kept for it.
    pub available_bytes: i64,
}

fn unsupported<T>(call: &'static str, argument: impl ToString) -> Result<T, Error> {
    Err(Error::new(call, argument.to_string(), io::Error::from_raw_os_error(libc::ENOSYS)))
}

/// Mounts: nmount(2).
///
/// # Errors
/// With the kernel's `errmsg`.
pub fn nmount(mount: &Mount) -> Result<(), Error> {
    unsupported("nmount", mount)
}

/// Unmounts what is mounted last on a path: unmount(2), with `MNT_FORCE` where `force`.
///
/// # Errors
/// `EBUSY` where something is open on it and it is not forced, `EINVAL` where nothing is mounted
/// there.
pub fn unmount(path: &Path, _force: bool) -> Result<(), Error> {
    unsupported("unmount", path.display())
}

/// Unmounts exactly this filesystem: unmount(2) with `MNT_BYFSID`.
///
/// # Errors
/// As [`unmount`]; `ENOENT` when it is no longer mounted.
pub fn unmount_fsid(fsid: Fsid, _force: bool) -> Result<(), Error> {
    unsupported("unmount", format!("{fsid:?}"))
}

/// What is mounted, in the order it was: getfsstat(2) with `MNT_NOWAIT`.
///
/// # Errors
/// As the man page says.
pub fn list() -> Result<Vec<Mounted>, Error> {
    unsupported("getfsstat", "")
}

/// The filesystem that a path is on: statfs(2).
///
/// # Errors
/// As the man page says.
pub fn statfs(path: &Path) -> Result<Mounted, Error> {
    unsupported("statfs", path.display())
}
