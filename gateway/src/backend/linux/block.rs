//! The disk that a directory lies on, as the kernel throttles it: by the numbers of a whole disk.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::sys::stat::{major, minor};

use super::mountinfo::{self, Mount};

/// `8:0`; `None` where it is no disk, or nobody can say which.
pub(super) fn disk_of(directory: &Path) -> Option<String> {
    let device = fs::metadata(directory).ok()?.dev();
    let numbers = match major(device) {
        // Of the file system's own making, as btrfs and ZFS have it.
        0 => {
            let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
            let mounts = mountinfo::parse(&mounts);
            let source = fs::metadata(&source(&mounts, directory)?.source).ok()?.rdev();
            (major(source), minor(source))
        }
        number => (number, minor(device)),
    };
    whole(Path::new("/sys/dev/block"), &format!("{}:{}", numbers.0, numbers.1)).ok()
}

/// Where a directory is mounted from.
fn source<'a>(mounts: &'a [Mount], directory: &Path) -> Option<&'a Mount> {
    let over = mounts.iter().filter(|mount| directory.starts_with(&mount.point));
    // Of several at one place the last is seen.
    over.max_by_key(|mount| mount.point.components().count())
}

/// The disk that a partition is of, or the disk itself.
fn whole(devices: &Path, numbers: &str) -> io::Result<String> {
    let mut device: PathBuf = fs::canonicalize(devices.join(numbers))?;
    if device.join("partition").exists() {
        device.pop();
    }
    Ok(fs::read_to_string(device.join("dev"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partition_is_of_its_disk() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("devices/sda");
        fs::create_dir_all(disk.join("sda1")).unwrap();
        for (file, text) in [("dev", "8:0\n"), ("sda1/dev", "8:1\n"), ("sda1/partition", "1\n")] {
            fs::write(disk.join(file), text).unwrap();
        }
        symlink(&disk, dir.path().join("8:0")).unwrap();
        symlink(disk.join("sda1"), dir.path().join("8:1")).unwrap();
        for numbers in ["8:0", "8:1"] {
            assert_eq!(whole(dir.path(), numbers).unwrap(), "8:0");
        }
        assert!(whole(dir.path(), "0:31").is_err());
    }

    #[test]
    fn the_innermost_mount_that_came_last_is_the_one() {
        let mounts = mountinfo::parse(
            "1 0 8:0 / / rw - ext4 /dev/sda rw\n2 1 0:5 / /a rw - btrfs /dev/sdb rw\n\
             3 1 0:6 / /a rw - btrfs /dev/sdc rw\n4 1 0:7 / /ab rw - tmpfs tmpfs rw\n",
        );
        let from = |path: &str| source(&mounts, Path::new(path)).unwrap().source.clone();
        assert_eq!(from("/a/b"), Path::new("/dev/sdc"));
        assert_eq!(from("/b"), Path::new("/dev/sda"));
        assert_eq!(from("/ab"), Path::new("tmpfs"));
    }
}
