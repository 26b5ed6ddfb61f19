//! What can be stopped where it stands and let go on: a bare cgroup, by the kernel's own files, and
//! a container of runc's. Each has as many processes asleep as it is told.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::{find, run};
use crate::scratch::Scratch;

/// For processes to stand still, or to be there.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) trait Standing: Send + Sync + 'static {
    /// Returns when nothing of it runs.
    fn pause(&self) -> anyhow::Result<()>;
    fn resume(&self) -> anyhow::Result<()>;
}

/// A cgroup of version 2 below the root.
pub(crate) struct Bare {
    path: PathBuf,
    sleepers: Vec<Child>,
}

impl Bare {
    pub(crate) fn start(processes: usize) -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.find(|mount| mount.get(2) == Some(&"cgroup2"));
        let mount = mount.context("no cgroup2 is mounted")?[1].to_owned();
        let path = Path::new(&mount).join(format!("bench-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let mut bare = Self { path, sleepers: Vec::new() };
        for _ in 0..processes {
            let mut sleep = Command::new("/bin/sleep");
            let sleeper = sleep.arg("infinity").stdin(Stdio::null()).spawn().context("sleep")?;
            let pid = sleeper.id();
            bare.sleepers.push(sleeper);
            bare.write("cgroup.procs", &pid.to_string())?;
        }
        Ok(bare)
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        fs::write(&path, text).with_context(|| format!("write {text} to {}", path.display()))
    }
}

impl Standing for Bare {
    fn pause(&self) -> anyhow::Result<()> {
        self.write("cgroup.freeze", "1")?;
        let (events, began) = (self.path.join("cgroup.events"), Instant::now());
        while !fs::read_to_string(&events).context("cgroup.events")?.contains("frozen 1") {
            ensure!(began.elapsed() < PATIENCE, "{} is not frozen", self.path.display());
            thread::yield_now();
        }
        Ok(())
    }

    fn resume(&self) -> anyhow::Result<()> {
        self.write("cgroup.freeze", "0")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // Those that are killed while they stand still end all the same.
        for sleeper in &mut self.sleepers {
            let _ = sleeper.kill();
            let _ = sleeper.wait();
        }
        let began = Instant::now();
        // Linux: one that was waited for may be in its cgroup for a moment yet.
        while let Err(error) = fs::remove_dir(&self.path) {
            if began.elapsed() > PATIENCE {
                eprintln!("error: {} could not be removed: {error}", self.path.display());
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A container as `runc spec` proposes it, in the template's tree, read-only.
pub(crate) struct Container {
    runc: PathBuf,
    state: String,
    name: String,
    _bundle: Scratch,
}

impl Container {
    pub(crate) fn start(template: &Path, processes: usize) -> anyhow::Result<Self> {
        let bundle = Scratch::new()?;
        let path = |name: &str| bundle.path().join(name).display().to_string();
        let (state, config) = (path("runc"), path("config.json"));
        let runc = find("runc")?;
        run(&runc, &["spec".into(), "--bundle".into(), path("")])?;
        let mut spec: Value = serde_json::from_str(&fs::read_to_string(&config)?)?;
        let others = "sleep infinity & ".repeat(processes.saturating_sub(1));
        let script = format!("{others}exec sleep infinity");
        spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        spec["process"]["terminal"] = json!(false);
        spec["root"] = json!({ "path": template, "readonly": true });
        fs::write(&config, spec.to_string()).context("config.json")?;
        let name = format!("bench-{}", std::process::id());
        let container = Self { runc, state, name, _bundle: bundle };
        // Its processes keep what it is given as stdout.
        let bundle = container._bundle.path();
        let started = Command::new(&container.runc)
            .args(["--root", &container.state, "run", "--detach", "--bundle"])
            .arg(bundle)
            .arg(&container.name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("runc run")?;
        ensure!(started.success(), "runc run: {started}");
        container.until_there(processes)?;
        Ok(container)
    }

    /// They are started by the first of them.
    fn until_there(&self, processes: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let listed = Command::new(&self.runc)
                .args(["--root", &self.state, "ps", "--format", "json", &self.name])
                .output()
                .context("runc ps")?;
            let pids: Vec<u32> = serde_json::from_slice(&listed.stdout).unwrap_or_default();
            if pids.len() == processes {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("{} has not {processes} processes", self.name)
    }

    fn tell(&self, words: &[&str]) -> anyhow::Result<()> {
        let args = ["--root", &self.state].into_iter().chain(words.iter().copied());
        let args: Vec<String> = args.chain([self.name.as_str()]).map(str::to_owned).collect();
        run(&self.runc, &args)
    }
}

impl Standing for Container {
    fn pause(&self) -> anyhow::Result<()> {
        self.tell(&["pause"])
    }

    fn resume(&self) -> anyhow::Result<()> {
        self.tell(&["resume"])
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Forced, one that stands still is let go on for it.
        if let Err(error) = self.tell(&["delete", "--force"]) {
            eprintln!("error: {} could not be deleted: {error:#}", self.name);
        }
    }
}
