//! `/proc/meminfo` of a sandbox: its own limit and use instead of the host's.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::OnceLock,
};

use super::Step;
use crate::control::Failure;

struct Meminfo {
    file: File,
    total: u64,
}

static MEMINFO: OnceLock<Meminfo> = OnceLock::new();

/// Makes the file that later lies over `/proc/meminfo`.
pub(super) fn create(path: &Path, total: u64) -> Result<(), Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(path)
        .step("make the file for /proc/meminfo")?;
    let meminfo = MEMINFO.get_or_init(|| Meminfo { file, total });
    meminfo.write(0).step("write /proc/meminfo")
}

/// What it shows cannot be relied on by anyone, so a failure to write it is no failure.
pub(crate) fn refresh(used: impl FnOnce() -> Option<u64>) {
    if let Some((meminfo, used)) = MEMINFO.get().and_then(|meminfo| Some((meminfo, used()?))) {
        let _ = meminfo.write(used);
    }
}

impl Meminfo {
    /// Every text is as long as any other, so that one write replaces all of it.
    fn write(&self, used: u64) -> std::io::Result<()> {
        self.file.write_all_at(text(self.total, used).as_bytes(), 0)
    }
}

fn text(total: u64, used: u64) -> String {
    let free = total.saturating_sub(used);
    let lines = [
        ("MemTotal", total),
        ("MemFree", free),
        ("MemAvailable", free),
        ("Buffers", 0),
        ("Cached", 0),
        ("SwapCached", 0),
        ("Active", used),
        ("Inactive", 0),
        ("SwapTotal", 0),
        ("SwapFree", 0),
        ("Dirty", 0),
        ("Writeback", 0),
        ("AnonPages", used),
        ("Mapped", 0),
        ("Shmem", 0),
        ("Slab", 0),
        ("SReclaimable", 0),
        ("SUnreclaim", 0),
        ("CommitLimit", total),
        ("Committed_AS", used),
    ];
    lines
        .into_iter()
        .map(|(name, bytes)| {
            format!("{:<16}{:>10} kB\n", format!("{name}:"), bytes.min(total) / 1024)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_is_the_limit_and_the_rest_agrees() {
        let shown = text(1 << 30, 256 << 20);
        assert!(
            shown.starts_with("MemTotal:          1048576 kB\nMemFree:            786432 kB\n"),
            "{shown}"
        );
    }

    #[test]
    fn every_text_is_of_one_length() {
        let lengths: Vec<usize> =
            [0, 1 << 20, u64::MAX].map(|used| text(1 << 42, used).len()).into();
        assert!(lengths.iter().all(|length| *length == lengths[0]));
    }
}
