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

/// Ends well where there is a default route: proc_net(5).
pub(crate) const LEADS_OUT: &str =
    "while read -r _ to _; do [ $to = 00000000 ] && exit 0; done </proc/net/route; exit 1";

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
    let leaf = |parent: &PathBuf| parent.join(id.cell_name()).join("envd/cgroup.procs");
    // Not every controller has one of envd's own.
    let procs =
        cgroup_parents(data_dir).iter().map(leaf).find_map(|it| fs::read_to_string(it).ok());
    let procs = procs.expect("a cgroup");
    procs.lines().next().expect("a process").parse().unwrap()
}

/// Roots are of one kind.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn all(base: &Path) -> Vec<Self> {
        vec![Self(base.to_owned())]
    }

    pub(crate) fn name(&self) -> &'static str {
        ""
    }

    /// A data directory.
    pub(crate) fn make(&self, number: usize) -> PathBuf {
        let data_dir = self.0.join(number.to_string());
        fs::create_dir(&data_dir).unwrap();
        data_dir
    }

    /// What a template of it is made of.
    pub(crate) fn root(&self, _data_dir: &Path, root: &Path) -> PathBuf {
        root.to_owned()
    }

    pub(crate) fn remove(&self, data_dir: &Path) -> Result<(), String> {
        fs::remove_dir_all(data_dir).map_err(|error| error.to_string())
    }

    pub(crate) fn end(&self) {}
}

/// Waits until all is as it will be from the second sandbox on.
pub(crate) async fn warm(_world: &World) {}

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
            links: links(),
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

/// Of this network namespace; `/sys` is still the host's.
fn links() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/self/net/dev").unwrap();
    let names = table.lines().skip(2).filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.trim().to_owned()).collect()
}

fn names(path: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(path).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
