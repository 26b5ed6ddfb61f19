//! A file system of a test's own, in a file.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
};

use nix::mount::{MntFlags, umount2};

/// Unmounted when dropped, and its file removed.
pub(super) struct Mounted {
    at: PathBuf,
    _directory: tempfile::TempDir,
}

impl Mounted {
    /// A btrfs of 256 MiB, by mkfs.btrfs(8) of Debian's `btrfs-progs`.
    pub(super) fn btrfs() -> Self {
        let (directory, image, at) = Self::image(256 << 20);
        run(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        // The kernel gives the loop device back with the mount, and clears up once a commit.
        run(Command::new("mount").args(["-o", "loop,commit=1"]).args([&image, &at]));
        Self { at, _directory: directory }
    }

    /// An ext4 of 64 MiB, by mke2fs(8) of Debian's `e2fsprogs`.
    pub(super) fn ext4() -> Self {
        let (directory, image, at) = Self::image(64 << 20);
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &at]));
        Self { at, _directory: directory }
    }

    /// A tmpfs of 64 MiB.
    pub(super) fn tmpfs() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("mounted");
        std::fs::create_dir(&at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(&at));
        Self { at, _directory: directory }
    }

    fn image(bytes: u64) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let (image, at) = (directory.path().join("image"), directory.path().join("mounted"));
        File::create(&image).unwrap().set_len(bytes).unwrap();
        std::fs::create_dir(&at).unwrap();
        (directory, image, at)
    }

    pub(super) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(self.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
