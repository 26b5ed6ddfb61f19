//! What the kernel has counted for each sandbox, read from the files of its cgroups.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    cgroup::{Cgroups, is_gone},
    error::Call,
};
use crate::{
    backend::{Error, Usage},
    sandbox::SandboxId,
};

/// Where one sandbox's figures are.
pub(super) struct Files {
    /// v2's `cpu.stat` or v1's `cpuacct.usage`, of the parent.
    pub(super) cpu: PathBuf,
    /// `pids.current` of the parent.
    pub(super) processes: PathBuf,
    /// Of each leaf.
    pub(super) memory: Vec<PathBuf>,
}

/// Blocks. A sandbox that is half made or half gone is left out.
pub(super) fn sweep(cgroups: &Cgroups) -> Result<BTreeMap<SandboxId, Usage>, Error> {
    let mut all = BTreeMap::new();
    for id in cgroups.list() {
        if let Some(usage) = read(&cgroups.usage_files(id)?)? {
            all.insert(id, usage);
        }
    }
    Ok(all)
}

fn read(files: &Files) -> Result<Option<Usage>, Error> {
    let Some(cpu) = text(&files.cpu)? else { return Ok(None) };
    let Some(processes) = text(&files.processes)? else { return Ok(None) };
    let mut memory_bytes = 0_u64;
    for leaf in &files.memory {
        let Some(bytes) = text(leaf)? else { return Ok(None) };
        memory_bytes = memory_bytes.saturating_add(number(&bytes, leaf)?);
    }
    Ok(Some(Usage {
        cpu: cpu_time(&cpu).ok_or_else(|| strange(&files.cpu, &cpu))?,
        cpu_percent: None,
        memory_bytes,
        processes: number(&processes, &files.processes)?,
    }))
}

fn text(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Err(error) if is_gone(&error) => Ok(None),
        read => read.map(Some).call("read", path.display()),
    }
}

/// The `usage_usec` line of `cpu.stat`, or the nanoseconds that are all of `cpuacct.usage`.
fn cpu_time(text: &str) -> Option<Duration> {
    if let Ok(nanoseconds) = text.trim().parse() {
        return Some(Duration::from_nanos(nanoseconds));
    }
    let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    line.trim().parse().ok().map(Duration::from_micros)
}

fn number(text: &str, path: &Path) -> Result<u64, Error> {
    text.trim().parse().map_err(|_| strange(path, text))
}

fn strange(path: &Path, text: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, format!("not a figure: {text:?}"));
    Error::Call { call: "read", target: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_in_the_units_of_either_version() {
        let stat = "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1500)));
        assert_eq!(cpu_time("1500000000\n"), Some(Duration::from_millis(1500)));
        for wrong in ["", "usage_usec\n", "usage_usec x\n", "user_usec 1\n", "-1\n"] {
            assert_eq!(cpu_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn figures_are_added_up_and_a_sandbox_that_is_half_gone_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name)
        };
        let files = Files {
            cpu: file("cpu.stat", "usage_usec 7\n"),
            processes: file("pids.current", "3\n"),
            memory: vec![file("envd", "1000\n"), file("user", "24\n")],
        };
        let usage = read(&files).unwrap().unwrap();
        assert_eq!((usage.memory_bytes, usage.processes), (1024, 3));
        assert_eq!((usage.cpu, usage.cpu_percent), (Duration::from_micros(7), None));
        fs::write(&files.processes, "max\n").unwrap();
        let error = read(&files).unwrap_err().to_string();
        assert!(error.contains("pids.current: not a figure"), "{error}");
        fs::remove_file(&files.memory[1]).unwrap();
        assert_eq!(read(&files).unwrap(), None);
    }
}
