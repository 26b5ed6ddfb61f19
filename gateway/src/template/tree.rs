//! A finished root file system as a whole: its name by content, and its removal.

use std::{
    fs::{self, File},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use blake3::Hasher;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{call} {path}: {source}")]
    Io { call: &'static str, path: PathBuf, source: io::Error },
    #[error("{0} is neither a file, a directory nor a symbolic link")]
    Kind(PathBuf),
    #[error(
        "{0} is a link, which could lead out of the root file system: make it a directory or a \
         file there, and build again"
    )]
    Link(PathBuf),
    #[error("{0} is not there, so this is no root file system")]
    NoRoot(PathBuf),
}

pub(super) fn failed(
    call: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { call, path, source }
}

/// The content of a root file system in 64 hex digits: path, kind, mode, owner, link target and
/// bytes of everything in it. Times do not count, so two builds from the same packages agree.
pub(super) fn digest(root: &Path) -> Result<String, Error> {
    let mut hasher = Hasher::new();
    add(&mut hasher, root, Path::new(""))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn add(hasher: &mut Hasher, root: &Path, relative: &Path) -> Result<(), Error> {
    let path = if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(relative) };
    let meta = fs::symlink_metadata(&path).map_err(failed("stat", &path))?;
    let kind = meta.file_type();

    field(hasher, relative.as_os_str().as_bytes());
    for number in [meta.mode(), meta.uid(), meta.gid()] {
        hasher.update(&number.to_le_bytes());
    }
    if kind.is_symlink() {
        let target = fs::read_link(&path).map_err(failed("readlink", &path))?;
        field(hasher, target.as_os_str().as_bytes());
    } else if kind.is_file() {
        hasher.update(&meta.len().to_le_bytes());
        let file = File::open(&path).map_err(failed("open", &path))?;
        hasher.update_reader(file).map_err(failed("read", &path))?;
    } else if kind.is_dir() {
        let mut names = fs::read_dir(&path)
            .and_then(|entries| {
                entries.map(|e| e.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()
            })
            .map_err(failed("list", &path))?;
        names.sort_unstable();
        for name in names {
            add(hasher, root, &relative.join(name))?;
        }
    } else {
        return Err(Error::Kind(path));
    }
    Ok(())
}

/// With its length in front, so that no two sequences of fields read the same.
fn field(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

/// Makes a directory that everyone may read, whatever the gateway's own mask.
pub(super) fn make_dir(dir: &Path) -> Result<(), Error> {
    if !dir.is_dir() {
        fs::create_dir(dir).map_err(failed("make", dir))?;
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir, open).map_err(failed("chmod", dir))?;
    }
    Ok(())
}

/// Replaces a file; a link in its place is not followed, since a tree's links mean paths of the
/// sandbox.
pub(super) fn write(path: &Path, mode: u32, content: impl AsRef<[u8]>) -> Result<(), Error> {
    remove(path)?;
    fs::write(path, content).map_err(failed("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("chmod", path))
}

/// Removes what is in a directory, and makes the directory if there is none.
pub(super) fn empty(dir: &Path) -> Result<(), Error> {
    make_dir(dir)?;
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        remove(&entry.map_err(failed("list", dir))?.path())?;
    }
    Ok(())
}

/// Removes a file or a whole tree; nothing there is fine.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn small_root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        symlink("usr/bin", dir.path().join("bin")).unwrap();
        dir
    }

    #[test]
    fn the_same_tree_has_the_same_digest_whenever_it_was_made() {
        let (one, two) = (small_root(), small_root());
        let old = File::options().write(true).open(two.path().join("etc/passwd")).unwrap();
        old.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(digest(one.path()).unwrap(), digest(two.path()).unwrap());
        assert_eq!(digest(one.path()).unwrap().len(), 64);
    }

    #[test]
    fn every_change_gives_another_digest() {
        let before = digest(small_root().path()).unwrap();
        let changes: [fn(&Path); 5] = [
            |root| fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/zs\n").unwrap(),
            |root| fs::write(root.join("etc/empty"), "").unwrap(),
            |root| fs::rename(root.join("etc/passwd"), root.join("etc/shadow")).unwrap(),
            |root| {
                let mode = fs::Permissions::from_mode(0o4755);
                fs::set_permissions(root.join("etc/passwd"), mode).unwrap();
            },
            |root| {
                fs::remove_file(root.join("bin")).unwrap();
                symlink("usr/sbin", root.join("bin")).unwrap();
            },
        ];
        for (index, change) in changes.iter().enumerate() {
            let root = small_root();
            change(root.path());
            assert_ne!(digest(root.path()).unwrap(), before, "change {index}");
        }
    }

    #[test]
    fn sockets_and_devices_have_no_place_in_a_layer() {
        let root = small_root();
        let _listener =
            std::os::unix::net::UnixListener::bind(root.path().join("etc/socket")).unwrap();
        assert!(matches!(digest(root.path()), Err(Error::Kind(_))));
    }

    #[test]
    fn removing_follows_no_links_and_does_not_mind_what_is_gone() {
        let root = small_root();
        let outside = small_root();
        symlink(outside.path(), root.path().join("etc/link")).unwrap();
        empty(&root.path().join("etc")).unwrap();
        assert_eq!(fs::read_dir(root.path().join("etc")).unwrap().count(), 0);
        assert!(outside.path().join("etc/passwd").exists());
        remove(&root.path().join("nothing")).unwrap();
    }
}
