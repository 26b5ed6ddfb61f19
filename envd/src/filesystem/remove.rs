//! Removing a tree of any size and depth with two open directories and no recursion. Blocking.
//!
//! `std::fs::remove_dir_all` holds a descriptor and a stack frame per level, and the depth is the
//! sandbox's choice. Links are removed, never followed.

use std::{ffi::CString, os::unix::ffi::OsStrExt as _, path::Path};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::error::Error;

type Identity = (libc::dev_t, libc::ino_t);

/// One directory on the way from the root of what is removed to where we are.
struct Level {
    name: CString,
    parent: Identity,
}

/// Somebody who keeps filling what we empty wins after so many rounds.
const MAX_REFILLED: u32 = 1000;

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Succeeds also when there is nothing at `path`; whether there was something.
pub(crate) fn remove(path: &Path) -> Result<bool, Error> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Invalid(format!("'{}' cannot be removed", path.display())));
    };
    let name = CString::new(name.as_bytes()).map_err(|_| crate::paths::Invalid::Nul)?;
    let removed = Dir::open(parent, DIRECTORY.difference(OFlag::O_NOFOLLOW), Mode::empty())
        .and_then(|parent| remove_in(parent, name));
    match removed {
        Ok(()) => Ok(true),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
        Err(errno) => Err(Error::io(format!("removing '{}'", path.display()), errno.into())),
    }
}

fn remove_in(parent: Dir, name: CString) -> nix::Result<()> {
    if !is_directory(&parent, &name)? {
        return unlink(&parent, &name, UnlinkatFlags::NoRemoveDir);
    }
    let mut way = Vec::new();
    let mut refilled = 0;
    let mut here = descend(&parent, name, &mut way)?;
    drop(parent);
    loop {
        match empty(&mut here)? {
            // A directory that has something in it: that first, then look here again.
            Some(name) => here = descend(&here, name, &mut way)?,
            None => {
                let Some(level) = way.pop() else { return Ok(()) };
                let above = Dir::openat(&here, "..", DIRECTORY, Mode::empty())?;
                // Somebody moved the directory we are in: above it is not ours to remove.
                if identity(&fstat(&above)?) != level.parent {
                    return Err(Errno::EBUSY);
                }
                match unlink(&above, &level.name, UnlinkatFlags::RemoveDir) {
                    // Filled again while we were busy; a level above looks here again.
                    Err(Errno::ENOTEMPTY | Errno::EEXIST)
                        if !way.is_empty() && refilled < MAX_REFILLED =>
                    {
                        refilled += 1;
                    }
                    other => other?,
                }
                if way.is_empty() {
                    return Ok(());
                }
                here = above;
            }
        }
    }
}

fn descend(from: &Dir, name: CString, way: &mut Vec<Level>) -> nix::Result<Dir> {
    let parent = identity(&fstat(from)?);
    let below = Dir::openat(from, name.as_c_str(), DIRECTORY, Mode::empty())?;
    way.push(Level { name, parent });
    Ok(below)
}

/// Removes what can be removed at once, and returns the first directory that is not empty.
fn empty(directory: &mut Dir) -> nix::Result<Option<CString>> {
    // A second descriptor: the entries borrow the stream that reads them.
    let at = Dir::openat(&*directory, ".", DIRECTORY, Mode::empty())?;
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_directory = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => is_directory(&at, name)?,
        };
        if !is_directory {
            unlink(&at, name, UnlinkatFlags::NoRemoveDir)?;
            continue;
        }
        match unlink(&at, name, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => return Ok(Some(name.to_owned())),
            other => other?,
        }
    }
    Ok(None)
}

/// What is already gone counts as removed.
fn unlink(at: &Dir, name: &std::ffi::CStr, flag: UnlinkatFlags) -> nix::Result<()> {
    match unlinkat(at, name, flag) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

fn is_directory(at: &Dir, name: &std::ffi::CStr) -> nix::Result<bool> {
    let found = fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

fn identity(found: &FileStat) -> Identity {
    (found.st_dev, found.st_ino)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let top = home.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut here = Dir::open(&top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..5000 {
            nix::sys::stat::mkdirat(&here, "deeper", Mode::S_IRWXU).unwrap();
            here = Dir::openat(&here, "deeper", DIRECTORY, Mode::empty()).unwrap();
        }
        remove(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn links_are_removed_and_what_they_point_to_stays() {
        let home = tempfile::tempdir().unwrap();
        let kept = home.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let top = home.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "x").unwrap();
        symlink(&kept, top.join("a/link")).unwrap();
        symlink(&kept, home.path().join("link")).unwrap();
        remove(&top).unwrap();
        remove(&home.path().join("link")).unwrap();
        assert!(!top.exists() && kept.join("file").exists());
    }

    #[test]
    fn what_is_missing_is_removed_and_the_root_is_not() {
        let home = tempfile::tempdir().unwrap();
        assert!(!remove(&home.path().join("a/b")).unwrap());
        fs::write(home.path().join("file"), "x").unwrap();
        assert!(!remove(&home.path().join("file/below")).unwrap());
        assert!(remove(&home.path().join("file")).unwrap());
        assert!(remove(Path::new("/")).is_err());
    }
}
