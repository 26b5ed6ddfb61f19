//! What the gateway's own process takes.

use std::{fs, time::Duration};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnProcess {
    pub cpu: Duration,
    /// `None` where the system has no such figure for the asking.
    pub resident_bytes: Option<u64>,
    pub descriptors: Option<u64>,
}

/// As of now.
pub fn own_process() -> OwnProcess {
    let cpu = getrusage(UsageWho::RUSAGE_SELF)
        .map_or(Duration::ZERO, |used| duration(used.user_time()) + duration(used.system_time()));
    OwnProcess {
        cpu,
        resident_bytes: fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident),
        // One of them is that of the directory itself.
        descriptors: fs::read_dir("/proc/self/fd")
            .ok()
            .map(|all| (all.count() as u64).saturating_sub(1)),
    }
}

fn duration(time: TimeVal) -> Duration {
    let (seconds, micros) = (time.tv_sec().try_into(), time.tv_usec().try_into());
    Duration::from_secs(seconds.unwrap_or(0)) + Duration::from_micros(micros.unwrap_or(0))
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_rises_with_what_is_done() {
        let before = own_process().cpu;
        while own_process().cpu < before + Duration::from_millis(20) {}
    }

    #[test]
    fn resident_memory_is_read_from_status() {
        assert_eq!(resident("VmHWM:\t  9 kB\nVmRSS:\t    8 kB\n"), Some(8 << 10));
        for wrong in ["", "VmRSS: 8", "VmRSS: x kB", "VmHWM: 8 kB"] {
            assert_eq!(resident(wrong), None, "{wrong}");
        }
    }
}
