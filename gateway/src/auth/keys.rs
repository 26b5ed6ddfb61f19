//! The keys that are let in now, and where they come from.
//!
//! In memory there are only hashes, and a key is found by its own: nothing that was presented is
//! ever compared with a key. What the time of a look-up may tell is of hashes of 160 bits that
//! nobody can guess, and leads back to none of them.

use std::{
    collections::{HashMap, HashSet},
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt};
use parking_lot::RwLock;
use tokio::time::sleep;

use super::{
    Caller,
    caller::Grant,
    file::{self, Invalid},
};
use crate::stamp::Stamp;

/// Of a key, by which it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Hash(pub(super) [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blake3:{}", hex::encode(self.0))
    }
}

pub(super) fn hash(key: &str) -> Hash {
    Hash(*blake3::hash(key.as_bytes()).as_bytes())
}

/// What is known of a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    caller: Caller,
    expires: Option<DateTime<Utc>>,
}

impl Known {
    pub(super) fn new(grant: Grant, expires: Option<DateTime<Utc>>) -> Self {
        Self { caller: Caller(Arc::new(grant)), expires }
    }

    pub(super) fn is_good(&self, now: DateTime<Utc>) -> bool {
        self.expires.is_none_or(|end| now < end)
    }

    #[cfg(test)]
    pub(super) fn grant(&self) -> &Grant {
        &self.caller.0
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) HashMap<Hash, Known>);

/// The keys that are let in; clones share them.
#[derive(Clone)]
pub struct Keys(Arc<Shared>);

struct Shared {
    /// There are none, and whoever comes is let in.
    open: bool,
    file: Option<Watched>,
    /// Of this process's environment: for good.
    fixed: Table,
    current: RwLock<Table>,
}

struct Watched {
    path: PathBuf,
    /// Of what was read first.
    opened: Option<Stamp>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Invalid { path: PathBuf, source: Invalid },
    #[error("there is no key in {}", .0.display())]
    NoKey(PathBuf),
}

/// Why nobody is let in by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Unknown,
    /// It was good once.
    Expired,
}

impl Keys {
    /// Keys a line, each good for anything; without one, everybody is let in.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let fixed = file::plain(text)?;
        let open = fixed.0.is_empty();
        Ok(Self(Arc::new(Shared { open, file: None, fixed, current: RwLock::default() })))
    }

    /// These, and those of a file.
    pub fn with_file(self, path: &Path) -> Result<Self, Error> {
        let opened = Stamp::of(path);
        let current = read(path)?;
        if current.0.is_empty() {
            return Err(Error::NoKey(path.to_owned()));
        }
        let file = Some(Watched { path: path.to_owned(), opened });
        let (fixed, current) = (self.0.fixed.clone(), RwLock::new(current));
        Ok(Self(Arc::new(Shared { open: false, file, fixed, current })))
    }

    /// Without any configured, every key is let in.
    pub fn is_open(&self) -> bool {
        self.0.open
    }

    pub fn admit(&self, key: &str, now: DateTime<Utc>) -> Result<Caller, Refused> {
        if self.0.open {
            return Ok(Caller::default());
        }
        let presented = hash(key);
        let found = self.0.fixed.0.get(&presented).cloned();
        let found = found.or_else(|| self.0.current.read().0.get(&presented).cloned());
        let found = found.ok_or(Refused::Unknown)?;
        if found.is_good(now) { Ok(found.caller) } else { Err(Refused::Expired) }
    }

    /// Takes up what is in the file now; what makes no sense leaves everything as it was.
    ///
    /// # Errors
    /// [`Error::Io`] when nobody knows what is in it: it is to be read again.
    fn reload(&self) -> Result<(), Error> {
        let Some(Watched { path, .. }) = &self.0.file else { return Ok(()) };
        let table = match read(path) {
            Ok(table) => table,
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "the API keys stay as they were");
                return Ok(());
            }
        };
        let keys = table.0.len();
        let tenants: HashSet<_> = table.0.values().map(|known| known.caller.tenant()).collect();
        let (tenants, file) = (tenants.len(), path.display().to_string());
        if keys == 0 {
            tracing::warn!(file, "there is no API key in the file: by it nobody is let in");
        } else {
            tracing::info!(file, keys, tenants, "API keys taken up");
        }
        *self.0.current.write() = table;
        Ok(())
    }

    /// Reloads when `asked` and, looking at the file `every` so often, when it has changed and
    /// stayed as it is for one look. What cannot be read is tried again at each look.
    pub async fn follow(&self, every: Duration, mut asked: impl Stream<Item = ()> + Unpin) {
        let Some(Watched { path, opened }) = &self.0.file else { return };
        let mut looks = Looks { taken: *opened, before: *opened, failing: false };
        loop {
            let told = tokio::select! {
                Some(()) = asked.next() => true,
                () = sleep(every) => false,
            };
            looks.look(told, Stamp::of(path), || self.reload());
        }
    }
}

/// At a file that may change at any time.
struct Looks<T> {
    /// What it was when it was read last,
    taken: T,
    /// and when it was looked at last.
    before: T,
    /// It could not be read then, and that was said.
    failing: bool,
}

impl<T: Copy + PartialEq> Looks<T> {
    fn look(&mut self, told: bool, now: T, reload: impl FnOnce() -> Result<(), Error>) {
        if told || self.failing || (now != self.taken && now == self.before) {
            match reload() {
                Ok(()) => (self.taken, self.failing) = (now, false),
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        let what = "the API keys stay as they were until the file can be read";
                        tracing::error!(%error, "{what}");
                    }
                }
            }
        }
        self.before = now;
    }
}

fn read(path: &Path) -> Result<Table, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    // What is no text makes no sense, in whatever line it stands.
    let text = String::from_utf8_lossy(&bytes);
    file::read(&text).map_err(|source| Error::Invalid { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::auth::edit::{New, revoke};

    const PLAIN: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

    fn admits(keys: &Keys, key: &str) -> Result<String, Refused> {
        keys.admit(key, Utc::now()).map(|caller| caller.tenant().to_string())
    }

    #[test]
    fn without_any_key_every_key_is_let_in_and_with_one_no_other() {
        let open = Keys::parse("# nothing\n").unwrap();
        assert!(open.is_open());
        assert_eq!(admits(&open, "anything"), Ok("default".to_owned()));
        let keys = Keys::parse(PLAIN).unwrap();
        assert!(!keys.is_open() && admits(&keys, PLAIN).is_ok());
        for wrong in ["", "e2b_", &PLAIN[..20], &PLAIN.to_uppercase()] {
            assert_eq!(admits(&keys, wrong), Err(Refused::Unknown), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_a_key_is_refused_at_first_and_later_lets_nobody_in() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let keys = || Keys::parse("").unwrap().with_file(file.path());
        assert!(matches!(keys(), Err(Error::NoKey(_))));
        let mut text = String::new();
        let key =
            New { tenant: "acme".parse().unwrap(), ..New::default() }.add_to(&mut text).unwrap();
        fs::write(file.path(), &text).unwrap();
        let keys = keys().unwrap();
        assert_eq!(admits(&keys, &key.secret), Ok("acme".to_owned()));
        fs::write(file.path(), revoke(&text, &key.id, Utc::now()).unwrap()).unwrap();
        keys.reload().unwrap();
        assert_eq!(admits(&keys, &key.secret), Err(Refused::Unknown));
        assert!(!keys.is_open());
    }

    #[test]
    fn a_key_is_good_until_it_expires() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut text = String::new();
        let end = Utc::now() + chrono::Duration::hours(1);
        let key = New { expires: Some(end), ..New::default() }.add_to(&mut text).unwrap();
        fs::write(file.path(), &text).unwrap();
        let keys = Keys::parse("").unwrap().with_file(file.path()).unwrap();
        assert!(keys.admit(&key.secret, Utc::now()).is_ok());
        assert_eq!(keys.admit(&key.secret, end).err(), Some(Refused::Expired));
    }

    #[test]
    fn what_could_not_be_read_is_tried_again_and_what_makes_no_sense_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), PLAIN).unwrap();
        let keys = Keys::parse("").unwrap().with_file(file.path()).unwrap();
        let failed = || -> Result<(), Error> {
            let source = io::Error::other("too many open files");
            Err(Error::Io { path: PathBuf::new(), source })
        };
        let mut looks = Looks { taken: 1, before: 1, failing: false };
        let mut tries = 0;
        let mut look = |now, result: &dyn Fn() -> Result<(), Error>| {
            looks.look(false, now, || {
                tries += 1;
                result()
            });
            tries
        };
        assert_eq!(look(2, &failed), 0, "it may be being written");
        assert_eq!([look(2, &failed), look(2, &failed)], [1, 2]);
        assert_eq!([look(2, &|| Ok(())), look(2, &failed)], [3, 3]);
        fs::write(file.path(), b"e2b_\xff").unwrap();
        assert_eq!([look(3, &failed), look(3, &|| keys.reload()), look(3, &failed)], [3, 4, 4]);
        assert!(admits(&keys, PLAIN).is_ok());
    }

    #[tokio::test]
    async fn a_file_that_changes_is_taken_up_and_one_that_makes_no_sense_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), PLAIN).unwrap();
        let keys = Keys::parse("").unwrap().with_file(file.path()).unwrap();
        let followed = keys.clone();
        let look = Duration::from_millis(2);
        let _following = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            followed.follow(look, stream::pending()).await;
        }));
        let mut text = String::new();
        let key = New::default().add_to(&mut text).unwrap();
        let until = async |wanted: Result<(), Refused>| {
            let reached = async {
                while admits(&keys, &key.secret).map(drop) != wanted {
                    sleep(look).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), reached).await.expect("so in time");
        };
        fs::write(file.path(), &text).unwrap();
        until(Ok(())).await;
        assert_eq!(admits(&keys, PLAIN), Err(Refused::Unknown));
        for broken in ["[[key]]\n", "e2b_0"] {
            fs::write(file.path(), broken).unwrap();
            keys.reload().unwrap();
            assert!(admits(&keys, &key.secret).is_ok(), "{broken}");
        }
        fs::remove_file(file.path()).unwrap();
        assert!(matches!(keys.reload(), Err(Error::Io { .. })));
        assert!(admits(&keys, &key.secret).is_ok());
        fs::write(file.path(), PLAIN).unwrap();
        until(Err(Refused::Unknown)).await;
    }
}
