//! Walking a tree that hostile code wrote, as root: every name is looked up in the directory that
//! it was read from, no symbolic link is followed, and no more is held in memory than one directory
//! stream for each level.

use std::{
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::{
    dir::{Dir, OwningIter},
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
};

use crate::backend::{Error, call::Call, host::files};

/// Directories in each other. A path may name more (PATH_MAX), and a tree have any number.
const DEEPEST: usize = 256;

pub(in crate::backend) trait Visit {
    /// What is made of a directory of the source, from its first entry to after its last.
    type Made;

    /// Whether the tree may change meanwhile: then what has gone since its name was read is passed
    /// over.
    const LIVE: bool;

    fn enter(&mut self, above: &Self::Made, name: &CStr) -> Result<Self::Made, Error>;

    fn leave(&mut self, made: Self::Made, source: BorrowedFd, stat: &FileStat)
    -> Result<(), Error>;

    /// What is no directory.
    fn other(&mut self, above: &Self::Made, entry: &Entry) -> Result<(), Error>;

    /// What is on another file system than the tree.
    fn mounted(&mut self, above: &Self::Made, entry: &Entry) -> Result<(), Error>;
}

/// A name in a directory of the source, and what it was when it was read.
pub(in crate::backend) struct Entry<'a> {
    pub(in crate::backend) parent: BorrowedFd<'a>,
    pub(in crate::backend) name: &'a CStr,
    pub(in crate::backend) stat: FileStat,
}

pub(in crate::backend) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// For messages.
pub(in crate::backend) fn shown(name: &CStr) -> String {
    format!("{:?} of the layer", name.to_string_lossy())
}

struct Level<M> {
    fd: OwnedFd,
    entries: OwningIter,
    stat: FileStat,
    made: M,
}

impl<M> Level<M> {
    fn open(
        parent: impl AsFd,
        name: &CStr,
        make: impl FnOnce() -> Result<M, Error>,
    ) -> Result<Self, Error> {
        let flags = files::READING | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = |parent: BorrowedFd, name| openat(parent, name, flags, Mode::empty());
        let fd = open(parent.as_fd(), name).call("open", shown(name))?;
        let stat = fstat(&fd).call("stat", shown(name))?;
        let stream = open(fd.as_fd(), c".").call("open", shown(name))?;
        let entries = Dir::from_fd(stream).call("read", shown(name))?.into_iter();
        Ok(Self { fd, entries, stat, made: make()? })
    }
}

/// All that is in the directory `root` and below, a directory's entries before the directory; but
/// for what is `left_out` of `root` itself.
pub(in crate::backend) fn walk<V: Visit>(
    root: impl AsFd,
    made: V::Made,
    left_out: &[&CStr],
    visit: &mut V,
) -> Result<(), Error> {
    through(Level::open(root, c".", || Ok(made))?, left_out, visit)
}

/// One entry of the directory `parent`, with what is below it.
#[cfg(any(target_os = "freebsd", test))]
pub(in crate::backend) fn walk_one<V: Visit>(
    parent: impl AsFd,
    name: &CStr,
    made: V::Made,
    visit: &mut V,
) -> Result<(), Error> {
    let parent = Level::open(parent, c".", || Ok(made))?;
    step(&parent, name, visit)?.map_or(Ok(()), |below| through(below, &[], visit))
}

fn through<V: Visit>(root: Level<V::Made>, left_out: &[&CStr], visit: &mut V) -> Result<(), Error> {
    let mut levels = vec![root];
    let mut depth = 1;
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.next() else {
            depth -= 1;
            if let Some(level) = levels.pop() {
                visit.leave(level.made, level.fd.as_fd(), &level.stat)?;
            }
            continue;
        };
        let entry = entry.call("read", "a directory of the layer")?;
        let name = entry.file_name();
        if name == c"." || name == c".." || depth == 1 && left_out.contains(&name) {
            continue;
        }
        match step(level, name, visit) {
            Ok(None) => {}
            Ok(Some(below)) if depth < DEEPEST => {
                levels.push(below);
                depth += 1;
            }
            Ok(Some(_)) => {
                return Err(Error::Unfit(format!("more than {DEEPEST} directories in each other")));
            }
            Err(error) if V::LIVE && is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn step<V: Visit>(
    level: &Level<V::Made>,
    name: &CStr,
    visit: &mut V,
) -> Result<Option<Level<V::Made>>, Error> {
    let parent = level.fd.as_fd();
    let stat = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).call("stat", shown(name))?;
    if stat.st_dev != level.stat.st_dev {
        visit.mounted(&level.made, &Entry { parent, name, stat })?;
        return Ok(None);
    }
    if kind(&stat) == SFlag::S_IFDIR {
        let below = Level::open(parent, name, || visit.enter(&level.made, name))?;
        // Something may have been mounted on it since.
        if below.stat.st_dev != level.stat.st_dev {
            return Err(Error::Unfit(format!("{} is on another file system", shown(name))));
        }
        return Ok(Some(below));
    }
    visit.other(&level.made, &Entry { parent, name, stat })?;
    Ok(None)
}

/// It was removed, or something else took its place.
fn is_passing(error: &Error) -> bool {
    let Error::Call { source, .. } = error else { return false };
    files::PASSING.iter().any(|errno| source.raw_os_error() == Some(*errno as i32))
}
