//! Writing a tree out to the disk, where the system has no call for a whole file system: fsync(2)
//! of all that is in it.

use std::{
    ffi::CStr,
    fs::File,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use nix::{
    sys::stat::{FileStat, SFlag},
    unistd::fsync,
};

use super::error::Call;
use crate::backend::{
    Error,
    copy::walk::{Entry, Visit, kind, shown, walk},
    host::files,
};

/// All files and directories of a tree, but what is mounted in it. It may be a hostile user's;
/// what is gone meanwhile is passed over. Blocks for long.
pub(super) fn write_out(tree: &Path) -> Result<(), Error> {
    walk(File::open(tree).call("open", tree.display())?, (), &[], &mut WriteOut)
}

struct WriteOut;

impl Visit for WriteOut {
    type Made = ();
    const LIVE: bool = true;

    fn enter(&mut self, (): &(), _name: &CStr) -> Result<(), Error> {
        Ok(())
    }

    fn leave(&mut self, (): (), source: BorrowedFd, _stat: &FileStat) -> Result<(), Error> {
        fsync(source).call("fsync", "a directory of the layer")
    }

    fn other(&mut self, (): &(), entry: &Entry) -> Result<(), Error> {
        if kind(&entry.stat) != SFlag::S_IFREG {
            return Ok(());
        }
        let file = files::open_file(entry.parent, entry.name)?;
        fsync(file.as_fd()).call("fsync", shown(entry.name))
    }

    fn mounted(&mut self, (): &(), _entry: &Entry) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn whatever_is_in_a_tree_it_is_walked_to_its_end() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("a/b")).unwrap();
        fs::write(tree.path().join("a/b/file"), "text").unwrap();
        symlink("/nowhere", tree.path().join("a/link")).unwrap();
        let pipe = tree.path().join("a/pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        write_out(tree.path()).unwrap();
        let error = write_out(&tree.path().join("gone")).unwrap_err().to_string();
        assert!(error.starts_with("open ") && error.contains("gone"), "{error}");
    }
}
