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

/// One line of passwd(5), with the supplementary groups of group(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    /// Includes `gid`.
    pub groups: Vec<u32>,
}

/// A user's name that nobody has.
#[derive(Debug, thiserror::Error)]
#[error("user: unknown user {0}")]
pub struct UnknownUser(pub String);

/// The two files, looked at for each use: code inside may add users at any time.
#[derive(Clone, Debug, Default)]
pub struct Users {
    passwd: String,
    group: String,
}

/// More of either file is not read (bytes); it is the sandbox's own.
const MAX_FILE: u64 = 1 << 20;

/// A file that has changed more recently than this may change once more and look the same: the
/// clocks of file systems tick in up to two seconds.
const SETTLED: Duration = Duration::from_secs(3);

static LAST: Mutex<Option<Kept>> = Mutex::new(None);

/// What was read last, for as long as the files are the same.
struct Kept {
    seen: [Stamp; 2],
    users: Arc<Users>,
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

impl Users {
    pub fn read() -> Arc<Self> {
        Self::read_from(["/etc/passwd", "/etc/group"], &LAST, SystemTime::now())
    }

    fn read_from(files: [&str; 2], last: &Mutex<Option<Kept>>, now: SystemTime) -> Arc<Self> {
        // Taken before the files are read: should they change in between, they look new again.
        let [passwd, group] = files.map(Stamp::of);
        let seen = passwd.zip(group).map(|(passwd, group)| [passwd, group]);
        if let Some(kept) = &*last.lock()
            && seen.as_ref() == Some(&kept.seen)
        {
            return kept.users.clone();
        }
        let [passwd, group] = files.map(|file| bounded(Path::new(file)));
        let users = Arc::new(Self { passwd, group });
        *last.lock() = seen
            .filter(|seen| seen.iter().all(|stamp| stamp.is_settled(now)))
            .map(|seen| Kept { seen, users: users.clone() });
        users
    }

    /// # Errors
    /// [`UnknownUser`] when no line of passwd has that name.
    pub fn find(&self, name: &str) -> Result<User, UnknownUser> {
        self.passwd
            .lines()
            .filter_map(passwd_line)
            .find(|user| user.name == name)
            .map(|mut user| {
                user.groups.extend(self.groups_of(name).filter(|gid| *gid != user.gid));
                user
            })
            .ok_or_else(|| UnknownUser(name.to_owned()))
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

    fn groups_of<'a>(&'a self, user: &'a str) -> impl Iterator<Item = u32> + 'a {
        self.group
            .lines()
            .filter_map(group_line)
            .filter(move |(_, _, members)| members.split(',').any(|member| member == user))
            .map(|(_, gid, _)| gid)
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
    Some(User { name, uid, gid, home, groups: vec![gid] })
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

    fn users() -> Users {
        Users {
            passwd:
                "root:x:0:0:root:/root:/bin/bash\nbroken\nuser:x:1000:1000::/home/user:/bin/bash\n"
                    .into(),
            group: "root:x:0:\nsudo:x:27:user\nuser:x:1000:user\n".into(),
        }
    }

    #[test]
    fn a_user_comes_with_home_and_groups() {
        let user = users().find("user").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1000, 1000, "/home/user"));
        assert_eq!(user.groups, [1000, 27]);
    }

    #[test]
    fn a_name_nobody_has_is_an_error() {
        assert_eq!(users().find("broken").unwrap_err().to_string(), "user: unknown user broken");
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

    /// The user's number as the two files tell it, asked so much later than now.
    fn asked(dir: &Path, last: &Mutex<Option<Kept>>, later: Duration) -> (Arc<Users>, u32) {
        let files = ["passwd", "group"].map(|name| dir.join(name).to_str().unwrap().to_owned());
        let now = SystemTime::now() + later;
        let users = Users::read_from([&files[0], &files[1]], last, now);
        let uid = users.find("user").unwrap().uid;
        (users, uid)
    }

    #[test]
    fn files_are_read_once_until_they_are_others() {
        let (dir, last, later) = (tempfile::tempdir().unwrap(), Mutex::new(None), 2 * SETTLED);
        let write = |name, uid| {
            fs::write(dir.path().join(name), format!("user:x:{uid}:1000::/home/user:")).unwrap();
        };
        write("passwd", 1001);
        write("group", 1000);
        let (first, uid) = asked(dir.path(), &last, later);
        assert_eq!(uid, 1001);
        assert!(Arc::ptr_eq(&first, &asked(dir.path(), &last, later).0));
        // As useradd(8) does it.
        write("passwd+", 1002);
        fs::rename(dir.path().join("passwd+"), dir.path().join("passwd")).unwrap();
        assert_eq!(asked(dir.path(), &last, later).1, 1002);
    }

    #[test]
    fn files_written_just_now_are_read_again_whatever_they_look_like() {
        let (dir, last) = (tempfile::tempdir().unwrap(), Mutex::new(None));
        fs::write(dir.path().join("group"), "").unwrap();
        for uid in 1001..1100 {
            let line = format!("user:x:{uid}:1000::/home/user:");
            fs::write(dir.path().join("passwd"), line).unwrap();
            assert_eq!(asked(dir.path(), &last, Duration::ZERO).1, uid);
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
            let found = Users { passwd: passwd.concat(), group: group.concat() }.find(name);
            prop_assume!(!name.contains(','));
            let expect: Vec<u32> = std::iter::once(*gid).chain(groups.into_iter().filter(|g| g != gid)).collect();
            prop_assert_eq!(
                found.unwrap(),
                User { name: name.clone(), uid: *uid, gid: *gid, home: home.clone(), groups: expect }
            );
        }

        #[test]
        fn whatever_the_files_say_only_the_name_asked_for_is_found(
            passwd in "[a-c:0-9x/\\r\n -]{0,80}",
            group in "[a-c:0-9x,\n -]{0,60}",
            name in "[a-c:]{0,2}",
        ) {
            let users = Users { passwd, group };
            if let Ok(user) = users.find(&name) {
                prop_assert!(!name.is_empty() && !name.contains(':'));
                prop_assert_eq!(user.name, name);
                prop_assert_eq!(user.groups[0], user.gid);
            }
            let _ = (users.user_name(0), users.group_name(0));
        }
    }
}
