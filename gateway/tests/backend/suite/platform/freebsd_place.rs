//! FreeBSD: where data directories are, which decides what roots are.
//!
//! On ZFS they are clones, and each data directory is a dataset of its own, so that nothing is left
//! of it; elsewhere they are thin. Where TMPDIR is on ZFS, thin ones are tried in memory, tmpfs(5);
//! where it is not, and ZFS is there, clones are tried in a pool that is a file.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rctl_sys::mount;

use super::say;
use crate::suite::world::{World, eventually};

const ZFS: &str = "/sbin/zfs";
const ZPOOL: &str = "/sbin/zpool";
const UMOUNT: &str = "/sbin/umount";

/// Of a pool (bytes); of them it takes what is written.
const POOL: u64 = 2 << 30;
/// Of what is in memory.
const MEMORY: &str = "size=512m";

pub(crate) enum Place {
    Thin { directory: PathBuf, in_memory: bool },
    Clone { directory: PathBuf, dataset: String, pool: Option<String> },
}

impl Place {
    /// Says of each kind of root whether it is tried, and why not.
    pub(crate) fn all(base: &Path) -> Vec<Self> {
        let own = mount::statfs(base).expect("statfs");
        let leaf = base.file_name().and_then(|name| name.to_str()).expect("a name");
        let directory = |name: &str| {
            let directory = base.join(name);
            fs::create_dir(&directory).unwrap();
            directory
        };
        if own.fstype == "zfs" {
            let dataset = format!("{}/{leaf}", own.from.to_string_lossy());
            say(ZFS, &["create", "-o", "mountpoint=none", "-o", "canmount=off", &dataset]);
            let memory = directory("thin");
            say("/sbin/mount", &["-t", "tmpfs", "-o", MEMORY, "tmpfs", text(&memory)]);
            println!("roots: clones in {dataset}; thin ones in memory at {}", memory.display());
            return vec![
                Self::Clone { directory: directory("clone"), dataset, pool: None },
                Self::Thin { directory: memory, in_memory: true },
            ];
        }
        let thin = Self::Thin { directory: directory("thin"), in_memory: false };
        println!("roots: thin ones in {} ({})", base.display(), own.fstype);
        let loaded = Command::new("/sbin/kldstat").args(["-q", "-m", "zfs"]).status();
        if !loaded.is_ok_and(|status| status.success()) {
            println!("roots: no clones, as zfs.ko is not loaded (kldload zfs)");
            return vec![thin];
        }
        let file = base.join("pool");
        File::create(&file).and_then(|file| file.set_len(POOL)).expect("a file");
        let pool = leaf.to_lowercase();
        let made = Command::new(ZPOOL).args(["create", "-m", "none", &pool, text(&file)]).output();
        match made {
            Ok(made) if made.status.success() => {
                println!("roots: clones in pool {pool}, a file of {POOL} bytes at most");
                let clone = Self::Clone {
                    directory: directory("clone"),
                    dataset: pool.clone(),
                    pool: Some(pool),
                };
                vec![thin, clone]
            }
            other => {
                println!("roots: no clones, as zpool made no pool: {other:?}");
                fs::remove_file(&file).expect("the file can be removed");
                vec![thin]
            }
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Thin { .. } => "thin",
            Self::Clone { .. } => "clone",
        }
    }

    /// A data directory.
    pub(crate) fn make(&self, number: usize) -> PathBuf {
        match self {
            Self::Thin { directory, .. } => {
                let data_dir = directory.join(number.to_string());
                fs::create_dir(&data_dir).unwrap();
                data_dir
            }
            Self::Clone { directory, dataset, .. } => {
                let data_dir = directory.join(number.to_string());
                let at = format!("mountpoint={}", data_dir.display());
                say(ZFS, &["create", "-o", &at, &format!("{dataset}/{number}")]);
                data_dir
            }
        }
    }

    /// What a template of it is made of: for clones a copy, where layers are, which are made into
    /// datasets.
    pub(crate) fn root(&self, data_dir: &Path, root: &Path) -> PathBuf {
        match self {
            Self::Thin { .. } => root.to_owned(),
            Self::Clone { .. } => {
                let layers = data_dir.join("templates/layers");
                fs::create_dir_all(&layers).unwrap();
                let layer = layers.join("c1".repeat(32));
                say("/bin/cp", &["-a", text(root), text(&layer)]);
                layer
            }
        }
    }

    pub(crate) fn remove(&self, data_dir: &Path) -> Result<(), String> {
        match self {
            Self::Thin { .. } => fs::remove_dir_all(data_dir).map_err(|error| error.to_string()),
            Self::Clone { dataset, .. } => {
                let number = data_dir.file_name().and_then(|name| name.to_str()).expect("a name");
                let whole = format!("{dataset}/{number}");
                // All that is made of it is in it.
                let gone = Command::new(ZFS).args(["destroy", "-R", "-f", &whole]).output();
                match gone {
                    Ok(gone) if gone.status.success() => {
                        fs::remove_dir(data_dir).map_err(|error| error.to_string())
                    }
                    Ok(gone) => Err(String::from_utf8_lossy(&gone.stderr).into_owned()),
                    Err(error) => Err(error.to_string()),
                }
            }
        }
    }

    pub(crate) fn end(&self) {
        match self {
            Self::Thin { directory, in_memory } => {
                if *in_memory {
                    say(UMOUNT, &[text(directory)]);
                }
                let _ = fs::remove_dir(directory);
            }
            Self::Clone { directory, dataset, pool } => {
                match pool {
                    Some(pool) => {
                        say(ZPOOL, &["destroy", "-f", pool]);
                        let file = directory.with_file_name("pool");
                        fs::remove_file(file).expect("the file can be removed");
                    }
                    // Without what could not be cleared, which was told.
                    None => drop(Command::new(ZFS).args(["destroy", dataset]).output()),
                }
                let _ = fs::remove_dir(directory);
            }
        }
    }
}

/// Whether the roots of a data directory are clones.
pub(crate) fn is_clone(data_dir: &Path) -> bool {
    mount::statfs(data_dir).expect("statfs").fstype == "zfs"
}

/// Makes a template's layer the dataset that it is from the second sandbox on.
pub(crate) async fn warm(world: &World) {
    let data_dir = &world.settings.data_dir;
    let is_ready = || layers(data_dir).iter().any(|name| name.ends_with("@ready"));
    if !is_clone(data_dir) || is_ready() {
        return;
    }
    let (id, _cell) = world.create().await;
    world.destroy(id).await;
    eventually("the layer is a dataset", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        is_ready()
    })
    .await;
}

/// The datasets that are layers, and their snapshots.
pub(super) fn layers(data_dir: &Path) -> Vec<String> {
    let found = mount::statfs(data_dir).expect("statfs");
    if found.fstype != "zfs" {
        return Vec::new();
    }
    let dataset = found.from.to_string_lossy().into_owned();
    let all = say(ZFS, &["list", "-H", "-o", "name", "-t", "filesystem,snapshot", "-r", &dataset]);
    all.lines().filter(|name| name.contains("/layers/")).map(str::to_owned).collect()
}

/// Whose clones there are, and copies.
pub(super) fn claims(data_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(data_dir.join("clones")).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
