//! What the host has left.

use std::{fs, io, path::Path};

use nix::{
    libc::fsblkcnt_t,
    sys::statvfs::{Statvfs, statvfs},
};
use rctl_sys::sysctl;

/// Memory (bytes) that programs could still claim without swapping; `None` where the system has
/// no such figure.
pub fn available_memory() -> Option<u64> {
    match fs::read_to_string("/proc/meminfo") {
        Ok(meminfo) => parse_available(&meminfo),
        Err(_) => of_sysctl(),
    }
}

/// FreeBSD: pages that are free or were not used of late, vm(4), and what ZFS keeps beyond its
/// least and gives back when asked.
fn of_sysctl() -> Option<u64> {
    let value = |name| u64::try_from(sysctl::integer(name).ok()??).ok();
    let pages = value("vm.stats.vm.v_free_count")? + value("vm.stats.vm.v_inactive_count")?;
    let kept = value("kstat.zfs.misc.arcstats.size").unwrap_or(0);
    let least = value("kstat.zfs.misc.arcstats.c_min").unwrap_or(0);
    Some(pages.saturating_mul(value("hw.pagesize")?).saturating_add(kept.saturating_sub(least)))
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Size (bytes) of the file system that holds `path`.
pub fn disk_size(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    Ok(bytes(&stat, stat.blocks()))
}

/// What is free there (bytes), for others than root too.
pub fn disk_free(path: &Path) -> io::Result<u64> {
    let stat = statvfs(path)?;
    // FreeBSD: negative on a UFS whose part for root is being used, lib/libc/gen/statvfs.c.
    let available = stat.blocks_available();
    Ok(bytes(&stat, if available > stat.blocks() { 0 } else { available }))
}

/// Files that can still be made there, and of how many; `None` where the file system has no number
/// that it was made with (btrfs).
pub fn files_free(path: &Path) -> io::Result<Option<(u64, u64)>> {
    let stat = statvfs(path)?;
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    let (free, all) = (stat.files_available() as u64, stat.files() as u64);
    // FreeBSD: negative as above.
    Ok((all > 0).then_some((if free > all { 0 } else { free }, all)))
}

// The fields' widths differ by system.
#[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
fn bytes(stat: &Statvfs, blocks: fsblkcnt_t) -> u64 {
    (blocks as u64).saturating_mul(stat.fragment_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_from_meminfo() {
        let meminfo = "MemTotal:       16384 kB\nMemAvailable:    8192 kB\nBuffers: 1 kB\n";
        assert_eq!(parse_available(meminfo), Some(8 << 20));
        for wrong in ["", "MemAvailable: 5", "MemAvailable: x kB", "MemTotal: 5 kB"] {
            assert_eq!(parse_available(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_size_of_a_file_system_is_found_by_any_path_on_it() {
        assert!(disk_size(&std::env::temp_dir()).unwrap() > 0);
        assert!(disk_size(Path::new("/no/such/place")).is_err());
        assert!(disk_free(Path::new("/")).unwrap() < disk_size(Path::new("/")).unwrap());
    }
}
