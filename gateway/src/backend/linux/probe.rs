//! Looking the host over for `coppice doctor`: what is there, what is missing, what mends it.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::geteuid,
};

use super::{
    cgroup_plan::Plan,
    forwarding,
    idmap::{self, Access},
    joining, spawner,
};
use crate::backend::{Check, Settings, Verdict};

/// Processes and threads a busy sandbox is expected to have, for the host-wide ceilings.
const TASKS_EACH: u64 = 64;
const FILES_EACH: u64 = 512;
/// Each sandbox has the kernel's per-user ceilings for itself. envd alone may watch with 64
/// instances, which leaves as many to what runs inside.
const INOTIFY_INSTANCES: u64 = 128;
const INOTIFY_WATCHES: u64 = 8192;
const CONNECTIONS_EACH: u64 = 128;

pub(super) fn all(settings: &Settings, plan: &Plan, planned: usize) -> Vec<Check> {
    let planned = planned as u64;
    let mut checks = vec![root(), namespaces(), filters(), cgroups(plan), cgroup_kill(plan)];
    checks.push(joining_check());
    checks.extend([overlayfs(), idmapped_mounts(&settings.data_dir)]);
    checks.push(program("mmdebstrap", "builds the base template", Verdict::Warn));
    checks.push(program("nft", "lets sandboxes reach the network", Verdict::Bad));
    checks.push(forwarding_check());
    checks.push(foreign_filter());
    checks.extend(ceilings(planned));
    checks.push(open_files(planned));
    checks
}

fn check(what: &'static str, verdict: Verdict, found: impl Into<String>) -> Check {
    Check { what, verdict, found: found.into(), mend: None }
}

impl Check {
    fn mend(mut self, how: impl Into<String>) -> Self {
        if self.verdict != Verdict::Good {
            self.mend = Some(how.into());
        }
        self
    }
}

fn good_if(good: bool, otherwise: Verdict) -> Verdict {
    if good { Verdict::Good } else { otherwise }
}

fn root() -> Check {
    let uid = geteuid();
    check("root", good_if(uid.is_root(), Verdict::Bad), format!("uid {uid}"))
        .mend("run coppice as root: sudo coppice serve")
}

fn namespaces() -> Check {
    let kinds = ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"];
    let missing: Vec<&str> =
        kinds.into_iter().filter(|kind| !Path::new("/proc/self/ns").join(kind).exists()).collect();
    if !missing.is_empty() {
        return check("namespaces", Verdict::Bad, format!("no {}", missing.join(", ")))
            .mend("boot a kernel built with CONFIG_USER_NS and the other namespaces");
    }
    let (kind, ceiling) = kinds
        .into_iter()
        .filter_map(|kind| Some((kind, number(&format!("/proc/sys/user/max_{kind}_namespaces"))?)))
        .min_by_key(|(_, ceiling)| *ceiling)
        .unwrap_or(("user", u64::MAX));
    let verdict = good_if(ceiling > 0, Verdict::Bad);
    check("namespaces", verdict, format!("at most {ceiling} {kind} namespaces to a sandbox"))
        .mend(format!("sysctl -w user.max_{kind}_namespaces=1024"))
}

fn filters() -> Check {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let there = actions.split_whitespace().any(|action| action == "errno");
    let found = if there { "can be kept from a sandbox" } else { "cannot be filtered" };
    check("system calls", good_if(there, Verdict::Bad), found)
        .mend("boot a kernel built with CONFIG_SECCOMP_FILTER")
}

fn cgroups(plan: &Plan) -> Check {
    check("cgroup controllers", Verdict::Good, plan.describe())
}

fn cgroup_kill(plan: &Plan) -> Check {
    let Some(v2) = plan.v2() else {
        return check("cgroup.kill", Verdict::Warn, "no cgroup v2: sandboxes cannot be paused")
            .mend("mount -t cgroup2 none /sys/fs/cgroup/unified");
    };
    // The root cgroup has no such file; every other has it, or none.
    let found = fs::read_dir(&v2.mount)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.join("cgroup.events").exists());
    match found {
        Some(group) if !group.join("cgroup.kill").exists() => {
            check("cgroup.kill", Verdict::Warn, "not known to this kernel; pid namespaces do it")
                .mend("boot Linux 5.14 or later")
        }
        _ => check("cgroup.kill", Verdict::Good, v2.mount.display().to_string()),
    }
}

/// Turned on by `serve` itself.
fn joining_check() -> Check {
    let found = match joining::is_cheap() {
        Some(true) => "favordynmods is on",
        Some(false) => "favordynmods is off; serve turns it on from Linux 6.0",
        None => "without cgroup v2 every command starts some milliseconds later",
    };
    check("cgroup moves", Verdict::Good, found)
}

fn overlayfs() -> Check {
    let known = fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|line| line.trim_end().ends_with("overlay")));
    let found = if known { "known to the kernel" } else { "not loaded" };
    check("overlayfs", good_if(known, Verdict::Bad), found).mend("modprobe overlay")
}

/// Tried for real: it depends on the kernel and on the file system of the data directory.
fn idmapped_mounts(data_dir: &Path) -> Check {
    let what = "idmapped mounts";
    let namespace = match spawner::user_namespace() {
        Ok(namespace) => namespace,
        Err(error) => {
            return check(what, Verdict::Bad, error.to_string()).mend(
                "run it where a process may have namespaces of its own: not under chroot(8)",
            );
        }
    };
    match idmap::mount(data_dir, namespace.as_fd(), Access::ReadOnly) {
        Ok(_) => check(what, Verdict::Good, format!("work on {}", data_dir.display())),
        Err(error) => check(what, Verdict::Bad, error.to_string())
            .mend("Linux 5.19 or later, and a data directory on ext4, xfs or btrfs"),
    }
}

fn program(name: &'static str, purpose: &str, otherwise: Verdict) -> Check {
    let package = if name == "nft" { "nftables" } else { name };
    match in_path(name) {
        Some(path) => check(name, Verdict::Good, path.display().to_string()),
        None => check(name, otherwise, format!("not found; it {purpose}"))
            .mend(format!("apt-get install -y {package}")),
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// Turned on by `serve` itself.
fn forwarding_check() -> Check {
    let on = number(forwarding::SETTING) == Some(1);
    let found = if on { "on" } else { "off; serve turns it on" };
    let can = on || File::options().write(true).open(forwarding::SETTING).is_ok();
    check("ip_forward", good_if(can, Verdict::Bad), found).mend("sysctl -w net.ipv4.ip_forward=1")
}

/// Another program's rules can drop what ours let through.
fn foreign_filter() -> Check {
    let what = "forwarding policy";
    let listed = std::process::Command::new("nft").args(["list", "chains"]).output();
    let Ok(listed) = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    else {
        return check(what, Verdict::Warn, "unknown without nft")
            .mend("apt-get install -y nftables");
    };
    let drops = forward_policy_drops(&listed);
    let found = if drops { "the host's own rules drop what is forwarded" } else { "accept" };
    check(what, good_if(!drops, Verdict::Warn), found).mend(
        "iptables -I FORWARD -i coppice+ -j ACCEPT; iptables -I FORWARD -o coppice+ -j ACCEPT",
    )
}

fn forward_policy_drops(chains: &str) -> bool {
    chains.lines().any(|line| line.contains("hook forward") && line.contains("policy drop"))
}

fn ceilings(planned: u64) -> Vec<Check> {
    let least = |what, path: &str, key: &str, needed: u64, whom: &str| {
        let Some(ceiling) = number(path) else {
            return check(what, Verdict::Good, "no ceiling known");
        };
        let verdict = good_if(ceiling >= needed, Verdict::Warn);
        check(what, verdict, format!("{ceiling}, {needed} wanted for {whom}"))
            .mend(format!("sysctl -w {key}={needed}"))
    };
    let (inotify, tasks) = ("/proc/sys/fs/inotify", planned * TASKS_EACH);
    let (each, all) = ("each sandbox", format!("{planned} sandboxes"));
    vec![
        least(
            "inotify instances",
            &format!("{inotify}/max_user_instances"),
            "fs.inotify.max_user_instances",
            INOTIFY_INSTANCES,
            each,
        ),
        least(
            "inotify watches",
            &format!("{inotify}/max_user_watches"),
            "fs.inotify.max_user_watches",
            INOTIFY_WATCHES,
            each,
        ),
        least("pid_max", "/proc/sys/kernel/pid_max", "kernel.pid_max", tasks + 4096, &all),
        least(
            "threads-max",
            "/proc/sys/kernel/threads-max",
            "kernel.threads-max",
            tasks + 4096,
            &all,
        ),
        least(
            "file-max",
            "/proc/sys/fs/file-max",
            "fs.file-max",
            planned * FILES_EACH + 8192,
            &all,
        ),
        least(
            "conntrack entries",
            "/proc/sys/net/netfilter/nf_conntrack_max",
            "net.netfilter.nf_conntrack_max",
            planned * CONNECTIONS_EACH,
            &all,
        ),
    ]
}

/// The gateway's own: a listener, a watch and a few streams for each sandbox.
fn open_files(planned: u64) -> Check {
    let what = "nofile";
    let needed = planned * 16 + 1024;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => check(
            what,
            good_if(hard >= needed, Verdict::Warn),
            format!("{hard}, {needed} wanted for {planned} sandboxes"),
        )
        .mend(format!("ulimit -n {needed} before coppice serve, or LimitNOFILE={needed}")),
        Err(error) => check(what, Verdict::Warn, error.to_string()),
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_forward_hook_that_drops_is_in_the_way() {
        let other = "chain INPUT {\n type filter hook input priority filter; policy drop;\n}";
        assert!(!forward_policy_drops(other));
        let docker = "chain FORWARD {\n type filter hook forward priority filter; policy drop;\n}";
        assert!(forward_policy_drops(docker));
    }

    #[test]
    fn what_is_good_needs_no_mending() {
        assert_eq!(check("x", Verdict::Good, "y").mend("z").mend, None);
        assert_eq!(check("x", Verdict::Bad, "y").mend("z").mend.as_deref(), Some("z"));
    }
}
