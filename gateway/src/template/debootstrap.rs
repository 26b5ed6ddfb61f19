//! The recipe of `base`: a small Debian with what code run by agents expects, and Node.
//!
//! Works in a build directory of its own and leaves a finished root in it; where that root goes
//! and when it is used is the store's business. Blocking: runs on a thread of its own.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    recipe::{Built, Error, in_path},
    sources,
    tool::Tool,
    tree::{self, failed},
};

const RELEASE: &str = "bookworm";

const PACKAGES: &[&str] = &[
    "bash",
    "bzip2",
    "ca-certificates",
    "coreutils",
    "curl",
    "file",
    "git",
    "iproute2",
    "jq",
    "less",
    "nano",
    "netbase",
    "openssh-client",
    "procps",
    "python-is-python3",
    "python3",
    "python3-pip",
    "python3-venv",
    "sudo",
    "tzdata",
    "unzip",
    "wget",
    "xz-utils",
    "zip",
];

/// Kept out of the image; licences stay.
const LEFT_OUT: &[&str] = &[
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
];

const MAKE_USER: &str = "chroot \"$1\" useradd --create-home --uid 1000 --user-group \
                         --groups sudo --shell /bin/bash user";

/// Path, mode and content.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/sudoers.d/user", 0o440, "user ALL=(ALL:ALL) NOPASSWD: ALL\n"),
    ("etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("etc/hostname", 0o644, "localhost\n"),
    // What the host resolves with is not for sandboxes; envd writes this anew in each.
    ("etc/resolv.conf", 0o644, ""),
    // A sandbox is as disposable as a virtual environment: let `pip install` just work.
    ("etc/pip.conf", 0o644, "[global]\nbreak-system-packages = true\nroot-user-action = ignore\n"),
];

/// Empty in the image: made at start, or telling of the host and the hour of the build.
const EMPTIED: &[&str] = &[
    "dev",
    "proc",
    "run",
    "sys",
    "tmp",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/lib/apt/lists",
    "var/log",
    "var/tmp",
];

const REMOVED: &[&str] = &[
    ".dockerenv",
    "etc/.pwd.lock",
    "etc/group-",
    "etc/gshadow-",
    "etc/machine-id",
    "etc/passwd-",
    "etc/shadow-",
    "etc/apt/sources.list.d",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/status-old",
    "var/lib/systemd/random-seed",
];

/// The newest Node of the line, and an npm that goes with it, as npm packages.
const NODE: &str = "22.23.3";
const NPM: &str = "10.9.9";

/// All that the result depends on.
pub(super) fn recipe() -> String {
    format!(
        "{RELEASE} {PACKAGES:?} {LEFT_OUT:?} {MAKE_USER} {FILES:?} {EMPTIED:?} {REMOVED:?} \
         {NODE} {NPM}"
    )
}

/// Builds `base` in `dir`, an empty directory; `progress` hears of every step.
pub(super) fn build(
    dir: &Path,
    stop: &CancellationToken,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Built, Error> {
    if !in_path("mmdebstrap") {
        return Err(Error::Missing("mmdebstrap"));
    }

    let root = dir.join("root");
    install_debian(dir, &root, stop, progress)?;
    let node = install_node(dir, &root, stop, progress)?;
    progress("clearing away what the build left");
    finish(&root)?;
    Ok(Built { root, node })
}

fn install_debian(
    dir: &Path,
    root: &Path,
    stop: &CancellationToken,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(), Error> {
    progress("installing Debian");
    let found = sources::of_host(Path::new("/etc/apt"), RELEASE);
    let list = dir.join("sources.list");
    let lines: String = found.iter().map(|source| source.line() + "\n").collect();
    fs::write(&list, lines).map_err(failed("write", &list))?;

    let mut tool = Tool::new("mmdebstrap", dir, Duration::from_secs(20 * 60))
        .env("SOURCE_DATE_EPOCH", "0")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["--mode=root", "--variant=minbase"])
        .args([format!("--include={}", PACKAGES.join(","))])
        .args(["--aptopt=Acquire::Retries 3", "--aptopt=Acquire::http::Timeout 60"])
        .args(LEFT_OUT.iter().map(|option| format!("--dpkgopt={option}")))
        .args([format!("--customize-hook={MAKE_USER}")])
        .args([Path::new(RELEASE), root]);
    if !found.is_empty() {
        tool = tool.args([&list]);
    }
    tool.run(stop, |line| {
        if let Some(step) = line.strip_prefix("I: ").filter(|step| !step.contains("hook")) {
            progress(&format!("installing Debian: {}", step.trim_end_matches('.')));
        }
    })?;

    let public: String =
        found.iter().map(|source| source.without_credentials().line() + "\n").collect();
    if !public.is_empty() {
        tree::write(&root.join("etc/apt/sources.list"), 0o644, &public)?;
    }
    Ok(())
}

/// Node and npm from their npm packages, into `/usr/local`.
fn install_node(
    dir: &Path,
    root: &Path,
    stop: &CancellationToken,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Option<String>, Error> {
    let arch = match env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => {
            progress(&format!("leaving Node out: no npm package of it for {other}"));
            return Ok(None);
        }
    };
    if !in_path("npm") {
        progress("leaving Node out: the host has no npm to fetch it with");
        return Ok(None);
    }
    progress(&format!("installing Node {NODE}"));
    let node = fetch(dir, &format!("node-linux-{arch}"), NODE, stop)?;
    let npm = fetch(dir, "npm", NPM, stop)?;

    let modules = root.join("usr/local/lib/node_modules");
    tree::make_dir(&modules)?;
    for (from, to) in
        [(node.join("bin/node"), root.join("usr/local/bin/node")), (npm, modules.join("npm"))]
    {
        fs::rename(&from, &to).map_err(failed("rename", from))?;
    }
    for name in ["npm", "npx"] {
        let link = root.join("usr/local/bin").join(name);
        symlink(format!("../lib/node_modules/npm/bin/{name}-cli.js"), &link)
            .map_err(failed("symlink", link))?;
    }
    Ok(Some(NODE.to_owned()))
}

/// Fetches an npm package by npm itself, which checks it, and unpacks it.
fn fetch(
    dir: &Path,
    name: &str,
    version: &str,
    stop: &CancellationToken,
) -> Result<PathBuf, Error> {
    let unpacked = dir.join(name);
    tree::make_dir(&unpacked)?;
    Tool::new("npm", dir, Duration::from_secs(5 * 60))
        .env("npm_config_cache", dir.join("npm-cache"))
        .env("npm_config_update_notifier", "false")
        .args(["pack", "--silent", "--pack-destination"])
        .args([dir])
        .args([format!("{name}@{version}")])
        .run(stop, |_| {})?;
    Tool::new("tar", dir, Duration::from_secs(2 * 60))
        .args(["--extract", "--gzip", "--no-same-owner", "--strip-components=1", "--file"])
        .args([dir.join(format!("{name}-{version}.tgz"))])
        .args([Path::new("--directory"), &unpacked])
        .run(stop, |_| {})?;
    Ok(unpacked)
}

/// Takes out what belongs to the build or its host, and puts in what is ours.
fn finish(root: &Path) -> Result<(), Error> {
    for path in REMOVED {
        tree::remove(&root.join(path))?;
    }
    for path in EMPTIED {
        tree::empty(&root.join(path))?;
    }
    for (path, mode, content) in FILES {
        tree::write(&root.join(path), *mode, content)?;
    }
    for (path, mode) in [("", 0o755), ("tmp", 0o1777), ("var/tmp", 0o1777), ("dev", 0o755)] {
        let path = root.join(path);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(failed("chmod", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_root_tells_nothing_of_its_host() {
        let root = tempfile::tempdir().unwrap();
        for dir in
            ["etc/sudoers.d", "tmp", "var/cache", "var/lib/apt", "var/lib/dbus", "var/log/apt"]
        {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let outside = tempfile::NamedTempFile::new().unwrap();
        symlink(outside.path(), root.path().join("etc/resolv.conf")).unwrap();
        for file in ["etc/machine-id", "var/lib/dbus/machine-id", "var/log/apt/term.log", "tmp/x"] {
            fs::write(root.path().join(file), "of the host").unwrap();
        }

        finish(root.path()).unwrap();

        for gone in ["etc/machine-id", "var/lib/dbus/machine-id", "var/log/apt", "tmp/x"] {
            assert!(!root.path().join(gone).exists(), "{gone}");
        }
        let mode = |path: &str| fs::metadata(root.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode("etc/sudoers.d/user") & 0o7777, 0o440);
        assert_eq!(mode("tmp") & 0o7777, 0o1777);
        assert!(fs::symlink_metadata(root.path().join("etc/resolv.conf")).unwrap().is_file());
        assert_eq!(fs::read_to_string(outside.path()).unwrap(), "");
    }
}
