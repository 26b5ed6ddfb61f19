//! One gateway's data directory with its backend, and a picture of all the kernel holds for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use coppice::{
    backend::{Backend, Cell, CellSpec, Host, Limits, NetworkMode, Settings},
    sandbox::SandboxId,
    template::Template,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use sha2::{Digest, Sha256};

use super::network::Internet;

pub(crate) const LIMITS: Limits = Limits { cpus: 1, memory_bytes: 256 << 20, processes: 64 };

pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) settings: Settings,
    template: Arc<Template>,
    _internet: Internet,
    before: Picture,
    _directory: tempfile::TempDir,
}

pub(crate) fn leave_host() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("unshare");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("tmpfs");
    run("ip", &["link", "set", "lo", "up"]);
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect(program);
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

impl World {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = std::env::var_os("COPPICE_TEST_ROOTFS").map_or_else(
            || {
                let root = directory.path().join("root");
                super::root::make(&root);
                root
            },
            PathBuf::from,
        );
        fs::create_dir(directory.path().join("sandboxes")).unwrap();
        let settings = Settings {
            data_dir: directory.path().canonicalize().unwrap(),
            dns: vec![super::network::RESOLVER.into()],
        };
        let template = Arc::new(Template {
            id: "test".into(),
            layers: vec![root],
            limits: LIMITS,
            env: BTreeMap::new(),
            user: "user".into(),
            workdir: None,
            kernels: false,
        });
        let host = Host::new(settings.clone()).unwrap();
        host.prepare().await.unwrap();
        host.prepare().await.expect("preparing twice");
        let mut world = Self {
            host,
            settings,
            template,
            _internet: Internet::new(),
            before: Picture::default(),
            _directory: directory,
        };
        // The first sandbox opens what lasts: the netlink socket, the runtime's threads.
        let (id, _) = world.create(NetworkMode::Nat).await;
        world.destroy(id).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.before = world.picture();
        world
    }

    pub(crate) fn spec(&self, network: NetworkMode) -> CellSpec {
        let id = SandboxId::random();
        fs::create_dir(self.directory(id)).unwrap();
        let template = Arc::clone(&self.template);
        CellSpec { id, template, limits: LIMITS, network, init: Default::default() }
    }

    pub(crate) async fn create(&self, network: NetworkMode) -> (SandboxId, Cell) {
        let spec = self.spec(network);
        let id = spec.id;
        (id, self.host.create(spec).await.unwrap())
    }

    pub(crate) async fn destroy(&self, id: SandboxId) {
        self.host.destroy(id).await.unwrap();
        fs::remove_dir_all(self.directory(id)).unwrap();
    }

    pub(crate) fn directory(&self, id: SandboxId) -> PathBuf {
        self.settings.data_dir.join("sandboxes").join(id.to_string())
    }

    /// The sandbox's first process, by the cgroup that is named after the sandbox.
    pub(crate) fn pid(&self, id: SandboxId) -> i32 {
        let parent = self.parents().pop_first().expect("a cgroup");
        let leaf = parent.join(id.cell_name()).join("envd/cgroup.procs");
        let procs = fs::read_to_string(leaf).unwrap();
        procs.lines().next().expect("a process").parse().unwrap()
    }

    /// The child of ours that is in no sandbox.
    pub(crate) fn spawner(&self) -> i32 {
        let is_envd = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            line == b"coppice\0envd\0" && !groups.contains("coppice-")
        };
        children().into_iter().find(is_envd).expect("a spawner")
    }

    /// What a shell in all the namespaces of the sandbox says, and under its limits: started as
    /// envd starts its processes, by joining the cgroups of `user`.
    pub(crate) fn inside(&self, id: SandboxId, script: &str) -> String {
        let pid = self.pid(id).to_string();
        let join: String = self
            .parents()
            .iter()
            .map(|parent| parent.join(id.cell_name()).join("user/cgroup.procs"))
            .map(|procs| format!("echo 0 > {};", procs.display()))
            .collect();
        let enter =
            format!("{join} exec nsenter --target {pid} --all --root --wd -- /bin/sh -c \"$0\"");
        let output = Command::new("timeout")
            .args(["-s", "KILL", "20", "/bin/sh", "-c", &enter, script])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits for stragglers the kernel removes in its own time, then insists.
    pub(crate) async fn assert_as_before(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.picture() != self.before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.picture(), self.before);
        assert_eq!(self.host.list().await.unwrap(), []);
    }

    pub(crate) async fn retire(&self) {
        self.host.retire().await.unwrap();
        self.host.retire().await.expect("retiring twice");
        assert!(!PathBuf::from("/run/coppice").exists());
        assert_eq!(self.parents(), BTreeSet::new());
        let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&tables.stdout).contains("coppice"));
    }

    /// The directories of this gateway, in all hierarchies; others may run beside the test.
    fn parents(&self) -> BTreeSet<PathBuf> {
        let digest = Sha256::digest(self.settings.data_dir.as_os_str().as_encoded_bytes());
        let name = format!("coppice-gw-{}", hex::encode(&digest[..4]));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let tops = mounts.lines().filter(|line| line.contains(" - cgroup"));
        tops.map(|line| Path::new(line.split(' ').nth(4).unwrap()).join(&name))
            .filter(|path| path.exists())
            .collect()
    }

    fn picture(&self) -> Picture {
        let names = |path: &str| -> BTreeSet<String> {
            let entries = fs::read_dir(path).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let stat = fs::metadata(&self.settings.data_dir).unwrap();
        Picture {
            descriptors: names("/proc/self/fd").len(),
            mounts: mounts.lines().count(),
            links: names("/sys/class/net").len(),
            slots: names("/run/coppice/slots").into_iter().filter(|name| is_number(name)).collect(),
            sandboxes: stat.nlink(),
            cgroups: self.parents().iter().flat_map(|parent| directories(parent)).collect(),
            children: children().len(),
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Picture {
    descriptors: usize,
    mounts: usize,
    links: usize,
    slots: BTreeSet<String>,
    sandboxes: u64,
    cgroups: Vec<PathBuf>,
    /// Zombies included.
    children: usize,
}

/// What begins otherwise is a file to be used again.
fn is_number(name: &str) -> bool {
    name.parse::<u32>().is_ok()
}

fn children() -> Vec<i32> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok())
        .flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .map(|pid| pid.parse().unwrap())
        .collect()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
