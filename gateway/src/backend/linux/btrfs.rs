//! btrfs as the gateway uses it: subvolumes and their quota, by ioctl(2) and sysfs alone.
//!
//! A subvolume is made, copied and deleted in one step however much is in it, and the kernel
//! counts what it holds. The constants and structures are those of `linux/btrfs.h`; the figures of
//! a quota group are under `/sys/fs/btrfs/<UUID>/qgroups` since Linux 5.9. Who has a subvolume of
//! which sandbox is not known here.

#![allow(unsafe_code)]

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};

use super::error::Call;
use crate::backend::Error;

/// `BTRFS_FIRST_FREE_OBJECTID`: the inode of each subvolume's own directory, and the least id that
/// a subvolume of a user's can have.
const FIRST_FREE: u64 = 256;
/// `BTRFS_SUBVOL_NAME_MAX` and `BTRFS_PATH_NAME_MAX`, each with its terminator.
const NAME: usize = 4040;
const PATH: usize = 4088;
/// `BTRFS_QUOTA_CTL_ENABLE`
const ENABLE: u64 = 1;
/// `BTRFS_QGROUP_LIMIT_MAX_RFER`
const MAX_REFERENCED: u64 = 1;
/// What takes a limit off again.
const NO_LIMIT: u64 = u64::MAX;

/// `struct btrfs_ioctl_vol_args`
#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [u8; PATH],
}

/// `struct btrfs_ioctl_vol_args_v2`
#[repr(C)]
struct VolumeArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME],
}

/// `struct btrfs_ioctl_ino_lookup_args`
#[repr(C)]
struct LookupArgs {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_fs_info_args`
#[repr(C)]
struct InfoArgs {
    max_id: u64,
    devices: u64,
    uuid: [u8; 16],
    rest: [u64; 124],
}

/// `struct btrfs_ioctl_quota_ctl_args`
#[repr(C)]
struct QuotaArgs {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_create_args`
#[repr(C)]
struct GroupArgs {
    create: u64,
    group: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`
#[repr(C)]
struct LimitArgs {
    /// 0: of the subvolume that the descriptor is in.
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

#[derive(Clone, Copy)]
enum Way {
    Write = 1,
    Read = 2,
    Both = 3,
}

/// `_IOC` of `asm-generic/ioctl.h`, of btrfs' requests.
const fn request<Args>(way: Way, number: u64) -> u64 {
    (way as u64) << 30 | (size_of::<Args>() as u64) << 16 | 0x94 << 8 | number
}

/// A request, by its name and number.
struct Request(&'static str, u64);

const DESTROY: Request =
    Request("ioctl BTRFS_IOC_SNAP_DESTROY", request::<VolumeArgs>(Way::Write, 15));
const LOOKUP: Request = Request("ioctl BTRFS_IOC_INO_LOOKUP", request::<LookupArgs>(Way::Both, 18));
const SNAPSHOT: Request =
    Request("ioctl BTRFS_IOC_SNAP_CREATE_V2", request::<VolumeArgsV2>(Way::Write, 23));
const CREATE: Request =
    Request("ioctl BTRFS_IOC_SUBVOL_CREATE_V2", request::<VolumeArgsV2>(Way::Write, 24));
const INFO: Request = Request("ioctl BTRFS_IOC_FS_INFO", request::<InfoArgs>(Way::Read, 31));
const QUOTA: Request = Request("ioctl BTRFS_IOC_QUOTA_CTL", request::<QuotaArgs>(Way::Both, 40));
const GROUP: Request =
    Request("ioctl BTRFS_IOC_QGROUP_CREATE", request::<GroupArgs>(Way::Write, 42));
/// The header has it the wrong way round.
const LIMIT: Request = Request("ioctl BTRFS_IOC_QGROUP_LIMIT", request::<LimitArgs>(Way::Read, 43));

impl Request {
    fn make<Args>(&self, fd: RawFd, args: &mut Args) -> io::Result<()> {
        debug_assert_eq!(size_of::<Args>() as u64, self.1 >> 16 & 0x3fff);
        // SAFETY: the request's number says how large `args` is, which outlives the call, is of
        // the layout that the kernel reads and writes, and has no value that is not allowed.
        let answer = unsafe { libc::ioctl(fd, self.1 as libc::Ioctl, std::ptr::from_mut(args)) };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Whether the file system that holds the directory `path` is btrfs.
pub(super) fn holds(path: &Path) -> Result<bool, Error> {
    let stat = fstatfs(open(path)?).call("statfs", path.display())?;
    Ok(stat.filesystem_type() == BTRFS_SUPER_MAGIC)
}

/// Whether `path` is the top of a subvolume; a link to one is none.
pub(super) fn is_subvolume(path: &Path) -> Result<bool, Error> {
    let metadata = fs::symlink_metadata(path).call("stat", path.display())?;
    Ok(metadata.is_dir() && metadata.ino() == FIRST_FREE && holds(path)?)
}

/// Makes an empty subvolume, which must not be there yet; its mode is by the umask.
pub(super) fn create(path: &Path) -> Result<(), Error> {
    make(&CREATE, None, path)
}

/// Makes `to` a copy of the subvolume `from` as it is now, which shares all of its blocks. What is
/// written to either from then on is its own; what is still in memory for `from` is in it too.
pub(super) fn snapshot(from: &Path, to: &Path) -> Result<(), Error> {
    make(&SNAPSHOT, Some(&open(from)?), to)
}

fn make(request: &Request, from: Option<&File>, path: &Path) -> Result<(), Error> {
    let (parent, name) = split(path)?;
    let fd = from.map_or(0, |from| i64::from(from.as_raw_fd()));
    let mut args = VolumeArgsV2 { fd, transid: 0, flags: 0, unused: [0; 4], name: filled(&name)? };
    request.make(open(parent)?.as_raw_fd(), &mut args).call(request.0, path.display())
}

/// Deletes a subvolume with all that is in it; the kernel gives the blocks back in its own time.
/// One that holds another subvolume is refused with `ENOTEMPTY`.
pub(super) fn delete(path: &Path) -> Result<(), Error> {
    let (parent, name) = split(path)?;
    let mut args = VolumeArgs { fd: 0, name: filled(&name)? };
    DESTROY.make(open(parent)?.as_raw_fd(), &mut args).call(DESTROY.0, path.display())
}

/// The subvolume that the directory `path` is in, as its quota group is named.
pub(super) fn id(path: &Path) -> Result<u64, Error> {
    let mut args = LookupArgs { tree: 0, object: FIRST_FREE, name: [0; 4080] };
    LOOKUP.make(open(path)?.as_raw_fd(), &mut args).call(LOOKUP.0, path.display())?;
    Ok(args.tree)
}

/// Lets the subvolume `path` hold so many bytes at most, those shared with others included;
/// `None` is as many as there are. Quota must be on.
pub(super) fn limit(path: &Path, bytes: Option<u64>) -> Result<(), Error> {
    let mut args = LimitArgs {
        group: 0,
        flags: MAX_REFERENCED,
        max_referenced: bytes.unwrap_or(NO_LIMIT),
        max_exclusive: 0,
        reserved_referenced: 0,
        reserved_exclusive: 0,
    };
    LIMIT.make(open(path)?.as_raw_fd(), &mut args).call(LIMIT.0, path.display())
}

/// The quota of a file system, which is on.
#[derive(Debug)]
pub(super) struct Quota {
    /// Where the kernel shows its groups.
    groups: PathBuf,
}

impl Quota {
    /// Of the file system that holds `path`; `None` where none is on.
    pub(super) fn of(path: &Path) -> Result<Option<Self>, Error> {
        let groups = groups(path)?;
        let enabled = groups.join("enabled");
        match fs::read_to_string(&enabled) {
            Ok(text) if text.trim() == "1" => Ok(Some(Self { groups })),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).call("read", enabled.display())
            }
            _ => Ok(None),
        }
    }

    /// Turns it on where it is not. The kernel then counts what is there already, which takes it a
    /// while where that is much.
    pub(super) fn turn_on(path: &Path) -> Result<Self, Error> {
        if let Some(quota) = Self::of(path)? {
            return Ok(quota);
        }
        let mut args = QuotaArgs { command: ENABLE, status: 0 };
        QUOTA.make(open(path)?.as_raw_fd(), &mut args).call(QUOTA.0, path.display())?;
        let shown = Self::of(path)?;
        shown.ok_or_else(|| {
            Error::Unsupported(format!("quota is on and nowhere shown at {}", path.display()))
        })
    }

    /// What a subvolume holds (bytes): what is written out, and what is on its way there. `None`
    /// where there is no such group.
    pub(super) fn used(&self, id: u64) -> Result<Option<u64>, Error> {
        let group = self.groups.join(format!("0_{id}"));
        let mut sum = 0_u64;
        for name in ["referenced", "rsv_data"] {
            let path = group.join(name);
            let text = match fs::read_to_string(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                read => read.call("read", path.display())?,
            };
            let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{text:?}"));
            let bytes: u64 =
                text.trim().parse().map_err(|_| wrong()).call("read", path.display())?;
            sum = sum.saturating_add(bytes);
        }
        Ok(Some(sum))
    }

    /// Groups whose subvolume is gone, which kernels before 6.11 keep. One whose subvolume is being
    /// made may be among them.
    pub(super) fn stale(&self, path: &Path) -> Result<Vec<u64>, Error> {
        let file = open(path)?;
        let entries = fs::read_dir(&self.groups).call("read", self.groups.display())?;
        let ids = entries.filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.strip_prefix("0_")?.parse().ok()
        });
        let gone = |id: &u64| {
            let mut args = LookupArgs { tree: *id, object: FIRST_FREE, name: [0; 4080] };
            let found = LOOKUP.make(file.as_raw_fd(), &mut args);
            found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        Ok(ids.filter(|id| *id >= FIRST_FREE).filter(gone).collect())
    }

    /// Has the kernel forget the group of a subvolume that is gone, unless it is not done with it.
    pub(super) fn forget(&self, path: &Path, id: u64) -> Result<(), Error> {
        let mut args = GroupArgs { create: 0, group: id };
        match GROUP.make(open(path)?.as_raw_fd(), &mut args) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT)) => {
                Ok(())
            }
            result => result.call(GROUP.0, format_args!("0/{id} at {}", path.display())),
        }
    }
}

fn groups(path: &Path) -> Result<PathBuf, Error> {
    let mut args = InfoArgs { max_id: 0, devices: 0, uuid: [0; 16], rest: [0; 124] };
    INFO.make(open(path)?.as_raw_fd(), &mut args).call(INFO.0, path.display())?;
    let uuid = uuid::Uuid::from_bytes(args.uuid);
    Ok(Path::new("/sys/fs/btrfs").join(uuid.to_string()).join("qgroups"))
}

/// A directory, and no link to one.
fn open(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW);
    options.open(path).call("open", path.display())
}

fn split(path: &Path) -> Result<(&Path, CString), Error> {
    let parts = path.parent().zip(path.file_name());
    let (parent, name) = parts.ok_or_else(no_name).call("take the last name of", path.display())?;
    let name = CString::new(name.as_bytes()).map_err(|_| no_name());
    Ok((parent, name.call("take the last name of", path.display())?))
}

fn no_name() -> io::Error {
    io::Error::from(io::ErrorKind::InvalidInput)
}

/// With at least one zero after it.
fn filled<const N: usize>(name: &CString) -> Result<[u8; N], Error> {
    let mut array = [0; N];
    let bytes = name.as_bytes();
    let short = array.get_mut(..bytes.len()).filter(|_| bytes.len() < N);
    let place = short.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename));
    place.call("name", name.to_string_lossy())?.copy_from_slice(bytes);
    Ok(array)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::backend::host::{loop_file::Mounted, require_root};

    #[test]
    fn the_requests_are_numbered_as_in_the_header() {
        let numbers = [&DESTROY, &LOOKUP, &SNAPSHOT, &CREATE, &INFO, &QUOTA, &GROUP, &LIMIT];
        assert_eq!(
            numbers.map(|request| request.1),
            [
                0x5000_940f,
                0xd000_9412,
                0x5000_9417,
                0x5000_9418,
                0x8400_941f,
                0xc010_9428,
                0x4010_942a,
                0x8030_942b,
            ]
        );
    }

    #[test]
    fn a_directory_elsewhere_is_no_subvolume() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        assert!(!holds(dir.path()).unwrap() && !is_subvolume(dir.path()).unwrap());
        let error = create(&dir.path().join("one")).unwrap_err().to_string();
        assert!(error.starts_with("ioctl BTRFS_IOC_SUBVOL_CREATE_V2 /dev/shm/"), "{error}");
    }

    #[test]
    fn a_subvolume_is_made_copied_limited_and_deleted_with_all_in_it() {
        require_root!();
        let mounted = Mounted::btrfs();
        let at = |name: &str| mounted.path().join(name);
        assert!(holds(mounted.path()).unwrap());
        create(&at("one")).unwrap();
        assert!(is_subvolume(&at("one")).unwrap());
        let error = create(&at("one")).unwrap_err().to_string();
        assert!(error.contains("File exists"), "{error}");
        fs::create_dir(at("one/directory")).unwrap();
        assert!(!is_subvolume(&at("one/directory")).unwrap());
        std::os::unix::fs::symlink(at("one"), at("link")).unwrap();
        assert!(!is_subvolume(&at("link")).unwrap());
        assert!(delete(&at("link")).is_err());

        assert!(Quota::of(mounted.path()).unwrap().is_none());
        let quota = Quota::turn_on(mounted.path()).unwrap();
        Quota::turn_on(mounted.path()).unwrap();
        let id_of = |name: &str| id(&at(name)).unwrap();
        assert_eq!(id_of("one/directory"), id_of("one"));
        limit(&at("one"), Some(8 << 20)).unwrap();
        let mut file = File::create(at("one/directory/file")).unwrap();
        let full = (0..64).find_map(|_| file.write_all(&[1; 1 << 20]).err()).unwrap();
        assert_eq!(full.raw_os_error(), Some(libc::EDQUOT));
        let used = quota.used(id_of("one")).unwrap().unwrap();
        assert!((4 << 20..=8 << 20).contains(&used), "{used}");
        limit(&at("one"), None).unwrap();
        file.write_all(&[1; 1 << 20]).unwrap();

        let before = fs::metadata(at("one/directory/file")).unwrap().len();
        snapshot(&at("one"), &at("two")).unwrap();
        assert!(is_subvolume(&at("two")).unwrap() && id_of("one") != id_of("two"));
        file.write_all(&[1; 1 << 20]).unwrap();
        assert_eq!(fs::metadata(at("two/directory/file")).unwrap().len(), before);

        create(&at("one/inner")).unwrap();
        let error = delete(&at("one")).unwrap_err().to_string();
        assert!(error.contains("Directory not empty"), "{error}");
        delete(&at("one/inner")).unwrap();
        let gone = id_of("one");
        // Kept open it would keep the subvolume's blocks.
        drop(file);
        delete(&at("one")).unwrap();
        assert!(!at("one").exists() && at("two/directory/file").exists());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            for id in quota.stale(mounted.path()).unwrap() {
                assert_ne!(id, id_of("two"));
                quota.forget(mounted.path(), id).unwrap();
            }
            if quota.used(gone).unwrap().is_none() {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "the group is still there");
            nix::unistd::syncfs(open(mounted.path()).unwrap()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
