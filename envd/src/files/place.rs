//! Where an upload goes: its target, and the file beside it that grows until it is whole. Blocking.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek as _, Write as _},
    os::unix::fs::{
        FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    filesystem::{
        metadata::{self, Metadata},
        tree,
    },
    users::User,
};

/// What the name of a file begins with that is not whole yet.
const PARTIAL: &str = ".e2b-upload-";

/// Links that lead to links, before that is thought to be endless.
const MAX_LINKS: usize = 40;

/// Of an upload that finds its file gone, or another in its place, whenever its turn comes.
const MAX_TRIES: usize = 16;

/// One for each file that is written in place, and some more that are so by chance.
static TURNS: [Mutex<()>; 16] = [const { Mutex::new(()) }; 16];

/// Longer than any disk takes; what lies on a file system of the user's own may never be written.
const TURN: Duration = Duration::from_secs(5);

/// Whether this is the name of an upload that is not whole yet, which watchers need not know.
pub(crate) fn is_partial(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PARTIAL.as_bytes()))
}

/// The name a file is to have, which may have one now.
pub(super) struct Target {
    path: PathBuf,
    found: Option<fs::Metadata>,
}

impl Target {
    /// Follows links, also to what is not there, and makes the directories above.
    pub(super) fn find(path: PathBuf, user: &User) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            tree::ensure_dirs(parent, user)?;
        }
        let mut path = path;
        for _ in 0..MAX_LINKS {
            let found = match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                found => Some(found?),
            };
            match found {
                Some(found) if found.is_symlink() => {
                    let target = fs::read_link(&path)?;
                    path = path.parent().unwrap_or(Path::new("/")).join(target);
                }
                Some(found) if found.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
                Some(found) if !found.is_file() => return Err(io::ErrorKind::InvalidInput.into()),
                found => return Ok(Self { path, found }),
            }
        }
        Err(nix::errno::Errno::ELOOP.into())
    }

    /// Writes the whole content at once. Should the disk be full, a file that was there keeps its
    /// own content: what it has to grow by comes first. Whether there was none is returned.
    pub(super) fn write(
        self,
        content: &[u8],
        user: &User,
        metadata: &Metadata,
    ) -> io::Result<bool> {
        let mut target = self;
        for _ in 0..MAX_TRIES {
            let path = target.path.clone();
            match target.open() {
                Ok(opened) => {
                    if let Written::Whole { created } = opened.write(content, user, metadata)? {
                        return Ok(created);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            target = Self::find(path, user)?;
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn open(self) -> io::Result<Opened> {
        // Should a pipe have come in its place, opening does not wait for the other end.
        let flags = nix::fcntl::OFlag::O_NONBLOCK
            | nix::fcntl::OFlag::O_NOCTTY
            | nix::fcntl::OFlag::O_NOFOLLOW;
        let mut options = OpenOptions::new();
        options.write(true).mode(0o644).custom_flags(flags.bits());
        options.create(self.found.is_none()).truncate(false);
        let file = options.open(&self.path)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Opened { file, found, may_be_new: self.found.is_none(), path: self.path })
    }

    /// Begins a file beside it.
    pub(super) fn begin(self) -> io::Result<Partial> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("{PARTIAL}{:016x}", u64::from_ne_bytes(random));
        let path = self.path.parent().unwrap_or(Path::new("/")).join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let unfinished = Unfinished::new(true, path, &file.metadata()?);
        Ok(Partial { file, target: self, unfinished })
    }
}

/// A file that is to be written in place.
struct Opened {
    file: File,
    found: fs::Metadata,
    path: PathBuf,
    /// It was not there when it was looked for; another upload may have made it since.
    may_be_new: bool,
}

enum Written {
    Whole {
        created: bool,
    },
    /// Nothing was: the name is no longer that of this file.
    Moved,
}

impl Opened {
    fn write(self, content: &[u8], user: &User, metadata: &Metadata) -> io::Result<Written> {
        let Self { file, found, path, may_be_new } = self;
        // Of several at once one is to be there in the end, and not some of each.
        let _turn = turn(&found);
        // One that failed has taken along what it made.
        if !is_named(&path, identity(&found)) {
            return Ok(Written::Moved);
        }
        let length = file.metadata()?.len();
        // One that was whole is not to be taken along.
        let created = may_be_new && length == 0;
        let unfinished = Unfinished::new(created, path, &found);
        match overwrite(&file, length, content).and_then(|()| dress(&file, user, metadata)) {
            Ok(()) => unfinished.keep(),
            // Before the client is told.
            Err(error) => {
                unfinished.discard();
                return Err(error);
            }
        }
        Ok(Written::Whole { created })
    }
}

/// A file that is not whole yet.
pub(super) struct Partial {
    file: File,
    target: Target,
    unfinished: Unfinished,
}

impl Partial {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Gives it its name, and the rights of what had that before. Whether nothing had is returned.
    pub(super) fn finish(mut self, user: &User, metadata: &Metadata) -> io::Result<bool> {
        dress(&self.file, user, metadata)?;
        let mode = self.target.found.as_ref().map_or(0o644, fs::Metadata::mode) & 0o777;
        self.file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(self.unfinished.path(), &self.target.path)?;
        self.unfinished.keep();
        // Who watches the name is to learn that it was written, as of any other write.
        let length = self.file.stream_position()?;
        self.file.set_len(length)?;
        Ok(self.target.found.is_none())
    }
}

/// Held by whoever writes that file; others wait, though not for ever.
fn turn(found: &fs::Metadata) -> Option<MutexGuard<'static, ()>> {
    let turns = TURNS.len() as u64;
    let turn = usize::try_from(found.ino() % turns).unwrap_or_default();
    TURNS[turn].try_lock_for(TURN)
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Whether the file of that name is that one.
fn is_named(path: &Path, file: (u64, u64)) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == file)
}

fn overwrite(file: &File, length: u64, content: &[u8]) -> io::Result<()> {
    let before = usize::try_from(length).unwrap_or(usize::MAX).min(content.len());
    if let Err(error) = file.write_all_at(&content[before..], before as u64) {
        // What could not be undone is not what the client has to know.
        let _ = file.set_len(length);
        return Err(error);
    }
    file.write_all_at(&content[..before], 0)?;
    if length >= content.len() as u64 {
        file.set_len(content.len() as u64)?;
    }
    Ok(())
}

fn dress(file: &File, user: &User, metadata: &Metadata) -> io::Result<()> {
    fchown(file, Some(user.uid), Some(user.gid))?;
    metadata::replace(file, metadata)
}

/// A new file that is not whole yet. Dropped with the upload, it takes the file along.
struct Unfinished(Option<New>);

struct New {
    path: PathBuf,
    identity: (u64, u64),
}

impl Unfinished {
    fn new(is_new: bool, path: PathBuf, found: &fs::Metadata) -> Self {
        Self(is_new.then(|| New { path, identity: identity(found) }))
    }

    fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), |new| &new.path)
    }

    fn keep(mut self) {
        self.0 = None;
    }

    /// Where blocking is allowed.
    fn discard(mut self) {
        if let Some(new) = self.0.take() {
            new.remove();
        }
    }
}

impl New {
    fn remove(&self) {
        // Somebody may have put another file there.
        if is_named(&self.path, self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        let Some(new) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || new.remove())),
            Err(_) => new.remove(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        me: User,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (uid, gid) = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
            let home = dir.path().to_str().unwrap().to_owned();
            Self { dir, me: User { name: "me".into(), uid, gid, home } }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("new")
        }

        fn open(&self) -> Opened {
            Target { path: self.path(), found: None }.open().unwrap()
        }

        fn write(&self, opened: Opened, content: &str) -> Written {
            opened.write(content.as_bytes(), &self.me, &Metadata::default()).unwrap()
        }

        /// No file system takes metadata as long as that.
        fn fail(&self, opened: Opened) {
            let metadata = Metadata::from([("key".to_owned(), "x".repeat(1 << 20))]);
            assert!(opened.write(b"of the one that fails", &self.me, &metadata).is_err());
        }
    }

    #[test]
    fn an_upload_that_fails_leaves_what_another_made_meanwhile() {
        let place = Place::new();
        let (first, second) = (place.open(), place.open());
        assert!(matches!(place.write(first, "whole"), Written::Whole { .. }));
        place.fail(second);
        assert!(place.path().exists());
        let (first, second) = (place.open(), place.open());
        assert!(matches!(place.write(second, "whole"), Written::Whole { .. }));
        place.fail(first);
        assert!(place.path().exists());
    }

    #[test]
    fn an_upload_whose_file_another_took_along_starts_over() {
        let place = Place::new();
        let (first, second) = (place.open(), place.open());
        place.fail(first);
        assert!(!place.path().exists());
        assert!(matches!(place.write(second, "lost"), Written::Moved));
        // So does one that found it, and comes too late to open it.
        fs::write(place.path(), "there").unwrap();
        let target = Target::find(place.path(), &place.me).unwrap();
        fs::remove_file(place.path()).unwrap();
        target.write(b"whole", &place.me, &Metadata::default()).unwrap();
        assert_eq!(fs::read_to_string(place.path()).unwrap(), "whole");
    }
}
