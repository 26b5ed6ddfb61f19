//! The cgroups of sandboxes.
//!
//! ```text
//! <hierarchy>/coppice-gw-<data dir>/coppice-<id>/envd   envd alone, with a margin of its own
//!                                               /user   all else, with the sandbox's limits
//! ```
//!
//! The parent names the data directory, so that what a gateway owns is read from the kernel.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use envd::walls::{self, Wall};
use nix::errno::Errno;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::{
    block,
    cgroup_limits::{count_disk, limit, limit_disk},
    cgroup_plan::{Controller, Hierarchy, Plan, Version, v2_mount},
    error::Call,
    freezer::Freezer,
    mountinfo, usage,
};
use crate::{backend::Error, limits::Limits, sandbox::SandboxId};

/// What envd itself may take beside its sandbox: its buffers, its threads, the file cache of what
/// it writes. Bounded, because root in the sandbox may get hold of it.
pub(super) const ENVD_MEMORY: u64 = 512 << 20;
const ENVD_PROCESSES: u64 = 1024;

const LEAVES: [&str; 2] = ["envd", "user"];

pub(super) struct Cgroups {
    plan: Plan,
    parent: String,
    /// That sandboxes write to, by its numbers, where it can be throttled.
    disk: Option<String>,
}

/// The cgroups of a new sandbox, as its making needs them.
pub(super) struct Group {
    /// v2's `envd` directory, for clone3.
    pub(super) envd: Option<OwnedFd>,
    /// `cgroup.procs` of v1's `envd` directories.
    pub(super) envd_v1: Vec<PathBuf>,
    pub(super) user_procs: Vec<OwnedFd>,
    pub(super) memory_usage: OwnedFd,
    pub(super) cpu_usage: OwnedFd,
    pub(super) memory_kills: OwnedFd,
}

impl Cgroups {
    pub(super) fn detect(data_dir: &Path) -> Result<Self, Error> {
        let path = "/proc/self/mountinfo";
        let mounts = mountinfo::parse(&fs::read_to_string(path).call("read", path)?);
        let controllers = v2_mount(&mounts)
            .map(|mount| fs::read_to_string(mount.join("cgroup.controllers")))
            .transpose()
            .call("read", "cgroup.controllers")?
            .unwrap_or_default();
        let plan = Plan::new(&mounts, &controllers).map_err(Error::Unsupported)?;
        let disk = plan.of(Controller::Io).and_then(|_| block::disk_of(data_dir));
        Ok(Self { plan, parent: parent_name(data_dir), disk })
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn prepare(&self) -> Result<(), Error> {
        for hierarchy in &self.plan.hierarchies {
            delegate(hierarchy, &hierarchy.mount)?;
            let parent = hierarchy.mount.join(&self.parent);
            make(&parent, true)?;
            delegate(hierarchy, &parent)?;
            if hierarchy.version == Version::V1
                && hierarchy.controllers.contains(&Controller::Io)
                && let Some(disk) = &self.disk
                && let Err(error) = count_disk(&parent, disk)
            {
                warn!(%error, "what sandboxes read from the disk is not counted");
            }
        }
        Ok(())
    }

    pub(super) fn create(&self, id: SandboxId, limits: Limits) -> Result<Group, Error> {
        let margin = Limits {
            memory_bytes: ENVD_MEMORY,
            processes: ENVD_PROCESSES,
            swap_bytes: None,
            ..limits
        };
        let mut envd = None;
        let mut envd_v1 = Vec::new();
        let mut user_procs = Vec::new();
        let disk = limits.disk_read.or(limits.disk_write).and(self.disk.as_deref());
        for hierarchy in &self.plan.hierarchies {
            let cell = self.cell(hierarchy, id);
            if disk.is_none() && Plan::is_for_disks(hierarchy) {
                // Only counted, so one cgroup does: no command has to be moved there.
                if self.disk.is_some() {
                    make(&cell, false)?;
                    envd_v1.push(cell.join("cgroup.procs"));
                }
                continue;
            }
            make(&cell, false)?;
            delegate(hierarchy, &cell)?;
            for (leaf, limits) in LEAVES.into_iter().zip([margin, limits]) {
                let leaf = cell.join(leaf);
                make(&leaf, false)?;
                if !walls::is_down(Wall::Limits) {
                    limit(hierarchy, &leaf, limits)?;
                }
            }
            if let Some(disk) = disk.filter(|_| !walls::is_down(Wall::Limits)) {
                limit_disk(hierarchy, &cell, &LEAVES, limits, disk)?;
            }
            let procs = cell.join("user/cgroup.procs");
            user_procs.push(open(&procs, true)?);
            match hierarchy.version {
                Version::V1 => envd_v1.push(cell.join("envd/cgroup.procs")),
                Version::V2 => envd = Some(open_directory(&cell.join("envd"))?),
            }
        }
        let memory_usage = open(&self.memory_file(id, "user")?, false)?;
        let cpu_usage = open(&self.cpu_file(id, "user"), false)?;
        let memory_kills = open(&self.kills_file(id, "user")?, false)?;
        Ok(Group { envd, envd_v1, user_procs, memory_usage, cpu_usage, memory_kills })
    }

    /// Whether what is read from the disk can be bounded, and what is written: v1 does not know
    /// whose it is what a cache is written out of.
    pub(super) fn bounds_disk(&self) -> (bool, bool) {
        let version = self.disk.as_ref().and(self.plan.of(Controller::Io)).map(|it| it.version);
        (version.is_some(), version == Some(Version::V2))
    }

    /// What is charged to envd and to all else of a sandbox (bytes).
    pub(super) fn memory_used(&self, id: SandboxId) -> Result<u64, Error> {
        let mut used = 0_u64;
        for path in self.memory_files(id)? {
            let text = fs::read_to_string(&path).call("read", path.display())?;
            used = used.saturating_add(text.trim().parse().unwrap_or_default());
        }
        Ok(used)
    }

    /// v2's of all hierarchies, where it is mounted.
    pub(super) fn freezer(&self, id: SandboxId) -> Result<Freezer, Error> {
        let v2 = self.plan.v2().ok_or_else(|| {
            Error::Unsupported("sandboxes cannot be frozen here: there is no cgroup v2".into())
        })?;
        Ok(Freezer { cgroup: self.cell(v2, id) })
    }

    pub(super) fn usage_paths(&self, id: SandboxId) -> Result<usage::Paths, Error> {
        let pids = self.hierarchy(Controller::Pids)?;
        Ok(usage::Paths {
            cpu: self.cpu_file(id, ""),
            processes: self.cell(pids, id).join("pids.current"),
            memory: self.memory_files(id)?,
            block: self.block_file(id),
            disk: self.disk.clone(),
        })
    }

    /// What a sandbox has had of disks. v1: not there for one that a gateway of before has made.
    fn block_file(&self, id: SandboxId) -> Option<PathBuf> {
        let io = self.plan.of(Controller::Io)?;
        let file = match io.version {
            Version::V1 => "blkio.throttle.io_service_bytes_recursive",
            Version::V2 => "io.stat",
        };
        Some(self.cell(io, id).join(file))
    }

    /// Of a leaf, or of the sandbox as a whole.
    fn cpu_file(&self, id: SandboxId, leaf: &str) -> PathBuf {
        match (&self.plan.cpuacct, self.plan.v2()) {
            (None, Some(v2)) => self.cell(v2, id).join(leaf).join("cpu.stat"),
            (cpuacct, _) => {
                let mount = cpuacct.as_deref().unwrap_or(Path::new("/sys/fs/cgroup/cpuacct"));
                mount.join(&self.parent).join(id.cell_name()).join(leaf).join("cpuacct.usage")
            }
        }
    }

    fn memory_files(&self, id: SandboxId) -> Result<Vec<PathBuf>, Error> {
        LEAVES.into_iter().map(|leaf| self.memory_file(id, leaf)).collect()
    }

    fn memory_file(&self, id: SandboxId, leaf: &str) -> Result<PathBuf, Error> {
        let memory = self.hierarchy(Controller::Memory)?;
        let file = match memory.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        Ok(self.cell(memory, id).join(leaf).join(file))
    }

    /// Of which the line `oom_kill` says how many processes were killed for want of memory.
    pub(super) fn kills_file(&self, id: SandboxId, leaf: &str) -> Result<PathBuf, Error> {
        let memory = self.hierarchy(Controller::Memory)?;
        let file = match memory.version {
            // Linux: since 4.13 either counts processes killed, whose memory ran out aside.
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        Ok(self.cell(memory, id).join(leaf).join(file))
    }

    /// Processes in the leaf of envd: envd, and for an instant each process it starts.
    pub(super) fn envd_processes(&self, id: SandboxId) -> io::Result<Vec<i32>> {
        let Some(hierarchy) = self.plan.hierarchies.first() else { return Ok(Vec::new()) };
        processes(&self.cell(hierarchy, id).join("envd"))
    }

    /// Whether any process is left, in whichever hierarchy.
    pub(super) fn is_populated(&self, id: SandboxId) -> io::Result<bool> {
        for hierarchy in &self.plan.hierarchies {
            for leaf in LEAVES {
                if !processes(&self.cell(hierarchy, id).join(leaf))?.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// SIGKILL to all at once, the frozen included; v2 since Linux 5.14.
    pub(super) fn kill(&self, id: SandboxId) -> io::Result<()> {
        let Some(v2) = self.plan.v2() else { return Ok(()) };
        let cell = self.cell(v2, id);
        for (file, text) in [("cgroup.kill", "1"), ("cgroup.freeze", "0")] {
            match fs::write(cell.join(file), text) {
                Err(error) if !is_gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the cgroups of a sandbox whose processes are dying, in the time left.
    pub(super) fn remove(&self, id: SandboxId, deadline: Instant) -> Result<(), Error> {
        for hierarchy in &self.plan.hierarchies {
            let cell = self.cell(hierarchy, id);
            let mut pause = Duration::from_micros(200);
            while let Err(error) = remove_tree(&cell) {
                // Linux: a cgroup is busy for a moment after its last process has ended.
                if Instant::now() > deadline {
                    return Err(error).call("rmdir", cell.display());
                }
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    pub(super) fn exists(&self, id: SandboxId) -> bool {
        self.plan.hierarchies.iter().any(|hierarchy| self.cell(hierarchy, id).exists())
    }

    /// The sandboxes with a cgroup in any hierarchy.
    pub(super) fn list(&self) -> Vec<SandboxId> {
        self.list_in(&self.plan.hierarchies)
    }

    /// Those that are whole; of another there may be one more or less.
    pub(super) fn list_briefly(&self) -> Vec<SandboxId> {
        self.list_in(&self.plan.hierarchies[..self.plan.hierarchies.len().min(1)])
    }

    fn list_in(&self, hierarchies: &[Hierarchy]) -> Vec<SandboxId> {
        let mut ids: Vec<SandboxId> = hierarchies
            .iter()
            .filter_map(|hierarchy| fs::read_dir(hierarchy.mount.join(&self.parent)).ok())
            .flatten()
            .filter_map(|entry| {
                entry.ok()?.file_name().to_str()?.strip_prefix("coppice-")?.parse().ok()
            })
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Removes the parent directories.
    pub(super) fn retire(&self) -> Result<(), Error> {
        for hierarchy in &self.plan.hierarchies {
            let parent = hierarchy.mount.join(&self.parent);
            match fs::remove_dir(&parent) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).call("rmdir", parent.display());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The name of this gateway's parent directories.
    pub(super) fn parent(&self) -> &str {
        &self.parent
    }

    pub(super) fn hierarchy(&self, controller: Controller) -> Result<&Hierarchy, Error> {
        let missing = || Error::Unsupported(format!("no {} controller", controller.name()));
        self.plan.of(controller).ok_or_else(missing)
    }

    pub(super) fn cell(&self, hierarchy: &Hierarchy, id: SandboxId) -> PathBuf {
        hierarchy.mount.join(&self.parent).join(id.cell_name())
    }

    /// The cgroups of another data directory on this host.
    pub(super) fn of(&self, data_dir: &Path) -> Self {
        Self { plan: self.plan.clone(), parent: parent_name(data_dir), disk: self.disk.clone() }
    }
}

/// Of a cgroup that may be gone, or going.
fn processes(cgroup: &Path) -> io::Result<Vec<i32>> {
    match fs::read_to_string(cgroup.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

fn parent_name(data_dir: &Path) -> String {
    let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
    format!("coppice-gw-{}", hex::encode(&digest[..4]))
}

fn make(path: &Path, may_exist: bool) -> Result<(), Error> {
    match fs::create_dir(path) {
        Err(error) if !(may_exist && error.kind() == io::ErrorKind::AlreadyExists) => {
            Err(error).call("mkdir", path.display())
        }
        _ => Ok(()),
    }
}

/// Lets the children of a v2 cgroup have the controllers we use.
fn delegate(hierarchy: &Hierarchy, cgroup: &Path) -> Result<(), Error> {
    if hierarchy.version == Version::V1 || hierarchy.controllers.is_empty() {
        return Ok(());
    }
    let names: Vec<String> =
        hierarchy.controllers.iter().map(|controller| format!("+{}", controller.name())).collect();
    write(&cgroup.join("cgroup.subtree_control"), &names.join(" "))
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).call("write", format_args!("{text} to {}", path.display()))
}

fn open(path: &Path, write: bool) -> Result<OwnedFd, Error> {
    let file = OpenOptions::new().read(!write).write(write).open(path);
    file.map(OwnedFd::from).call("open", path.display())
}

fn open_directory(path: &Path) -> Result<OwnedFd, Error> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let file: io::Result<File> = OpenOptions::new().read(true).custom_flags(flags).open(path);
    file.map(OwnedFd::from).call("open", path.display())
}

/// Children first, beginning with those that are ours; a tree that is not there is a success.
fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for leaf in LEAVES {
        let _ = fs::remove_dir(cgroup.join(leaf));
    }
    match fs::remove_dir(cgroup) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::EBUSY as i32) => {}
        Err(error) => return Err(error),
    }
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_data_directory_has_a_parent_of_its_own() {
        let one = parent_name(Path::new("/var/a"));
        assert_eq!(one, parent_name(Path::new("/var/a")));
        assert_ne!(one, parent_name(Path::new("/var/b")));
        assert_eq!(one.len(), "coppice-gw-".len() + 8);
    }
}
