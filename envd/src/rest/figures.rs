//! What `GET /metrics` shows: the limits the sandbox was given, and use as the kernel counts it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::{
    control::Descriptors,
    os,
    wire::{Attach, Descriptor, Spec},
};

#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    ts: u64,
    cpu_count: usize,
    /// 100 is one CPU busy since the last look.
    cpu_used_pct: f64,
    mem_total: u64,
    mem_used: u64,
    mem_cache: u64,
    mem_total_mib: u64,
    mem_used_mib: u64,
    disk_used: u64,
    disk_total: u64,
}

/// Where the figures come from.
pub(crate) struct Gauges {
    cpus: usize,
    total: u64,
    source: Source,
    /// The kernel's count of processes killed for want of memory, where it has one.
    kills: Option<File>,
    /// When CPU time was last read, and what it was (nanoseconds).
    last: Mutex<(Instant, u64)>,
}

enum Source {
    /// The kernel's counts, in files that the gateway has sent.
    Files { memory: File, cpu: Option<File> },
    /// A jail's processes, which are asked one by one.
    Processes,
    /// Outside a sandbox: what the system says.
    System,
}

impl Source {
    /// Bytes in use by user processes, where that is known.
    fn memory_used(&self) -> Option<u64> {
        match self {
            Self::Files { memory, .. } => number(&read_anew(memory).ok()?),
            Self::Processes => os::used().ok()?.map(|(bytes, _)| bytes),
            Self::System => None,
        }
    }

    /// CPU time of user processes (nanoseconds).
    fn cpu_used(&self) -> io::Result<Option<u64>> {
        match self {
            Self::Files { cpu, .. } => cpu.as_ref().map(cpu_nanoseconds).transpose(),
            Self::Processes => Ok(os::used()?.map(|(_, nanoseconds)| nanoseconds)),
            Self::System => Ok(None),
        }
    }
}

impl Gauges {
    pub(crate) fn new(spec: &Spec, descriptors: &mut Descriptors) -> Self {
        let memory = descriptors.take(Descriptor::MemoryUsage).map(File::from);
        let cpu = descriptors.take(Descriptor::CpuUsage).map(File::from);
        let source = match (&spec.attach, memory) {
            (Attach::Jail(_), _) => Source::Processes,
            (Attach::Linux(_), Some(memory)) => Source::Files { memory, cpu },
            (Attach::Linux(_), None) => Source::System,
        };
        let kills = descriptors.take(Descriptor::MemoryKills).map(File::from);
        let start = source.cpu_used().ok().flatten().unwrap_or_default();
        Self {
            cpus: spec.attach.cpus().len(),
            total: spec.attach.memory_bytes(),
            source,
            kills,
            last: Mutex::new((Instant::now(), start)),
        }
    }

    /// CPU time is counted from now on.
    pub(crate) fn begin(&self) {
        if let Ok(Some(used)) = self.source.cpu_used() {
            *self.last.lock() = (Instant::now(), used);
        }
    }

    pub(crate) fn read(&self) -> io::Result<Figures> {
        let disk = nix::sys::statvfs::statvfs("/")?;
        let (mem_total, mem_used, mem_cache) = match self.source {
            Source::System => {
                system_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
            }
            // The kernel's count may include the cache; how much that is, it does not tell us.
            _ => (self.total, self.source.memory_used().unwrap_or_default(), 0),
        };
        let block = disk.fragment_size() as u64;
        let ts = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Ok(Figures {
            ts,
            cpu_count: self.cpus.max(1),
            cpu_used_pct: self.cpu_used_pct()?,
            mem_total,
            mem_used,
            mem_cache,
            mem_total_mib: mem_total >> 20,
            mem_used_mib: mem_used >> 20,
            disk_used: (disk.blocks() as u64).saturating_sub(disk.blocks_free() as u64) * block,
            disk_total: disk.blocks() as u64 * block,
        })
    }

    /// How many processes were killed for want of memory, as far as that is known.
    pub(crate) fn killed_for_memory(&self) -> u64 {
        let text = self.kills.as_ref().and_then(|file| read_anew(file).ok()).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(number).unwrap_or_default()
    }

    /// Bytes in use by user processes, where that is known.
    pub(crate) fn memory_used(&self) -> Option<u64> {
        self.source.memory_used()
    }

    fn cpu_used_pct(&self) -> io::Result<f64> {
        let Some(used) = self.source.cpu_used()? else { return Ok(0.0) };
        let now = (Instant::now(), used);
        let (before, used) = std::mem::replace(&mut *self.last.lock(), now);
        let elapsed = now.0.duration_since(before).as_secs_f64() * 1e9;
        let percent = 100.0 * now.1.saturating_sub(used) as f64 / elapsed.max(1.0);
        Ok((percent * 100.0).round() / 100.0)
    }
}

/// v1's `cpuacct.usage` or v2's `cpu.stat`.
fn cpu_nanoseconds(file: &File) -> io::Result<u64> {
    let text = read_anew(file)?;
    let microseconds = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    Ok(match microseconds {
        Some(microseconds) => number(microseconds).unwrap_or_default().saturating_mul(1000),
        None => number(&text).unwrap_or_default(),
    })
}

fn read_anew(file: &File) -> io::Result<String> {
    let mut buffer = [0; 4096];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Total, used and cache, from meminfo's text.
fn system_memory(meminfo: &str) -> (u64, u64, u64) {
    let field = |name: &str| {
        meminfo
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
            .map_or(0, |kib: u64| kib << 10)
    };
    let total = field("MemTotal:");
    (total, total.saturating_sub(field("MemAvailable:")), field("Cached:"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        let text = "MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\nCached: 512 kB\n";
        assert_eq!(system_memory(text), (2 << 20, 1 << 20, 512 << 10));
    }

    #[test]
    fn cpu_time_of_before_the_beginning_does_not_count() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0\n").unwrap();
        let gauges = Gauges {
            cpus: 1,
            total: 0,
            source: Source::Files {
                memory: tempfile::tempfile().unwrap(),
                cpu: Some(file.reopen().unwrap()),
            },
            kills: None,
            last: Mutex::new((Instant::now(), 0)),
        };
        fs::write(file.path(), "9000000000\n").unwrap();
        gauges.begin();
        assert_eq!(gauges.read().unwrap().cpu_used_pct, 0.0);
    }

    #[test]
    fn both_kinds_of_cpu_time_are_understood() {
        for (text, expect) in [("12345\n", 12_345), ("usage_usec 7\nuser_usec 3\n", 7000)] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            assert_eq!(cpu_nanoseconds(&file).unwrap(), expect);
        }
    }
}
