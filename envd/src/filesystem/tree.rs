//! Changes to the tree: directories made, files moved and removed. Blocking.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    fcntl::AT_FDCWD,
    sys::{
        stat::{UtimensatFlags, utimensat},
        time::TimeSpec,
    },
};

use super::error::Error;
use crate::users::User;

/// Makes `path` and its missing parents, 0755 and the user's.
pub(crate) fn ensure_dirs(path: &Path, user: &User) -> io::Result<()> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        match fs::metadata(ancestor) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor),
            Err(error) => return Err(error),
        }
    }
    for directory in missing.into_iter().rev() {
        match fs::DirBuilder::new().mode(0o755).create(directory) {
            Ok(()) => {
                chown(directory, Some(user.uid), Some(user.gid))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Made by somebody else since we looked, or a link to nothing.
                if !directory.is_dir() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(crate) fn make_dir(path: &Path, user: &User) -> Result<(), Error> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(Error::Exists(format!("directory already exists: {shown}")));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {}
        // A link to nothing is something as well.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::io(format!("looking at '{shown}'"), error));
        }
        _ => {
            let text = format!("path already exists but it is not a directory: {shown}");
            return Err(Error::Invalid(text));
        }
    }
    ensure_dirs(path, user)
        .map_err(|error| Error::io(format!("creating directory '{shown}'"), error))
}

pub(crate) fn rename(source: &Path, destination: &Path, user: &User) -> Result<(), Error> {
    let (from, to) = (source.display(), destination.display());
    if destination != source && destination.starts_with(source) {
        return Err(Error::Invalid(format!("cannot move '{from}' into itself, to '{to}'")));
    }
    match fs::symlink_metadata(source) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NotFound(format!("source file not found: {from}")));
        }
        Err(error) => return Err(Error::io(format!("looking at '{from}'"), error)),
    }
    if let Some(parent) = destination.parent() {
        ensure_dirs(parent, user).map_err(|error| {
            Error::io(format!("creating directory '{}'", parent.display()), error)
        })?;
    }
    match fs::rename(source, destination) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            copy_over(source, destination)
                .map_err(|error| Error::io(format!("moving '{from}' to '{to}'"), error))?;
            super::remove::remove(source).map(drop)
        }
        renamed => {
            renamed.map_err(|error| Error::io(format!("renaming '{from}' to '{to}'"), error))
        }
    }
}

/// What `mv` does where rename(2) cannot: between mounts, and for a directory of a read-only
/// layer. The copy gets its name when it is whole, and the source goes after that.
fn copy_over(source: &Path, destination: &Path) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let staged = destination.with_file_name(format!(".envd-move-{now:x}"));
    let copied = copy(source, &staged).and_then(|()| fs::rename(&staged, destination));
    if copied.is_err() {
        // The first error is the one to tell.
        let _ = super::remove::remove(&staged);
    }
    copied
}

fn copy(source: &Path, destination: &Path) -> io::Result<()> {
    let mut pending: Vec<(PathBuf, PathBuf)> = vec![(source.into(), destination.into())];
    // Times of a directory are set when all is in it.
    let mut made = Vec::new();
    while let Some((from, to)) = pending.pop() {
        let found = fs::symlink_metadata(&from)?;
        let kind = found.file_type();
        if kind.is_dir() {
            fs::DirBuilder::new().mode(found.mode() & 0o7777).create(&to)?;
            for entry in fs::read_dir(&from)? {
                let entry = entry?;
                pending.push((entry.path(), to.join(entry.file_name())));
            }
            made.push((to, found));
        } else if kind.is_file() {
            fs::copy(&from, &to)?;
            keep(&to, &found)?;
            copy_attributes(&from, &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
            std::os::unix::fs::lchown(&to, Some(found.uid()), Some(found.gid()))?;
        } else {
            let text = format!("'{}' is not a file, directory or link", from.display());
            return Err(io::Error::other(text));
        }
    }
    for (directory, found) in made.into_iter().rev() {
        keep(&directory, &found)?;
    }
    Ok(())
}

fn keep(path: &Path, found: &fs::Metadata) -> io::Result<()> {
    chown(path, Some(found.uid()), Some(found.gid()))?;
    // After chown, which drops setuid.
    fs::set_permissions(path, found.permissions())?;
    let accessed = TimeSpec::new(found.atime(), found.atime_nsec());
    let modified = TimeSpec::new(found.mtime(), found.mtime_nsec());
    let follow = UtimensatFlags::NoFollowSymlink;
    Ok(utimensat(AT_FDCWD, path, &accessed, &modified, follow)?)
}

/// As far as the destination's filesystem has them.
fn copy_attributes(from: &Path, to: &Path) {
    for name in xattr::list(from).into_iter().flatten() {
        if let Ok(Some(value)) = xattr::get(from, &name) {
            let _ = xattr::set(to, &name, &value);
        }
    }
}
