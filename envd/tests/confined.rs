//! Processes in a cgroup that the gateway chose.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
};

use common::{Server, spec};
use envd::{
    control::{receive_spec, send_spec},
    wire::{Descriptor, Init},
};
use serde_json::json;

/// A cgroup with a limit on processes, removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(processes: u32) -> io::Result<Self> {
        let root = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
            .map(Path::new)
            .into_iter()
            .find(|root| root.join("cgroup.procs").exists())
            .ok_or_else(|| io::Error::other("no cgroup file system"))?;
        let path = root.join(format!("envd-test-{}", std::process::id()));
        fs::create_dir(&path)?;
        let cgroup = Self(path);
        fs::write(cgroup.0.join("pids.max"), processes.to_string())?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_live_in_the_cgroup_and_a_full_one_refuses() {
    let cgroup = match Cgroup::make(4) {
        Ok(cgroup) => cgroup,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: no pids cgroup can be made: {error}");
            return;
        }
        Err(error) => panic!("no pids cgroup can be made: {error}"),
    };
    let procs = File::options().write(true).open(cgroup.0.join("cgroup.procs")).unwrap();
    let mut spec = spec(Init { default_user: Some("root".into()), ..Init::default() });
    spec.descriptors = vec![Descriptor::UserCgroup];
    let (gateway, envd) = UnixStream::pair().unwrap();
    send_spec(gateway.as_fd(), &spec, &[procs.as_fd()]).unwrap();
    let (spec, mut descriptors) = receive_spec(envd.as_fd()).unwrap();
    let server = Server::confined(&spec, &mut descriptors);

    let mut first = server.sh("cat /proc/self/cgroup; nproc; sleep 60").await;
    first.pid().await;
    let own = cgroup.0.file_name().unwrap().to_str().unwrap().to_owned();
    let mut said = String::new();
    while !said.contains("\n1\n") {
        let event = first.event().await;
        let bytes = event["data"]["stdout"].as_str().unwrap();
        let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, bytes).unwrap();
        said.push_str(&String::from_utf8(bytes).unwrap());
    }
    assert!(said.contains(&own), "{own} in {said}; one CPU was given");

    // sh and sleep are two already; another pair fills the four.
    let mut second = server.sh("sleep 60; true").await;
    second.pid().await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let start = std::time::Instant::now();
    let error = server.sh("true").await.finish().await.error;
    assert_eq!(error["code"], "resource_exhausted", "{error}");
    assert_eq!(server.pids().await.len(), 2);
    for pid in server.pids().await {
        let kill = json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"});
        assert_eq!(server.unary("SendSignal", kill).await.0, 200);
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(1));
    assert_eq!(first.finish().await.end["status"], "signal: killed");
}
