//! FreeBSD: what jls(8), mount(8), ifconfig(8) and rctl(8) see.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use coppice::sandbox::SandboxId;
use rctl_sys::sysctl;

pub(crate) use self::place::{Place, is_clone, warm};
use super::{PASSWD, make_directories, say};
use crate::suite::world::World;

#[path = "freebsd_place.rs"]
mod place;

/// How long the kernel may take to let go of what is no more: a dying jail waits for its sockets.
pub(crate) const STRAGGLING: Duration = Duration::from_secs(30);

/// racct(4) is brought up to date once a second.
pub(crate) const ACCOUNTED_WITHIN: Duration = Duration::from_millis(2500);

/// Ends well where there is a default route: route(8).
pub(crate) const LEADS_OUT: &str = "route -n get default";

/// Whether sandboxes can be made at all.
pub(crate) fn ready() -> Result<(), &'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Err("jails need root");
    }
    // What a log without its host could not tell.
    println!("{}", say("/usr/bin/uname", &["-a"]).trim_end());
    for name in ["kern.osreldate", "kern.racct.enable", "kern.features.vimage", "hw.physmem"] {
        println!("{name}: {:?}", sysctl::integer(name));
    }
    println!("{}", say("/bin/df", &["-T", &std::env::temp_dir().to_string_lossy()]).trim_end());
    match sysctl::racct_enabled() {
        Ok(Some(true)) => Ok(()),
        _ => Err("limits need racct(4): kern.racct.enable=1 in /boot/loader.conf, and a reboot"),
    }
}

/// All of rescue(8) is one program, linked to nothing.
pub(crate) fn make_root(root: &Path) {
    make_directories(root, &["bin", "dev", "etc", "home/user", "root", "run", "tmp", "var"]);
    fs::write(root.join("etc/passwd"), PASSWD).unwrap();
    fs::write(root.join("etc/group"), "wheel:*:0:root\nuser:*:1000:\n").unwrap();
    let first = root.join("bin/sh");
    fs::copy("/rescue/sh", &first).expect("/rescue/sh");
    let names =
        ["cat", "dd", "hostname", "kill", "ls", "mkdir", "ps", "rm", "route", "sleep", "stty"];
    for name in names {
        fs::hard_link(&first, root.join("bin").join(name)).unwrap();
    }
}

/// Where a file of a sandbox's is, by its path inside.
pub(crate) fn host_path(directory: &Path, path: &str) -> PathBuf {
    directory.join("root").join(path.trim_start_matches('/'))
}

/// envd is the parent of what it starts, and root inside may kill it.
pub(crate) async fn kill_first_process(world: &World, id: SandboxId) {
    // What it says of its end, nobody is there to pass on.
    let _ = world.start(id, "kill -9 $PPID; sleep 1000").await.finish().await;
}

pub(crate) fn mounts_below(directory: &Path) -> Vec<String> {
    // It may be one itself.
    let below = format!("{}/", directory.to_str().expect("a path in UTF-8"));
    let mounts = say("/sbin/mount", &["-p"]);
    let points = mounts.lines().filter_map(|line| line.split_whitespace().nth(1));
    points.filter(|point| point.starts_with(&below)).map(str::to_owned).collect()
}

/// All that sandboxes of whichever data directory have in the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    mounts: Vec<String>,
    /// Dying ones included.
    jails: Vec<String>,
    rules: Vec<String>,
    interfaces: Vec<String>,
    /// Layers with their snapshots; whose clones there are the files beside them tell.
    datasets: Vec<String>,
    claims: Vec<String>,
}

impl Picture {
    pub(crate) fn take(data_dir: &Path) -> Self {
        let ours = |text: String| -> Vec<String> {
            let mut lines: Vec<_> =
                text.lines().filter(|line| line.contains("coppice-")).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let interfaces = say("/sbin/ifconfig", &["-l"]);
        Self {
            mounts: mounts_below(data_dir),
            jails: ours(say("/usr/sbin/jls", &["-d", "name"])),
            rules: ours(say("/usr/bin/rctl", &[])),
            interfaces: interfaces.split_whitespace().map(str::to_owned).collect(),
            datasets: place::layers(data_dir),
            claims: place::claims(data_dir),
        }
    }
}

pub(crate) fn assert_retired(data_dir: &Path) {
    assert_eq!(mounts_below(data_dir), Vec::<String>::new());
}
