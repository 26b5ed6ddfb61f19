//! Who is who inside the sandbox: `/etc/passwd` and `/etc/group`, read by ourselves.
//!
//! envd is root in the sandbox and the sandbox is hostile, so it never asks the C library, whose
//! lookups load modules named by the sandbox's own configuration.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

/// One line of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

/// A user's name that nobody has.
#[derive(Debug, thiserror::Error)]
#[error("user: unknown user {0}")]
pub struct UnknownUser(pub String);

/// The two files as they are when this is made.
#[derive(Clone, Debug)]
pub struct Users {
    passwd: Arc<str>,
    group: Arc<str>,
}

/// More of either file is not read (bytes); it is the sandbox's own.
const MAX_FILE: u64 = 1 << 20;

/// A file that has changed more recently than this may change once more and look the same: the
/// clocks of file systems tick in up to two seconds.
const SETTLED: Duration = Duration::from_secs(3);

static PASSWD: Source = Source::new("/etc/passwd");
static GROUP: Source = Source::new("/etc/group");

/// One of the two files, looked at for each use: code inside may add users at any time.
struct Source<'a> {
    path: &'a str,
    last: Mutex<Option<Kept>>,
}

/// What was read last, for as long as the file is the same.
struct Kept {
    seen: Stamp,
    text: Arc<str>,
}

/// What differs when a file has been changed or replaced.
#[derive(PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &str) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let changed = u64::try_from(self.changed.0)
            .ok()
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        changed
            .and_then(|changed| now.duration_since(changed).ok())
            .is_some_and(|age| age > SETTLED)
    }
}

impl<'a> Source<'a> {
    const fn new(path: &'a str) -> Self {
        Self { path, last: Mutex::new(None) }
    }

    fn read(&self, now: SystemTime) -> Arc<str> {
        // Taken before the file is read: should it change in between, it looks new again.
        let seen = Stamp::of(self.path);
        if let Some(kept) = &*self.last.lock()
            && seen.as_ref() == Some(&kept.seen)
        {
            return kept.text.clone();
        }
        let text: Arc<str> = bounded(Path::new(self.path)).into();
        *self.last.lock() =
            seen.filter(|seen| seen.is_settled(now)).map(|seen| Kept { seen, text: text.clone() });
        text
    }
}

/// The user of that name.
///
/// # Errors
/// [`UnknownUser`] when no line of passwd has it.
pub fn find(name: &str) -> Result<User, UnknownUser> {
    find_in(&PASSWD.read(SystemTime::now()), name)
}

fn find_in(passwd: &str, name: &str) -> Result<User, UnknownUser> {
    passwd
        .lines()
        .filter(|line| line.split(':').next() == Some(name))
        .find_map(passwd_line)
        .ok_or_else(|| UnknownUser(name.to_owned()))
}

impl User {
    /// Its own, and the supplementary ones of group(5).
    pub fn groups(&self) -> Vec<u32> {
        self.groups_in(&GROUP.read(SystemTime::now()))
    }

    fn groups_in(&self, group: &str) -> Vec<u32> {
        let others = group
            .lines()
            .filter_map(group_line)
            .filter(|(_, gid, members)| {
                *gid != self.gid && members.split(',').any(|member| member == self.name)
            })
            .map(|(_, gid, _)| gid);
        [self.gid].into_iter().chain(others).collect()
    }
}

impl Users {
    pub fn read() -> Self {
        let now = SystemTime::now();
        Self { passwd: PASSWD.read(now), group: GROUP.read(now) }
    }

    /// The owner's name, or the number itself as `ls -l` does.
    pub fn user_name(&self, uid: u32) -> String {
        self.passwd
            .lines()
            .filter_map(passwd_line)
            .find(|user| user.uid == uid)
            .map_or_else(|| uid.to_string(), |user| user.name)
    }

    pub fn group_name(&self, gid: u32) -> String {
        self.group
            .lines()
            .filter_map(group_line)
            .find(|(_, number, _)| *number == gid)
            .map_or_else(|| gid.to_string(), |(name, _, _)| name.to_owned())
    }
}

/// The text of a regular file, or none: a pipe in its place would hold us up for ever.
fn bounded(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let found = file.metadata()?;
        let mut text = Vec::new();
        if found.is_file() {
            // A byte more than there is, so that the second read finds the end.
            text.reserve(usize::try_from(found.len().min(MAX_FILE)).unwrap_or(0) + 1);
            file.take(MAX_FILE).read_to_end(&mut text)?;
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    read().unwrap_or_default()
}

fn passwd_line(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?.to_owned();
    Some(User { name, uid, gid, home })
}

fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some((name, gid, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken\nuser:x:1000:1000::/home/user:/bin/bash\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:user\nuser:x:1000:user\n";

    fn users() -> Users {
        Users { passwd: PASSWD.into(), group: GROUP.into() }
    }

    #[test]
    fn a_user_has_a_home_and_groups() {
        let user = find_in(PASSWD, "user").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1000, 1000, "/home/user"));
        assert_eq!(user.groups_in(GROUP), [1000, 27]);
    }

    #[test]
    fn a_name_nobody_has_is_an_error() {
        let unknown = find_in(PASSWD, "broken").unwrap_err();
        assert_eq!(unknown.to_string(), "user: unknown user broken");
        assert!(find_in("::0:0:::\n", "").is_err());
    }

    #[test]
    fn a_pipe_in_place_of_the_file_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(bounded(&path), "");
    }

    #[test]
    fn numbers_become_names_where_there_is_one() {
        assert_eq!(users().user_name(1000), "user");
        assert_eq!(users().user_name(4711), "4711");
        assert_eq!(users().group_name(27), "sudo");
    }

    /// What the file says, asked so much later than now.
    fn asked(source: &Source<'_>, later: Duration) -> (Arc<str>, u32) {
        let text = source.read(SystemTime::now() + later);
        let uid = find_in(&text, "user").unwrap().uid;
        (text, uid)
    }

    #[test]
    fn a_file_is_read_once_until_it_is_another() {
        let (dir, later) = (tempfile::tempdir().unwrap(), 2 * SETTLED);
        let write = |name, uid| {
            let line = format!("user:x:{uid}:1000::/home/user:");
            fs::write(dir.path().join(name), line).unwrap();
        };
        let path = dir.path().join("passwd");
        let source = Source::new(path.to_str().unwrap());
        write("passwd", 1001);
        let (first, uid) = asked(&source, later);
        assert_eq!(uid, 1001);
        assert!(Arc::ptr_eq(&first, &asked(&source, later).0));
        // As useradd(8) does it.
        write("passwd+", 1002);
        fs::rename(dir.path().join("passwd+"), &path).unwrap();
        assert_eq!(asked(&source, later).1, 1002);
    }

    #[test]
    fn a_file_written_just_now_is_read_again_whatever_it_looks_like() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passwd");
        let source = Source::new(path.to_str().unwrap());
        for uid in 1001..1100 {
            fs::write(&path, format!("user:x:{uid}:1000::/home/user:")).unwrap();
            assert_eq!(asked(&source, Duration::ZERO).1, uid);
        }
    }

    proptest! {
        #[test]
        fn a_user_is_read_as_it_was_written(
            users in prop::collection::btree_map("[^:\\r\\n\\PC]{1,8}", (any::<u32>(), any::<u32>(), "[^:\\r\\n\\PC]{0,12}"), 1..6),
            groups in prop::collection::vec(any::<u32>(), 0..4),
        ) {
            let passwd: Vec<_> = users
                .iter()
                .map(|(name, (uid, gid, home))| format!("{name}:x:{uid}:{gid}:some,one:{home}:/bin/sh\n"))
                .collect();
            let (name, (uid, gid, home)) = users.first_key_value().unwrap();
            let group: Vec<_> = groups.iter().map(|gid| format!("g:x:{gid}:other,{name}\n")).collect();
            let found = find_in(&passwd.concat(), name).unwrap();
            prop_assume!(!name.contains(','));
            let expect: Vec<u32> = std::iter::once(*gid).chain(groups.into_iter().filter(|g| g != gid)).collect();
            prop_assert_eq!(found.groups_in(&group.concat()), expect);
            prop_assert_eq!(found, User { name: name.clone(), uid: *uid, gid: *gid, home: home.clone() });
        }

        #[test]
        fn whatever_the_files_say_only_the_name_asked_for_is_found(
            passwd in "[a-c:0-9x/\\r\n -]{0,80}",
            group in "[a-c:0-9x,\n -]{0,60}",
            name in "[a-c:]{0,2}",
        ) {
            if let Ok(user) = find_in(&passwd, &name) {
                prop_assert!(!name.is_empty() && !name.contains(':'));
                prop_assert_eq!(user.groups_in(&group)[0], user.gid);
                prop_assert_eq!(user.name, name);
            }
            let users = Users { passwd: passwd.into(), group: group.into() };
            let _ = (users.user_name(0), users.group_name(0));
        }
    }
}
