//! Linux: furnishing fresh namespaces, from the host's files to the sandbox's own.
//!
//! The process is root in a user namespace of its own and still sees the host's mounts. The order
//! matters:
//!
//! 1. a staging tmpfs over `/sys` (which is always there) holds the layers, and the overlay over
//!    them is mounted in it;
//! 2. what must come from the host or from staging is taken as detached mounts;
//! 3. the overlay becomes `/`. From here on every path is the sandbox's own, so that a template's
//!    symbolic links lead nowhere else;
//! 4. `/proc`, `/sys` and `/dev` are mounted while the host's are still there (the kernel refuses
//!    a new proc where none is fully visible), then the host's tree is let go;
//! 5. last, what only entering takes is given away: capabilities and calls of the kernel's.

#![allow(unsafe_code)]

use std::{
    fmt::Write as _,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, umask},
    unistd::{chdir, fchdir, mkdir, pivot_root, sethostname},
};

use crate::{
    control::{self, Descriptors, Failure},
    walls::{self, Wall},
    wire::{Attach, Descriptor},
};

#[path = "linux_attach_confinement.rs"]
mod confinement;
#[path = "linux_attach_furniture.rs"]
mod furniture;
#[path = "linux_attach_meminfo.rs"]
mod meminfo;
#[path = "linux_attach_network.rs"]
mod network;

pub(crate) use meminfo::refresh as refresh_meminfo;

/// The host has it wherever cgroups are, and the sandbox gets one of its own.
const STAGING: &str = "/sys";

/// Names the step of a failed system call.
trait Step<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure>;
}

impl<T> Step<T> for nix::Result<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|errno| Failure {
            step: step.into(),
            errno: Some(errno as i32),
            message: errno.desc().to_lowercase(),
        })
    }
}

impl<T> Step<T> for std::io::Result<T> {
    fn step(self, step: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            step: step.into(),
            errno: error.raw_os_error(),
            message: error.to_string(),
        })
    }
}

pub(crate) fn enter(
    attach: &Attach,
    descriptors: &mut Descriptors,
    control: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let Attach::Linux(spec) = attach else {
        return Err(Failure {
            step: "enter a jail".into(),
            errno: None,
            message: "this envd was built for Linux".into(),
        });
    };
    umask(Mode::from_bits_truncate(0o022));
    if !walls::is_down(Wall::CgroupNamespace) {
        unshare(CloneFlags::CLONE_NEWCGROUP).step("unshare the cgroup namespace")?;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).step("make / private")?;

    let ipv6 = network::ipv6();
    mount_tmpfs(STAGING, MsFlags::empty(), "size=1m,mode=0700")?;
    let root = mount_root(descriptors)?;
    let furniture = furniture::Furniture::take(Path::new(STAGING), descriptors, spec)?;

    let host = directory("/")?;
    chdir(&root).step("enter the new root")?;
    pivot_root(".", ".").step("pivot_root to the overlay")?;

    furniture.place(spec)?;
    if !walls::is_down(Wall::HostTree) {
        fchdir(host.as_fd()).step("return to the host's root")?;
        umount2(".", MntFlags::MNT_DETACH).step("let go of the host's root")?;
    }
    drop(host);
    chdir("/").step("enter /")?;

    sethostname(&spec.hostname).step("set the host name")?;
    // While the gateway makes the link.
    confinement::begin()?;
    if spec.network.is_some() {
        control::await_link(control).step(control::AWAIT_LINK)?;
    }
    if !walls::is_down(Wall::NetworkNamespace) {
        network::configure(spec.network.as_ref(), ipv6)?;
    }
    confinement::finish()
}

/// Mounts the overlay and says where.
fn mount_root(descriptors: &mut Descriptors) -> Result<std::path::PathBuf, Failure> {
    let staging = Path::new(STAGING);
    let writable =
        descriptors.take(Descriptor::WritableLayer).ok_or_else(|| missing("a writable layer"))?;
    let lowers = descriptors.take_all(Descriptor::LowerLayer);
    if lowers.is_empty() {
        return Err(missing("a lower layer"));
    }
    let mut options = String::from("userxattr,volatile");
    for (n, lower) in lowers.into_iter().enumerate() {
        let at = staging.join(n.to_string());
        make_directory(&at)?;
        move_mount(lower, &at)?;
        let separator = if n == 0 { ",lowerdir=" } else { ":" };
        let _ = write!(options, "{separator}{}", at.display());
    }
    let at = staging.join("writable");
    make_directory(&at)?;
    move_mount(writable, &at)?;
    let _ = write!(options, ",upperdir={0}/upper,workdir={0}/work", at.display());

    let root = staging.join("root");
    make_directory(&root)?;
    // Volatile: what is written is not to survive the host, and without it an end writes out all
    // that the host's file system has dirty, the neighbours' too.
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .step(format!("mount the overlay with {options}"))?;
    Ok(root)
}

fn missing(what: &str) -> Failure {
    Failure {
        step: format!("find {what} among the descriptors"),
        errno: None,
        message: "none was sent".into(),
    }
}

fn directory(path: &str) -> Result<OwnedFd, Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).step(format!("open {path}"))
}

/// A directory that may be there already.
fn make_directory(path: &Path) -> Result<(), Failure> {
    match mkdir(path, Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno).step(format!("make {}", path.display())),
    }
}

fn mount_tmpfs(at: &str, flags: MsFlags, options: &str) -> Result<(), Failure> {
    mount(Some("tmpfs"), at, Some("tmpfs"), flags, Some(options))
        .step(format!("mount tmpfs at {at}"))
}

/// A detached copy of the mount at `path`.
fn detached(path: &Path) -> nix::Result<OwnedFd> {
    open_tree(path, 0)
}

fn open_tree(path: &Path, more: libc::c_uint) -> nix::Result<OwnedFd> {
    use std::os::{fd::FromRawFd, unix::ffi::OsStrExt};
    let text = std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | more;
    // SAFETY: the string lives for the call, which touches no other memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, text.as_ptr(), flags) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a detached mount at `path`, itself never a symbolic link.
fn move_mount(mount: OwnedFd, path: &Path) -> Result<(), Failure> {
    use std::os::unix::ffi::OsStrExt;
    let text = std::ffi::CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Errno::EINVAL)
        .step("name a mount point")?;
    // SAFETY: both strings live for the call, which touches no other memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            text.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop).step(format!("attach a mount at {}", path.display()))
}

/// Sets `attributes` (`MOUNT_ATTR_*`) on a detached mount.
fn set_attributes(mount: &OwnedFd, attributes: u64) -> nix::Result<()> {
    let set = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the structure lives for the call and its size is passed along.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const set,
            size_of_val(&set),
        )
    };
    Errno::result(result).map(drop)
}
