//! What the kernel is told of one cgroup's limits, by the files of either version.

use std::{io, path::Path};

use super::{
    cgroup::write,
    cgroup_plan::{Controller, Hierarchy, Version},
};
use crate::{backend::Error, limits::Limits};

const CPU_PERIOD_US: u64 = 100_000;

/// All but its rates of disks.
pub(super) fn limit(hierarchy: &Hierarchy, leaf: &Path, limits: Limits) -> Result<(), Error> {
    let memory = limits.memory_bytes.to_string();
    let swap = limits.swap_bytes.unwrap_or_default();
    let quota = u64::from(limits.cpus.max(1)) * CPU_PERIOD_US;
    for controller in &hierarchy.controllers {
        match (controller, hierarchy.version) {
            (Controller::Memory, Version::V1) => {
                write(&leaf.join("memory.limit_in_bytes"), &memory)?;
                let both = limits.memory_bytes.saturating_add(swap).to_string();
                optional(&leaf.join("memory.memsw.limit_in_bytes"), &both)?;
            }
            (Controller::Memory, Version::V2) => {
                write(&leaf.join("memory.max"), &memory)?;
                optional(&leaf.join("memory.swap.max"), &swap.to_string())?;
            }
            (Controller::Pids, _) => {
                write(&leaf.join("pids.max"), &limits.processes.to_string())?;
            }
            (Controller::Cpu, Version::V1) => {
                write(&leaf.join("cpu.cfs_period_us"), &CPU_PERIOD_US.to_string())?;
                write(&leaf.join("cpu.cfs_quota_us"), &quota.to_string())?;
            }
            (Controller::Cpu, Version::V2) => {
                write(&leaf.join("cpu.max"), &format!("{quota} {CPU_PERIOD_US}"))?;
            }
            (Controller::Io, _) => {}
        }
    }
    Ok(())
}

/// Of that disk, for what is in the cgroup `cell` and its leaves: of all together with v2. v1 knows
/// them one by one (Documentation/admin-guide/cgroup-v1/blkio-controller.rst, "Hierarchical
/// Cgroups"), so that each has as much.
pub(super) fn limit_disk(
    hierarchy: &Hierarchy,
    cell: &Path,
    leaves: &[&str],
    limits: Limits,
    disk: &str,
) -> Result<(), Error> {
    if !hierarchy.controllers.contains(&Controller::Io) {
        return Ok(());
    }
    for (old, new, rate) in
        [("read", "rbps", limits.disk_read), ("write", "wbps", limits.disk_write)]
    {
        let Some(rate) = rate else { continue };
        match hierarchy.version {
            Version::V1 => {
                let file = format!("blkio.throttle.{old}_bps_device");
                for leaf in leaves {
                    write(&cell.join(leaf).join(&file), &format!("{disk} {rate}"))?;
                }
            }
            Version::V2 => write(&cell.join("io.max"), &format!("{disk} {new}={rate}"))?,
        }
    }
    Ok(())
}

/// Has what is read from a disk, and written to it, counted for v1's cgroups. Linux: since 6.10 that
/// begins when the first limit for the disk is set; this one is none.
pub(super) fn count_disk(parent: &Path, disk: &str) -> Result<(), Error> {
    write(&parent.join("blkio.throttle.read_bps_device"), &format!("{disk} {}", u64::MAX))
}

/// Kernels without swap accounting have no such file.
fn optional(path: &Path, text: &str) -> Result<(), Error> {
    match write(path, text) {
        Err(Error::Call { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn limits_are_written_as_each_version_has_them() {
        let limits = Limits {
            cpus: 2,
            memory_bytes: 1 << 30,
            processes: 100,
            swap_bytes: Some(1 << 20),
            disk_read: Some(5 << 20),
            ..Limits::default()
        };
        let controllers = Controller::NEEDED.into_iter().chain([Controller::Io]).collect();
        let mut hierarchy = Hierarchy { mount: "/".into(), version: Version::V2, controllers };
        let written = |hierarchy: &Hierarchy, file: &str| {
            let leaf = tempfile::tempdir().unwrap();
            limit(hierarchy, leaf.path(), limits).unwrap();
            limit_disk(hierarchy, leaf.path(), &["", "."], limits, "8:0").unwrap();
            fs::read_to_string(leaf.path().join(file)).unwrap()
        };
        for (file, text) in [
            ("memory.max", "1073741824"),
            ("memory.swap.max", "1048576"),
            ("pids.max", "100"),
            ("cpu.max", "200000 100000"),
            ("io.max", "8:0 rbps=5242880"),
        ] {
            assert_eq!(written(&hierarchy, file), text, "{file}");
        }
        hierarchy.version = Version::V1;
        for (file, text) in [
            ("memory.limit_in_bytes", "1073741824"),
            ("memory.memsw.limit_in_bytes", "1074790400"),
            ("cpu.cfs_quota_us", "200000"),
            ("blkio.throttle.read_bps_device", "8:0 5242880"),
        ] {
            assert_eq!(written(&hierarchy, file), text, "{file}");
        }
    }
}
