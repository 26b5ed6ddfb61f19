//! The data directory: private, of a bounded length, and used by one gateway at a time.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{sys::signal::kill, unistd::Pid};

/// `sockaddr_un.sun_path` where it is shortest, the closing NUL included.
const SUN_PATH: usize = 104;
/// The longest of the sockets below a data directory.
const LONGEST_SOCKET: &str = "/sandboxes/00000000000000000000000000000000/tunnel.sock";

/// How long a gateway may take from locking to writing its id, and how often that is looked for.
const SETTLES: Duration = Duration::from_millis(50);
const TRIES: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "data-dir {} is too long: a unix socket below it may have 103 bytes, so it may have {}, \
         and has {}", path.display(), longest(), path.as_os_str().len()
    )]
    TooLong { path: PathBuf },
    #[error(
        "data-dir {} is used by another gateway{}: stop that one, or use another directory",
        path.display(), pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse { path: PathBuf, pid: Option<Pid> },
}

const fn longest() -> usize {
    SUN_PATH - 1 - LONGEST_SOCKET.len()
}

/// Nobody else uses it while this exists.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked by flock(2), and holds our process id.
    lock: File,
}

impl DataDir {
    /// Makes what is missing and claims it.
    pub fn claim(path: &Path) -> Result<Self, Error> {
        make_private(path)?;
        let path = path.canonicalize().map_err(failed("cannot resolve", path))?;
        if path.as_os_str().len() > longest() {
            return Err(Error::TooLong { path });
        }
        let lock = lock(&path)?;
        for name in ["sandboxes", "trash"] {
            make_private(&path.join(name))?;
        }
        Ok(Self { path, lock })
    }

    /// Absolute, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // So that our id, when it is another process's, misleads nobody; harmless if it fails.
        let _ = self.lock.set_len(0);
    }
}

/// The gateway that uses `path` at present.
pub fn user(path: &Path) -> Result<Option<Pid>, Error> {
    let path = path.join("lock");
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("cannot open", &path)(e)),
    };
    let mut text = String::new();
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(None),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(failed("cannot lock", &path)(e)),
        }
        // Its holder writes its id right after locking, and wipes it right before letting go:
        // what stands there after a while is a holder's, or the lock is free the next time.
        thread::sleep(SETTLES);
        text.clear();
        file.rewind().map_err(failed("cannot read", &path))?;
        file.read_to_string(&mut text).map_err(failed("cannot read", &path))?;
        match text.trim().parse() {
            Ok(pid) if pid > 1 && kill(Pid::from_raw(pid), None).is_ok() => {
                return Ok(Some(Pid::from_raw(pid)));
            }
            _ => {}
        }
    }
    let source = io::Error::other(format!("no gateway is process {:?}", text.trim()));
    Err(failed("locked, but not by a gateway of this host:", &path)(source))
}

fn make_private(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("cannot make", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(failed("cannot make private", path))
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("cannot open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Error::InUse { path: dir.to_owned(), pid: user(dir)? });
        }
        Err(TryLockError::Error(e)) => return Err(failed("cannot lock", &path)(e)),
    }
    file.set_len(0).map_err(failed("cannot write", &path))?;
    writeln!(file, "{}", std::process::id()).map_err(failed("cannot write", &path))?;
    Ok(file)
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_directory_is_private_and_has_what_is_needed() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let path = dir.path().join("a/b");
        let claimed = DataDir::claim(&path).unwrap();
        assert!(claimed.path().join("sandboxes").is_dir());
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn a_directory_has_one_user_at_a_time_and_names_it() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        assert_eq!(user(dir.path()).unwrap(), None);
        let claimed = DataDir::claim(dir.path()).unwrap();
        assert_eq!(user(dir.path()).unwrap(), Some(Pid::this()));
        let error = DataDir::claim(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(claimed);
        assert_eq!(user(dir.path()).unwrap(), None);
        DataDir::claim(dir.path()).unwrap();
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_with_the_length_it_may_have() {
        assert_eq!(longest(), 48);
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let long = dir.path().join("x".repeat(48));
        let error = DataDir::claim(&long).unwrap_err().to_string();
        assert!(error.contains("it may have 48") && error.contains("data-dir"), "{error}");
    }
}
