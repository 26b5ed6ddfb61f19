//! What the gateway's own process takes.

use std::{
    fs::{self, File},
    io::Read,
    time::Duration,
};

use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeVal,
    },
    unistd::{SysconfVar, sysconf},
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
        resident_bytes: resident_pages().and_then(|pages| {
            let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
            pages.checked_mul(u64::try_from(page).ok()?)
        }),
        descriptors: descriptors(),
    }
}

fn resident_pages() -> Option<u64> {
    let mut buffer = [0; 128];
    let length = File::open("/proc/self/statm").ok()?.read(&mut buffer).ok()?;
    resident(std::str::from_utf8(&buffer[..length]).ok()?)
}

/// Linux: the directory's size since 6.2 (`proc_fd_getattr`, fs/proc/fd.c); 0 before.
fn descriptors() -> Option<u64> {
    match fs::metadata("/proc/self/fd").ok()?.len() {
        // One of them is that of the directory itself.
        0 => Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1)),
        count => Some(count),
    }
}

fn duration(time: TimeVal) -> Duration {
    let (seconds, micros) = (time.tv_sec().try_into(), time.tv_usec().try_into());
    Duration::from_secs(seconds.unwrap_or(0)) + Duration::from_micros(micros.unwrap_or(0))
}

/// The second field of `statm`.
fn resident(statm: &str) -> Option<u64> {
    statm.split(' ').nth(1)?.parse().ok()
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
    fn resident_memory_is_the_second_figure() {
        assert_eq!(resident("900 8 5 1 0 3 0\n"), Some(8));
        for wrong in ["", "900", "900 x 5"] {
            assert_eq!(resident(wrong), None, "{wrong}");
        }
    }
}
