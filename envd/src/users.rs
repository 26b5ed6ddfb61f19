//! Who is who inside the sandbox: `/etc/passwd` and `/etc/group`, read by ourselves.
//!
//! envd is root in the sandbox and the sandbox is hostile, so it never asks the C library, whose
//! lookups load modules named by the sandbox's own configuration.

use std::{
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

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

/// The two files, read anew for each use: code inside may add users at any time.
#[derive(Clone, Debug, Default)]
pub struct Users {
    passwd: String,
    group: String,
}

/// More of either file is not read (bytes); it is the sandbox's own.
const MAX_FILE: u64 = 1 << 20;

impl Users {
    pub fn read() -> Self {
        Self { passwd: bounded(Path::new("/etc/passwd")), group: bounded(Path::new("/etc/group")) }
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
