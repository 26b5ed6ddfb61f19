//! nmount(2), unmount(2), getfsstat(2) and statfs(2).
//!
//! Mounting is root's. May be called from any thread; allocates. Unmounting waits for the disk, so
//! it has no place on a thread that others wait for.

use std::{
    ffi::{CString, OsStr, OsString},
    fmt, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use crate::{Error, abi, bytes::Record, options::Options, sys};

/// One mount to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    fstype: String,
    path: PathBuf,
    options: Vec<(String, Option<OsString>)>,
}

impl Mount {
    /// `fstype` such as `nullfs`, `tmpfs`, `devfs`, `fdescfs`, `procfs`; `path` is where.
    #[must_use]
    pub fn new(fstype: &str, path: impl Into<PathBuf>) -> Self {
        Self { fstype: fstype.to_owned(), path: path.into(), options: Vec::new() }
    }

    /// What is mounted: `from`, but for nullfs `target`, which old and new kernels both know.
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

    fn write(&self, options: &mut Options) -> io::Result<()> {
        options.push_text("fstype", self.fstype.as_bytes())?;
        options.push_text("fspath", self.path.as_os_str().as_bytes())?;
        for (name, value) in &self.options {
            match value {
                Some(value) => options.push_text(name, value.as_bytes())?,
                None => options.push(name, None)?,
            }
        }
        Ok(())
    }
}

/// As mount(8) takes it, after `-t`.
impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fstype)?;
        for (name, value) in &self.options {
            match value {
                Some(value) => write!(f, " -o {name}={}", shown(value))?,
                None => write!(f, " -o {name}")?,
            }
        }
        write!(f, " {}", shown(self.path.as_os_str()))
    }
}

/// The number of a mounted filesystem. Others than root see zeros for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fsid(pub [i32; 2]);

/// As unmount(2) wants it.
impl fmt::Display for Fsid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([first, second]) = self;
        write!(f, "FSID:{first}:{second}")
    }
}

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
    /// Free for root.
    pub free_bytes: u64,
    /// Free for others; below nothing where root has used what is kept for it.
    pub available_bytes: i64,
}

impl Mounted {
    fn read(bytes: &[u8]) -> Option<Self> {
        let it = Record(bytes.get(..abi::STATFS_SIZE)?);
        if it.u32(abi::F_VERSION) != abi::STATFS_VERSION {
            return None;
        }
        let block = it.u64(abi::F_BSIZE);
        let path = it.text(abi::F_MNTONNAME, abi::MNAMELEN);
        let from = it.text(abi::F_MNTFROMNAME, abi::MNAMELEN);
        let fstype = it.text(abi::F_FSTYPENAME, abi::MFSNAMELEN);
        let signed = i64::try_from(block).unwrap_or(i64::MAX);
        Some(Self {
            fsid: Fsid([it.i32(abi::F_FSID), it.i32(abi::F_FSID + 4)]),
            fstype: String::from_utf8_lossy(fstype).into_owned(),
            from: OsString::from_vec(from.to_vec()),
            path: PathBuf::from(OsStr::from_bytes(path)),
            flags: it.u64(abi::F_FLAGS),
            total_bytes: it.u64(abi::F_BLOCKS).saturating_mul(block),
            free_bytes: it.u64(abi::F_BFREE).saturating_mul(block),
            available_bytes: it.i64(abi::F_BAVAIL).saturating_mul(signed),
        })
    }

    #[must_use]
    pub fn read_only(&self) -> bool {
        self.flags & abi::MNT_RDONLY != 0
    }
}

/// Mounts: nmount(2).
///
/// # Errors
/// With what the kernel says of it, where it says something.
pub fn nmount(mount: &Mount) -> Result<(), Error> {
    let failed = |error| Error::new("nmount", mount.to_string(), error);
    let mut options = Options::new();
    mount.write(&mut options).map_err(failed)?;
    sys::nmount(&mut options, 0).map_err(|error| failed(error).with_message(options.errmsg()))
}

/// Unmounts what is mounted last on a path: unmount(2), with `MNT_FORCE` where `force`.
///
/// # Errors
/// `EBUSY` where something is open on it and it is not forced, `EINVAL` where nothing is mounted
/// there.
pub fn unmount(path: &Path, force: bool) -> Result<(), Error> {
    let flags = if force { abi::MNT_FORCE } else { 0 };
    by_path("unmount", path.as_os_str(), flags, |path| sys::unmount(path, flags))
}

/// Unmounts exactly this filesystem, wherever it is mounted: unmount(2) with `MNT_BYFSID`.
///
/// # Errors
/// `EBUSY` as [`unmount`]; `ENOENT` when it is no longer mounted.
pub fn unmount_fsid(fsid: Fsid, force: bool) -> Result<(), Error> {
    let flags = abi::MNT_BYFSID | if force { abi::MNT_FORCE } else { 0 };
    let text = fsid.to_string();
    by_path("unmount", OsStr::new(&text), flags, |text| sys::unmount(text, flags))
}

/// All mounted filesystems, in the order in which they were mounted: getfsstat(2) with
/// `MNT_NOWAIT`, so that the sizes may be old and no filesystem is waited for. What is just being
/// unmounted may be missing.
///
/// # Errors
/// As the man page says; when the table grows faster than it can be read.
pub fn list() -> Result<Vec<Mounted>, Error> {
    let mode = abi::MNT_NOWAIT;
    let failed = |error| Error::new("getfsstat", "MNT_NOWAIT", error);
    read_all(|buffer| sys::getfsstat(buffer, mode)).map_err(failed)
}

/// Those at a path or below it, the last one first: the order in which they come off.
///
/// # Errors
/// As [`list`].
pub fn list_below(path: &Path) -> Result<Vec<Mounted>, Error> {
    let mut below: Vec<_> = list()?.into_iter().filter(|it| it.path.starts_with(path)).collect();
    below.reverse();
    Ok(below)
}

/// The filesystem that a path is on: statfs(2).
///
/// # Errors
/// As the man page says.
pub fn statfs(path: &Path) -> Result<Mounted, Error> {
    let mut buffer = vec![0; abi::STATFS_SIZE];
    by_path("statfs", path.as_os_str(), 0, |path| sys::statfs(path, &mut buffer))?;
    Mounted::read(&buffer).ok_or_else(|| Error::new("statfs", shown(path.as_os_str()), not_ours()))
}

/// Attempts to read the table; it is asked for with room to spare.
const ATTEMPTS: u32 = 8;

fn read_all(
    mut ask: impl FnMut(Option<&mut [u8]>) -> io::Result<usize>,
) -> io::Result<Vec<Mounted>> {
    let mut room = ask(None)?.saturating_add(16);
    for _ in 0..ATTEMPTS {
        let mut buffer = vec![0; room.saturating_mul(abi::STATFS_SIZE)];
        let count = ask(Some(&mut buffer))?;
        // FreeBSD: a full buffer does not say whether there were more.
        if count < room {
            let each = buffer.chunks_exact(abi::STATFS_SIZE).take(count);
            return each.map(|bytes| Mounted::read(bytes).ok_or_else(not_ours)).collect();
        }
        room = room.saturating_mul(2);
    }
    Err(io::Error::other(format!("more than {room} filesystems")))
}

fn not_ours() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "struct statfs has another version")
}

fn by_path(
    call: &'static str,
    path: &OsStr,
    flags: i32,
    ask: impl FnOnce(&std::ffi::CStr) -> io::Result<()>,
) -> Result<(), Error> {
    let argument = || {
        let flags = if flags == 0 { String::new() } else { format!(", {flags:#x}") };
        format!("{}{flags}", shown(path))
    };
    let c_path = CString::new(path.as_bytes())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
    c_path.and_then(|path| ask(&path)).map_err(|error| Error::new(call, argument(), error))
}

fn shown(text: &OsStr) -> String {
    text.to_string_lossy().escape_debug().to_string()
}

#[cfg(test)]
mod tests;
