//! One file of a tree: what is in it, and what is said of it.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::FileExt},
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::{
        stat::{FileStat, Mode, fchmod, futimens},
        statvfs::fstatvfs,
        time::TimeSpec,
    },
    unistd::{Gid, Uid, Whence, fchown, ftruncate, lseek},
};

use crate::backend::{Error, call::Call, host::files};

/// Copied in one call (bytes), between which it may be broken off.
const CHUNK: u64 = 8 << 20;
/// Read and written in one go, where the kernel copies nothing itself.
const BUFFER: usize = 256 << 10;

/// Of the disk that is left to others: so many of its bytes, or this part of it where it is small.
const LEFT: u64 = 1 << 30;
const PART_LEFT: u64 = 20;
/// The space is looked at after so many bytes, or files.
const LOOK_AFTER: u64 = 64 << 20;
const PER_FILE: u64 = 16 << 10;

/// What bounds a copy.
pub(super) struct Pace<'a> {
    is_enough: &'a dyn Fn() -> bool,
    pub(super) until: Option<Instant>,
    /// On the file system that is copied to, where some of it is to be left free.
    disk: Option<File>,
    /// Bytes to copy before the space is looked at again.
    left: u64,
}

impl<'a> Pace<'a> {
    pub(super) fn new(disk: Option<File>, is_enough: &'a dyn Fn() -> bool) -> Self {
        Self { is_enough, until: None, disk, left: 0 }
    }

    /// Before a file, or so many bytes of one.
    pub(super) fn step(&mut self, bytes: u64) -> Result<(), Error> {
        if (self.is_enough)() {
            return Err(Error::BrokenOff("the copy of a layer"));
        }
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::Timeout("the copy of a layer", super::LONGEST_STILL));
        }
        match self.left.checked_sub(bytes.max(PER_FILE)) {
            Some(left) => self.left = left,
            None => {
                self.look()?;
                self.left = LOOK_AFTER;
            }
        }
        Ok(())
    }

    // The fields' widths differ by system.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    fn look(&self) -> Result<(), Error> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let disk = fstatvfs(disk).call("statvfs", "the place of a copy")?;
        let (block, blocks) = (disk.fragment_size() as u64, disk.blocks() as u64);
        let free = free_blocks(disk.blocks_available() as u64, blocks);
        let size = blocks.saturating_mul(block);
        let kept = LEFT.min(size / PART_LEFT).saturating_add(LOOK_AFTER.min(size / PART_LEFT));
        if free.saturating_mul(block) < kept {
            return Err(Errno::ENOSPC).call("keep free", format_args!("{} MiB", kept >> 20));
        }
        Ok(())
    }
}

/// FreeBSD: what is free of a UFS for others than root is negative when root has written to the
/// part that is kept for it, and statvfs(3) passes that on as it is (lib/libc/gen/statvfs.c).
fn free_blocks(available: u64, all: u64) -> u64 {
    if available > all { 0 } else { available }
}

/// Copies what is in a file, holes as holes, up to where it ended when `stat` was taken.
pub(super) struct Contents {
    /// Whether the file system shares blocks between files: ioctl_ficlone(2).
    pub(super) by_reference: bool,
    by_kernel: bool,
}

impl Contents {
    pub(super) fn new() -> Self {
        Self { by_reference: files::SHARES_BLOCKS, by_kernel: true }
    }

    pub(super) fn copy(
        &mut self,
        from: &File,
        to: &File,
        size: u64,
        pace: &mut Pace,
    ) -> Result<(), Error> {
        pace.step(0)?;
        if size == 0 {
            return Ok(());
        }
        if self.by_reference && self.share(from, to)? {
            return Ok(());
        }
        let end = i64::try_from(size).unwrap_or(i64::MAX);
        let mut at = 0;
        while at < end {
            // Linux: this waits for a write(2) to it that had begun, and has changed its times then
            // already (`ext4_llseek`, `btrfs_file_llseek`).
            let (data, hole) = match lseek(from, at, Whence::SeekData) {
                Ok(data) => (data, lseek(from, data, Whence::SeekHole).unwrap_or(end)),
                // Nothing but a hole is left.
                Err(Errno::ENXIO) => break,
                // A file system that does not tell has data everywhere.
                Err(Errno::EINVAL | Errno::ENOTTY) => (at, end),
                Err(errno) => return Err(errno).call("seek data in", "a file of the layer"),
            };
            // It may become shorter.
            let (data, hole) = (data.min(end), hole.clamp(at + 1, end));
            self.range(from, to, data as u64, hole as u64, pace)?;
            at = hole;
        }
        ftruncate(to, end).call("truncate", "a copied file")
    }

    fn share(&mut self, from: &File, to: &File) -> Result<bool, Error> {
        self.by_reference = files::share(from, to).call("share", "the blocks of a file")?;
        Ok(self.by_reference)
    }

    fn range(
        &mut self,
        from: &File,
        to: &File,
        mut at: u64,
        end: u64,
        pace: &mut Pace,
    ) -> Result<(), Error> {
        while at < end {
            let length = (end - at).min(CHUNK);
            pace.step(length)?;
            let copied = if self.by_kernel {
                let copied = files::copy_range(from, to, at, length);
                copied.call("copy_file_range", "a file of the layer")?
            } else {
                None
            };
            self.by_kernel = copied.is_some();
            let copied = match copied {
                Some(copied) => copied,
                None => through_us(from, to, at, length).call("copy", "a file of the layer")?,
            };
            if copied == 0 {
                // It has become shorter.
                break;
            }
            at += copied;
        }
        Ok(())
    }
}

fn through_us(from: &File, to: &File, at: u64, length: u64) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER.min(length as usize)];
    let read = from.read_at(&mut buffer, at)?;
    to.write_all_at(&buffer[..read], at)?;
    Ok(read as u64)
}

/// Owner, mode and extended attributes, of a file that is open or a directory.
pub(super) fn describe(from: impl AsFd, to: impl AsFd, stat: &FileStat) -> Result<(), Error> {
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fchown(to.as_fd(), Some(owner), Some(group)).call("chown", "a copied file")?;
    // After the owner, whose change takes setuid away, and capabilities too.
    let mode = Mode::from_bits_truncate(stat.st_mode);
    fchmod(to.as_fd(), mode).call("chmod", "a copied file")?;
    files::attributes(from.as_fd(), to.as_fd())
}

pub(super) fn set_times(to: impl AsFd, accessed: TimeSpec, stat: &FileStat) -> Result<(), Error> {
    futimens(to, &accessed, &modified(stat)).call("utimens", "a copied file")
}

pub(super) fn accessed(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_atime, stat.st_atime_nsec)
}

pub(super) fn modified(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec)
}

pub(super) fn changed(stat: &FileStat) -> TimeSpec {
    TimeSpec::new(stat.st_ctime, stat.st_ctime_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_nothing_is_nothing() {
        assert_eq!(free_blocks(7, 10), 7);
        assert_eq!(free_blocks(-7_i64 as u64, 10), 0);
    }
}
