//! `/proc`, `/sys` and `/dev` of a sandbox.
//!
//! The user namespace keeps the host's settings from being written; what is masked here is what
//! would be read. Who may not mount cannot take the masks away.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};

use super::{
    Step, detached, make_directory, meminfo, missing, mount_tmpfs, move_mount, open_tree,
    set_attributes,
};
use crate::{
    control::{Descriptors, Failure},
    walls::{self, Wall},
    wire::{Descriptor, LinuxAttach},
};

/// Shown empty: they tell of the host.
const MASKED_FILES: [&str; 11] = [
    "/proc/cmdline",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/swaps",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
];
const MASKED_DIRECTORIES: [&str; 3] = ["/proc/acpi", "/proc/asound", "/proc/scsi"];
const READ_ONLY: [&str; 4] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"];

/// Mounts taken from staging, and the gateway's, to be placed in the new root.
pub(super) struct Furniture {
    devices: OwnedFd,
    meminfo: OwnedFd,
    sys: OwnedFd,
    /// The host's, where it has no pid namespace of its own: the kernel mounts no other there.
    proc: Option<OwnedFd>,
    /// An empty read-only directory and file, over what is masked.
    empty: PathBuf,
}

impl Furniture {
    pub(super) fn take(
        staging: &Path,
        descriptors: &mut Descriptors,
        spec: &LinuxAttach,
    ) -> Result<Self, Failure> {
        let devices = descriptors.take(Descriptor::Devices).ok_or_else(|| missing("devices"))?;
        let file = staging.join("meminfo");
        meminfo::create(&file, spec.memory_bytes)?;
        let sys = staging.join("sys");
        let cpu = sys.join("devices/system/cpu");
        fs::create_dir_all(&cpu).step("make /sys")?;
        let list = cpu_list(&spec.cpus);
        for name in ["online", "possible", "present"] {
            fs::write(cpu.join(name), &list).step(format!("write {name} in /sys"))?;
        }
        fs::create_dir_all(sys.join("fs/cgroup")).step("make /sys/fs/cgroup")?;
        fs::set_permissions(&sys, std::os::unix::fs::PermissionsExt::from_mode(0o555))
            .step("close /sys")?;
        Ok(Self {
            devices,
            meminfo: read_only(&file)?,
            sys: read_only(&sys)?,
            proc: match walls::is_down(Wall::PidNamespace) {
                // With all that is mounted on it.
                true => {
                    let all = libc::AT_RECURSIVE as libc::c_uint;
                    Some(open_tree(Path::new("/proc"), all).step("take /proc")?)
                }
                false => None,
            },
            empty: PathBuf::from("/sys/fs/cgroup"),
        })
    }

    /// Places everything under `/`, the new root.
    pub(super) fn place(self, spec: &LinuxAttach) -> Result<(), Failure> {
        for path in ["/proc", "/sys", "/dev", "/tmp"] {
            make_directory(Path::new(path))?;
        }
        let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        match self.proc {
            Some(proc) => move_mount(proc, Path::new("/proc"))?,
            None => {
                mount(Some("proc"), "/proc", Some("proc"), inert, None::<&str>)
                    .step("mount proc")?;
            }
        }
        move_mount(self.sys, Path::new("/sys"))?;
        move_mount(self.meminfo, Path::new("/proc/meminfo"))?;
        place_devices(self.devices, spec.shm_bytes)?;
        if walls::is_down(Wall::Masks) { Ok(()) } else { mask(&self.empty) }
    }
}

fn place_devices(devices: OwnedFd, shm: u64) -> Result<(), Failure> {
    move_mount(devices, Path::new("/dev"))?;
    make_directory(Path::new("/dev/pts"))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount(Some("devpts"), "/dev/pts", Some("devpts"), quiet, Some(options)).step("mount devpts")?;
    make_directory(Path::new("/dev/shm"))?;
    let inert = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_tmpfs("/dev/shm", inert, &format!("size={shm},mode=1777"))?;
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, Path::new("/dev").join(name)).step(format!("link /dev/{name}"))?;
    }
    Ok(())
}

/// Not every kernel has all of these.
fn mask(empty: &Path) -> Result<(), Failure> {
    let bind = |from: &Path, at: &str| match mount(
        Some(from),
        at,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    ) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).step(format!("mask {at}")),
    };
    for path in MASKED_FILES {
        bind(Path::new("/dev/null"), path)?;
    }
    for path in MASKED_DIRECTORIES {
        bind(empty, path)?;
    }
    READ_ONLY.into_iter().try_for_each(close)
}

/// Covers a directory with itself, read-only; one that is not there is none to cover.
fn close(path: &str) -> Result<(), Failure> {
    let at = Path::new(path);
    match detached(at) {
        Ok(copy) => {
            set_attributes(&copy, libc::MOUNT_ATTR_RDONLY)
                .step(format!("make {path} read-only"))?;
            move_mount(copy, at)
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno).step(format!("take {path}")),
    }
}

fn read_only(path: &Path) -> Result<OwnedFd, Failure> {
    let mount = detached(path).step(format!("take {}", path.display()))?;
    set_attributes(
        &mount,
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
    )
    .step(format!("make {} read-only", path.display()))?;
    Ok(mount)
}

/// The kernel's list format: `0-1,4`.
fn cpu_list(cpus: &[u16]) -> String {
    let mut sorted = cpus.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for cpu in sorted {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let texts: Vec<String> = ranges
        .into_iter()
        .map(
            |(first, last)| {
                if first == last { first.to_string() } else { format!("{first}-{last}") }
            },
        )
        .collect();
    texts.join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_listed_as_the_kernel_does() {
        assert_eq!(cpu_list(&[0, 1]), "0-1\n");
        assert_eq!(cpu_list(&[7, 3, 4, 5]), "3-5,7\n");
        assert_eq!(cpu_list(&[2]), "2\n");
    }
}
