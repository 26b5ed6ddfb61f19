//! What a result has to name to mean anything: the machine and the commit.

use std::{fs, process::Command};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let kernel = nix::sys::utsname::uname().map_or_else(
            |_| String::new(),
            |name| {
                let (system, release) = (name.sysname(), name.release());
                format!("{} {}", system.to_string_lossy(), release.to_string_lossy())
            },
        );
        Self {
            cpu: value_of(&read("/proc/cpuinfo"), "model name"),
            cores: cores(),
            memory_mib: kib(&value_of(&read("/proc/meminfo"), "MemTotal")) >> 10,
            kernel,
        }
    }
}

/// As many as may be used. Peers have as many workers, the gateway half as many.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// The commit of the working directory, and whether it is all there is to it.
pub(crate) fn commit() -> String {
    let git = |args: &[&str]| {
        let done = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        done.status.success().then_some(text)
    };
    let Some(head) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".into() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => head,
        _ => format!("{head}, with changes"),
    }
}

/// Of lines like `name : value`; empty where there is none.
pub(crate) fn value_of(text: &str, name: &str) -> String {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = pairs.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
    values.next().unwrap_or_default().to_owned()
}

/// Of a value like `12 kB`.
pub(crate) fn kib(value: &str) -> u64 {
    value.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_proc_files_are_found_by_their_whole_name() {
        let text = "MemTotalX:  1 kB\nMemTotal:       2048 kB\nMemTotal: 3 kB\n";
        assert_eq!(kib(&value_of(text, "MemTotal")), 2048);
        assert_eq!(kib(&value_of(text, "Mem")), 0);
    }

    #[test]
    fn this_machine_has_a_name_in_every_respect() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty());
    }
}
