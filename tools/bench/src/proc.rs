//! What the kernel says of processes.

use std::fs;

use anyhow::Context;

use crate::{
    machine::{kib, value_of},
    report::Sample,
};

/// Memory, descriptors and threads of a process at this moment.
pub(crate) fn sample(pid: u32) -> anyhow::Result<Sample> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).context(path)
    };
    let memory = read("smaps_rollup")?;
    let descriptors = format!("/proc/{pid}/fd");
    let descriptors = fs::read_dir(&descriptors).context(descriptors)?.count();
    Ok(Sample {
        seconds: 0.0,
        rss_kib: kib(&value_of(&memory, "Rss")) as f64,
        pss_kib: kib(&value_of(&memory, "Pss")) as f64,
        descriptors: descriptors as f64,
        threads: kib(&value_of(&read("status")?, "Threads")) as f64,
    })
}

/// The processes of a sandbox that are Coppice's and not its user's.
pub(crate) fn envds(sandbox: &str) -> anyhow::Result<Vec<u32>> {
    in_cgroup(&format!("coppice-{sandbox}/envd"))
}

/// How many processes a sandbox has.
pub(crate) fn all_of(sandbox: &str) -> anyhow::Result<usize> {
    Ok(envds(sandbox)?.len() + in_cgroup(&format!("coppice-{sandbox}/user"))?.len())
}

fn in_cgroup(cgroup: &str) -> anyhow::Result<Vec<u32>> {
    let all = fs::read_dir("/proc").context("/proc")?;
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    // One that has ended meanwhile is in none.
    Ok(pids.filter(|pid| is_in(*pid, cgroup).unwrap_or(false)).collect())
}

fn is_in(pid: u32, cgroup: &str) -> anyhow::Result<bool> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(groups.lines().any(|line| line.ends_with(cgroup)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_descriptors_and_a_thread() {
        let sample = sample(std::process::id()).unwrap();
        assert!(sample.pss_kib > 0.0 && sample.rss_kib >= sample.pss_kib);
        assert!(sample.descriptors >= 3.0 && sample.threads >= 1.0);
        assert!(envds("no-such-sandbox").unwrap().is_empty());
    }
}
