//! Linux: cgroups, mounts, links and processes as their files show them.

#[path = "linux_root.rs"]
mod root;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use coppice::sandbox::SandboxId;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sha2::{Digest, Sha256};

use super::{PASSWD, make_directories, say};
use crate::suite::world::World;
pub(crate) use root::make_root;

/// How long the kernel may take to let go of what is no more.
pub(crate) const STRAGGLING: Duration = Duration::from_secs(5);

/// Figures are those of the moment.
pub(crate) const ACCOUNTED_WITHIN: Duration = Duration::ZERO;

/// Leaves the host's network, and its mounts: what is loaded into the packet filter or put under
/// `/run` stays in here. Before any thread is started, so that all have it, and all that are
/// started by this program.
pub(crate) fn ready() -> Result<(), &'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Err("namespaces with uid ranges of their own need root");
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("unshare");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
    say("ip", &["link", "set", "lo", "up"]);
    Ok(())
}

/// Where a file of a sandbox's is once it has been written, by its path inside.
pub(crate) fn host_path(directory: &Path, path: &str) -> PathBuf {
    directory.join("layer/upper").join(path.trim_start_matches('/'))
}

pub(crate) async fn kill_first_process(world: &World, id: SandboxId) {
    kill(Pid::from_raw(first_process(&world.settings.data_dir, id)), Signal::SIGKILL).unwrap();
}

/// By the cgroup that is named after the sandbox.
pub(crate) fn first_process(data_dir: &Path, id: SandboxId) -> i32 {
    let parent = cgroup_parents(data_dir).pop_first().expect("a cgroup");
    let leaf = parent.join(id.cell_name()).join("envd/cgroup.procs");
    let procs = fs::read_to_string(leaf).unwrap();
    procs.lines().next().expect("a process").parse().unwrap()
}

pub(crate) fn mounts_below(directory: &Path) -> Vec<String> {
    let directory = directory.to_str().expect("a path in UTF-8");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| point.starts_with(directory)).map(str::to_owned).collect()
}

/// The directories of a gateway, in all hierarchies; others may run beside the test.
fn cgroup_parents(data_dir: &Path) -> BTreeSet<PathBuf> {
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    let name = format!("coppice-gw-{}", hex::encode(&digest[..4]));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let tops = mounts.lines().filter(|line| line.contains(" - cgroup"));
    tops.map(|line| Path::new(line.split(' ').nth(4).unwrap()).join(&name))
        .filter(|path| path.exists())
        .collect()
}

/// All that the sandboxes of a data directory have in the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    mounts: usize,
    links: BTreeSet<String>,
    slots: BTreeSet<String>,
    cgroups: Vec<PathBuf>,
    /// Zombies included.
    children: usize,
}

impl Picture {
    pub(crate) fn take(data_dir: &Path) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let slots = names("/run/coppice/slots").into_iter();
        Self {
            mounts: mounts.lines().count(),
            links: names("/sys/class/net"),
            // What begins otherwise is a file to be used again.
            slots: slots.filter(|name| name.parse::<u32>().is_ok()).collect(),
            cgroups: cgroup_parents(data_dir).iter().flat_map(|path| directories(path)).collect(),
            children: children().len(),
        }
    }
}

pub(crate) fn assert_retired(data_dir: &Path) {
    assert!(!Path::new("/run/coppice").exists());
    assert_eq!(cgroup_parents(data_dir), BTreeSet::new());
    assert!(!say("nft", &["list", "tables"]).contains("coppice"));
}

/// Of all threads of this process.
pub(crate) fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok())
        .flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn names(path: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(path).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
