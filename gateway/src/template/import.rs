//! A template from a root file system that is there already: a directory, a tarball, a ZFS dataset.
//!
//! What is in it may be anybody's. `tar(1)` brings it in, of which both systems' refuse names that
//! lead out and links to write through; a message of its own is then the error. Nothing in it is
//! run, and what the build itself changes it changes without following links (`account`).

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    account::{self, plain},
    freebsd,
    recipe::{self, ON_FREEBSD},
    tool::Tool,
    tree::{self, failed},
};

const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// GNU's: numbers for owners, since the names are the host's; of extended attributes only
/// capabilities, since an overlay takes some for its own notes.
const GNU: &[&str] = &[
    "--force-local",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=security.capability",
    "--warning=no-timestamp",
];
/// FreeBSD's: without file flags, as what is immutable can neither be finished nor removed.
const BSD: &[&str] = &["--numeric-owner", "--no-fflags"];

/// `$1` to `$2`, with `$3` to mark a failure of the first half, and the options of both halves.
const COPY: &str = r#"from=$1 to=$2 mark=$3
shift 3
{ tar -c "$@" --one-file-system -f - -C "$from" . || : >"$mark"; } |
    tar -x -p "$@" -f - -C "$to" || exit 1
[ ! -e "$mark" ]"#;

/// Empty in every image: made at start, or of the host the root was made on.
const EMPTIED: &[&str] = &["dev", "proc", "tmp"];
const EMPTIED_LINUX: &[&str] = &["run", "sys"];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Source { path: PathBuf, source: std::io::Error },
    #[error("{0} is neither a directory nor a tarball")]
    Kind(PathBuf),
    #[error("the host's own root has its keys and passwords in it; unpack a fresh one instead")]
    Host,
    #[error("{0} is no root file system of FreeBSD: there is no etc/master.passwd in it")]
    NotFreeBsd(String),
    #[error("there is no ZFS here")]
    NoZfs,
    #[error("ZFS dataset {0} is not mounted: `zfs mount {0}`")]
    NotMounted(String),
    #[error("{0:?} is not the name of a ZFS dataset")]
    Dataset(String),
}

/// Where a root file system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Directory(PathBuf),
    Tarball(PathBuf),
    /// `pool/name`, taken as it is now, or `pool/name@snapshot`.
    Dataset(String),
}

/// Whether a template can have this name.
pub(super) fn is_name(name: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-');
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= 64
        && bytes.iter().all(|byte| inner(*byte))
        && edge(bytes.first())
        && edge(bytes.last())
}

impl Source {
    /// `zfs:DATASET`, or the path of a directory or a tarball.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if let Some(dataset) = text.strip_prefix("zfs:") {
            let dataset = dataset.to_owned();
            return match () {
                () if !ON_FREEBSD => Err(Error::NoZfs),
                () if is_dataset(&dataset) => Ok(Self::Dataset(dataset)),
                () => Err(Error::Dataset(dataset)),
            };
        }
        let failed = |source| Error::Source { path: text.into(), source };
        let path = Path::new(text).canonicalize().map_err(failed)?;
        let kind = fs::metadata(&path).map_err(failed)?.file_type();
        match () {
            () if path == Path::new("/") => Err(Error::Host),
            () if kind.is_dir() => Ok(Self::Directory(path)),
            () if kind.is_file() => Ok(Self::Tarball(path)),
            () => Err(Error::Kind(path)),
        }
    }

    /// Makes a finished root of it in `dir`; its path.
    pub(super) fn bring(
        &self,
        dir: &Path,
        stop: &CancellationToken,
        progress: &(dyn Fn(&str) + Sync),
    ) -> Result<PathBuf, recipe::Error> {
        recipe::check_host()?;
        let root = dir.join("root");
        tree::make_dir(&root)?;
        match self {
            Self::Directory(from) => {
                progress(&format!("copying {}", from.display()));
                copy(from, &root, dir, stop)?;
            }
            Self::Tarball(tarball) => {
                progress(&format!("unpacking {}", tarball.display()));
                unpack(tarball, &root, dir, stop)?;
            }
            Self::Dataset(dataset) => copy_dataset(dataset, &root, dir, stop, progress)?,
        }
        progress("finishing");
        if ON_FREEBSD && plain(&root, "etc/master.passwd")?.is_none() {
            return Err(Error::NotFreeBsd(self.to_string()).into());
        }
        account::ensure(&root, dir, stop)?;
        finish(&root)?;
        if ON_FREEBSD {
            freebsd::furnish(&root, dir, stop, progress)?;
        }
        Ok(root)
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(path) | Self::Tarball(path) => path.display().fmt(f),
            Self::Dataset(dataset) => write!(f, "zfs:{dataset}"),
        }
    }
}

/// zfs(8): components of letters, digits and `-_.: `; one that starts with `-` would be an option.
fn is_dataset(name: &str) -> bool {
    let (dataset, snapshot) = name.split_once('@').unwrap_or((name, "-"));
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
    };
    !name.starts_with('-')
        && dataset.split('/').all(plain)
        && plain(snapshot)
        && !name.contains("..")
}

fn options() -> &'static [&'static str] {
    if ON_FREEBSD { BSD } else { GNU }
}

fn unpack(
    tarball: &Path,
    root: &Path,
    dir: &Path,
    stop: &CancellationToken,
) -> Result<(), recipe::Error> {
    Tool::new("tar", dir, PATIENCE)
        .args(["-x", "-p"])
        .args(options())
        .args([Path::new("-f"), tarball, Path::new("-C"), root])
        .run(stop, |_| {})?;
    Ok(())
}

/// A whole tree, but no other file systems in it.
pub(super) fn copy(
    from: &Path,
    root: &Path,
    dir: &Path,
    stop: &CancellationToken,
) -> Result<(), recipe::Error> {
    Tool::new("sh", dir, PATIENCE)
        .args(["-c", COPY, "copy"])
        .args([from, root, &dir.join("copy-failed")])
        .args(options())
        .run(stop, |_| {})?;
    Ok(())
}

/// From a snapshot, so that it is of one moment.
fn copy_dataset(
    name: &str,
    root: &Path,
    dir: &Path,
    stop: &CancellationToken,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(), recipe::Error> {
    let zfs = |args: &[&str]| Tool::new("zfs", dir, Duration::from_secs(60)).args(args);
    let dataset = name.split('@').next().unwrap_or(name);
    let said = Mutex::new(String::new());
    zfs(&["get", "-H", "-o", "value", "mounted,mountpoint", dataset]).run(stop, |line| {
        let mut said = said.lock();
        said.push_str(line);
        said.push('\n');
    })?;
    let said = said.into_inner();
    let Some(at) = said.strip_prefix("yes\n").map(str::trim_end).filter(|at| at.starts_with('/'))
    else {
        return Err(Error::NotMounted(dataset.to_owned()).into());
    };
    let own = (!name.contains('@')).then(|| format!("{name}@coppice-{}", std::process::id()));
    let snapshot = own.as_deref().unwrap_or(name);
    if let Some(own) = &own {
        progress(&format!("taking a snapshot of {name}"));
        zfs(&["snapshot", own]).run(stop, |_| {})?;
    }
    progress(&format!("copying zfs:{snapshot}"));
    let seen_at =
        Path::new(at).join(".zfs/snapshot").join(snapshot.split('@').nth(1).unwrap_or_default());
    let copied = copy(&seen_at, root, dir, stop);
    if let Some(own) = &own {
        // Also when the build is being stopped: nothing else would remove it.
        zfs(&["destroy", own]).run(&CancellationToken::new(), |_| {})?;
    }
    copied
}

/// Takes out what is of the place it was made at.
fn finish(root: &Path) -> Result<(), tree::Error> {
    let linux: &[&str] = if ON_FREEBSD { &[] } else { EMPTIED_LINUX };
    for path in EMPTIED.iter().chain(linux) {
        let path = root.join(path);
        if path.is_symlink() {
            tree::remove(&path)?;
        }
        tree::empty(&path)?;
    }
    let home = root.join("root");
    if plain(root, "root")?.is_none() {
        tree::make_dir(&home)?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700))
            .map_err(failed("chmod", &home))?;
    }
    if plain(root, "etc")?.is_some() {
        // What the host resolves with is not for sandboxes.
        tree::write(&root.join("etc/resolv.conf"), 0o644, "")?;
    }
    for (path, mode) in [("", 0o755), ("tmp", 0o1777)] {
        let path = root.join(path);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .map_err(failed("chmod", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
