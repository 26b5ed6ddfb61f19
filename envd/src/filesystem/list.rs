//! ListDir: a directory's entries to a depth, each followed by its own, in lexical order. Blocking.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::{entry::Describe, error::Error};
use crate::connect::proto::filesystem::EntryInfo;

/// An answer has at most so many entries …
const MAX_ENTRIES: usize = 100_000;
/// … and their paths at most so many bytes.
const MAX_PATHS: usize = 32 << 20;

/// A root that is a link is followed; paths are told under the requested one.
pub(crate) fn list(requested: &Path, depth: u32) -> Result<Vec<EntryInfo>, Error> {
    let root = follow(requested)?;
    if !root.is_dir() {
        return Err(Error::Invalid(format!("path is not a directory: {}", requested.display())));
    }
    Listing { requested, root: &root, depth, names: 0, bytes: 0 }.run()
}

fn follow(requested: &Path) -> Result<PathBuf, Error> {
    let shown = requested.display();
    fs::canonicalize(requested).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound(format!("path not found: {shown}")),
        io::ErrorKind::NotADirectory => Error::Invalid(format!("path is not a directory: {shown}")),
        _ if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
            Error::Precondition(format!("cyclic symlink or chain of too many links at '{shown}'"))
        }
        _ => Error::io(format!("resolving '{shown}'"), error),
    })
}

struct Listing<'a> {
    requested: &'a Path,
    root: &'a Path,
    depth: u32,
    /// Read so far, described or not.
    names: usize,
    bytes: usize,
}

impl Listing<'_> {
    fn run(mut self) -> Result<Vec<EntryInfo>, Error> {
        let mut describe = Describe::new();
        let mut entries = Vec::new();
        // The names still to come of each directory we are in, last first.
        let first = self.names(Path::new(""), 0).map_err(|failed| failed.into_error(self.root))?;
        let mut levels = vec![(PathBuf::new(), first)];
        while let Some((within, names)) = levels.last_mut() {
            let Some(name) = names.pop() else {
                levels.pop();
                continue;
            };
            let relative = within.join(name);
            let path = self.root.join(&relative);
            let entry = match describe.entry(&path, &self.requested.join(&relative)) {
                Ok(entry) => entry,
                // Removed since its name was read.
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(Failed::Io(error).into_error(&path)),
            };
            let descend = entry.permissions.starts_with('d')
                && levels.len() < usize::try_from(self.depth.max(1)).unwrap_or(usize::MAX);
            entries.push(entry);
            if descend {
                match self.names(&relative, relative.as_os_str().len()) {
                    Ok(names) => levels.push((relative, names)),
                    Err(Failed::Io(error)) if is_gone(&error) => {}
                    Err(failed) => return Err(failed.into_error(&path)),
                }
            }
        }
        Ok(entries)
    }

    fn names(&mut self, within: &Path, prefix: usize) -> Result<Vec<OsString>, Failed> {
        let mut names = Vec::new();
        let prefix = prefix + self.requested.as_os_str().len();
        for entry in fs::read_dir(self.root.join(within)).map_err(Failed::Io)? {
            let name = entry.map_err(Failed::Io)?.file_name();
            self.names += 1;
            self.bytes += prefix + name.len();
            if self.names > MAX_ENTRIES || self.bytes > MAX_PATHS {
                return Err(Failed::TooMany);
            }
            names.push(name);
        }
        names.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
        Ok(names)
    }
}

/// Of a process that has ended, /proc says "no such process".
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32)
}

enum Failed {
    Io(io::Error),
    TooMany,
}

impl Failed {
    fn into_error(self, path: &Path) -> Error {
        match self {
            Self::Io(error) => Error::io(format!("listing '{}'", path.display()), error),
            Self::TooMany => Error::Exhausted(format!(
                "more than {MAX_ENTRIES} entries at '{}': list its directories one by one, \
                 or with a smaller depth",
                path.display()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("root/b/deep/deeper")).unwrap();
        for file in ["root/a", "root/b/x", "root/b-", "root/c"] {
            fs::write(home.path().join(file), "x").unwrap();
        }
        symlink("b", home.path().join("root/link")).unwrap();
        home
    }

    fn paths(root: &Path, depth: u32) -> Vec<String> {
        let strip = |entry: EntryInfo| {
            Path::new(&entry.path).strip_prefix(root).unwrap().display().to_string()
        };
        list(root, depth).unwrap().into_iter().map(strip).collect()
    }

    #[test]
    fn each_directory_is_followed_by_its_own_entries_down_to_the_depth() {
        let home = tree();
        let root = home.path().join("root");
        let one = ["a", "b", "b-", "c", "link"];
        assert_eq!(paths(&root, 0), one);
        assert_eq!(paths(&root, 1), one);
        assert_eq!(paths(&root, 2), ["a", "b", "b/deep", "b/x", "b-", "c", "link"]);
        let all = ["a", "b", "b/deep", "b/deep/deeper", "b/x", "b-", "c", "link"];
        assert_eq!(paths(&root, 3), all);
        assert_eq!(paths(&root, u32::MAX), all);
    }

    #[test]
    fn a_link_as_root_is_followed_and_paths_stay_under_it() {
        let home = tree();
        let link = home.path().join("root/link");
        assert_eq!(paths(&link, 1), ["deep", "x"]);
    }

    #[test]
    fn what_cannot_be_listed_says_why() {
        let home = tree();
        symlink("loop", home.path().join("loop")).unwrap();
        let at = |name: &str| list(&home.path().join(name), 1).unwrap_err();
        assert!(matches!(at("root/a"), Error::Invalid(_)));
        assert!(matches!(at("root/a/b"), Error::Invalid(_)));
        assert!(matches!(at("nothing"), Error::NotFound(_)));
        assert!(matches!(at("loop"), Error::Precondition(_)));
    }

    #[test]
    fn too_many_entries_are_an_error_and_not_memory() {
        let home = tree();
        let root = home.path();
        let mut listing =
            Listing { requested: root, root, depth: 1, names: MAX_ENTRIES - 1, bytes: 0 };
        assert!(matches!(listing.names(Path::new("root"), 0), Err(Failed::TooMany)));
    }
}
