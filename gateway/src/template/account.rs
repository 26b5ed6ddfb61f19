//! The user that commands run as, in the account files of a root file system.
//!
//! A root may come from anywhere, so nothing here follows a link in it. Debian's files are text and
//! changed as such; FreeBSD's have databases beside them, which `pw(8)` keeps.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    recipe::{Error, ON_FREEBSD},
    tool::Tool,
    tree::{self, failed},
};

/// Its name, and the number it has where that is free.
pub(super) const USER: &str = "user";
const UID: u32 = 1000;

/// A path in `root` of which no part is a link; `None` where there is nothing.
pub(super) fn plain(root: &Path, path: &str) -> Result<Option<PathBuf>, tree::Error> {
    let mut whole = root.to_owned();
    for part in path.split('/') {
        whole.push(part);
        match fs::symlink_metadata(&whole) {
            Ok(meta) if meta.is_symlink() => return Err(tree::Error::Link(whole)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("stat", &whole)(error)),
        }
    }
    Ok(Some(whole))
}

/// Sees to it that a root has the user, with a home.
pub(super) fn ensure(root: &Path, dir: &Path, stop: &CancellationToken) -> Result<(), Error> {
    let Some(passwd) = plain(root, "etc/passwd")? else {
        return Err(tree::Error::NoRoot(root.join("etc/passwd")).into());
    };
    let accounts = read(&passwd)?;
    straighten(root)?;
    if has(&accounts, USER) {
        return Ok(());
    }
    if plain(root, "home")?.is_none() {
        tree::make_dir(&root.join("home"))?;
    }
    if ON_FREEBSD { add_by_pw(root, dir, stop) } else { add(root, &passwd, &accounts) }
}

/// Makes `/home` a directory where it is FreeBSD's link to `/usr/home`, as bsdinstall(8) made it up
/// to 13: what lies there is moved, and found by the old path, too. A sandbox without a clone could
/// not write below `/usr`.
fn straighten(root: &Path) -> Result<(), tree::Error> {
    let (home, old) = (root.join("home"), root.join("usr/home"));
    let target = fs::read_link(&home).ok();
    if !target.is_some_and(|to| to == Path::new("usr/home") || to == Path::new("/usr/home")) {
        return Ok(());
    }
    let there = plain(root, "usr/home")?;
    if there.is_some_and(|old| !old.is_dir()) {
        return Err(tree::Error::Link(home));
    }
    tree::remove(&home)?;
    match fs::rename(&old, &home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return tree::make_dir(&home),
        result => result.map_err(failed("rename", &old))?,
    }
    symlink("../home", &old).map_err(failed("symlink", &old))
}

fn add_by_pw(root: &Path, dir: &Path, stop: &CancellationToken) -> Result<(), Error> {
    // What pw(8) reads and writes there, and where it would follow links.
    for file in ["master.passwd", "passwd", "group", "pwd.db", "spwd.db", "pw.conf"] {
        plain(root, &format!("etc/{file}"))?;
    }
    Tool::new("pw", dir, Duration::from_secs(60))
        .args([Path::new("-R"), root])
        .args(["useradd", "-n", USER, "-u", &UID.to_string(), "-c", "Sandbox user"])
        .args(["-d", &format!("/home/{USER}"), "-m", "-s", "/bin/bash"])
        .args(["-G", "wheel"])
        .run(stop, |_| {})?;
    Ok(())
}

fn add(root: &Path, passwd: &Path, accounts: &str) -> Result<(), Error> {
    let group = plain(root, "etc/group")?;
    let groups = group.as_deref().map(read).transpose()?.unwrap_or_default();
    let id = free_id(accounts, &groups);
    let shell = if root.join("bin/bash").exists() { "/bin/bash" } else { "/bin/sh" };
    append(passwd, accounts, &format!("{USER}:x:{id}:{id}::/home/{USER}:{shell}"))?;
    let group = group.unwrap_or_else(|| root.join("etc/group"));
    append(&group, &groups, &format!("{USER}:x:{id}:"))?;
    if let Some(shadow) = plain(root, "etc/shadow")? {
        let shadowed = read(&shadow)?;
        if !has(&shadowed, USER) {
            append(&shadow, &shadowed, &format!("{USER}:!:0:0:99999:7:::"))?;
        }
    }
    let home = root.join("home").join(USER);
    if plain(root, &format!("home/{USER}"))?.is_none() {
        tree::make_dir(&home)?;
    }
    chown(&home, Some(id), Some(id)).map_err(failed("chown", &home))?;
    if let Some(sudoers) = plain(root, "etc/sudoers.d")? {
        tree::write(&sudoers.join(USER), 0o440, format!("{USER} ALL=(ALL:ALL) NOPASSWD: ALL\n"))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, tree::Error> {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(failed("read", path))
}

/// In place of the old file, with its mode; the last line of that may have no end.
fn append(path: &Path, old: &str, line: &str) -> Result<(), tree::Error> {
    let mode = fs::symlink_metadata(path).map_or(0o644, |meta| meta.permissions().mode() & 0o7777);
    let gap = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
    tree::write(path, mode, format!("{old}{gap}{line}\n"))
}

fn has(accounts: &str, name: &str) -> bool {
    accounts.lines().any(|line| line.split(':').next() == Some(name))
}

/// The first from [`UID`] on that is neither a user's nor a group's.
fn free_id(accounts: &str, groups: &str) -> u32 {
    let taken = |id: u32| {
        let third = |line: &str| line.split(':').nth(2).and_then(|text| text.parse().ok());
        accounts.lines().chain(groups.lines()).filter_map(third).any(|other: u32| other == id)
    };
    (UID..).find(|id| !taken(*id)).unwrap_or(UID)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/sudoers.d")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh").unwrap();
        fs::write(root.path().join("etc/group"), "root:x:0:\nnode:x:1000:\n").unwrap();
        root
    }

    fn ensure_in(root: &Path) -> Result<(), Error> {
        ensure(root, root, &CancellationToken::new())
    }

    #[test]
    fn a_user_gets_a_free_number_and_a_home() {
        if ON_FREEBSD || !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: another system's way, or no root");
            return;
        }
        let root = root();
        let shadow = root.path().join("etc/shadow");
        fs::write(&shadow, "root:*::0:99999:7:::\n").unwrap();
        fs::set_permissions(&shadow, fs::Permissions::from_mode(0o640)).unwrap();
        ensure_in(root.path()).unwrap();
        ensure_in(root.path()).unwrap();

        let text = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(
            text("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1001:1001::/home/user:/bin/sh\n"
        );
        assert_eq!(text("etc/group"), "root:x:0:\nnode:x:1000:\nuser:x:1001:\n");
        assert!(text("etc/shadow").ends_with("\nuser:!:0:0:99999:7:::\n"));
        assert!(text("etc/sudoers.d/user").contains("NOPASSWD"));
        let mode = fs::metadata(&shadow).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(root.path().join("home/user")).unwrap().uid(), 1001);
    }

    #[test]
    fn no_link_in_a_root_is_followed_to_write() {
        let (file, directory) = (false, true);
        for (linked, kind) in [
            ("etc/passwd", file),
            ("etc/group", file),
            ("etc/shadow", file),
            ("home", directory),
            ("etc/sudoers.d", directory),
        ] {
            let (root, outside) = (root(), tempfile::tempdir().unwrap());
            let victim = outside.path().join("victim");
            if kind == directory {
                fs::create_dir(&victim).unwrap();
            } else {
                fs::write(&victim, "root:x:0:0::/:/bin/sh\n").unwrap();
            }
            tree::remove(&root.path().join(linked)).unwrap();
            symlink(&victim, root.path().join(linked)).unwrap();
            let error = ensure_in(root.path()).unwrap_err();
            assert!(error.to_string().contains("is a link"), "{linked}: {error}");
            match fs::read_to_string(&victim) {
                Ok(text) => assert_eq!(text, "root:x:0:0::/:/bin/sh\n", "{linked}"),
                Err(_) => assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "{linked}"),
            }
        }
    }

    #[test]
    fn homes_below_usr_are_moved_to_where_they_belong() {
        for target in ["usr/home", "/usr/home"] {
            let root = root();
            let path = |path: &str| root.path().join(path);
            symlink(target, path("home")).unwrap();
            straighten(root.path()).unwrap();
            assert!(path("home").is_dir() && !path("home").is_symlink(), "nothing was there");

            tree::remove(&path("home")).unwrap();
            fs::create_dir_all(path("usr/home/ada")).unwrap();
            symlink(target, path("home")).unwrap();
            straighten(root.path()).unwrap();
            straighten(root.path()).unwrap();
            assert!(path("home/ada").is_dir() && !path("home").is_symlink());
            assert_eq!(fs::read_link(path("usr/home")).unwrap(), Path::new("../home"));
            assert!(path("usr/home/ada").is_dir());
        }
    }

    #[test]
    fn other_links_to_homes_are_left_and_named() {
        let outside = tempfile::tempdir().unwrap();
        let root = root();
        let home = root.path().join("home");
        symlink("usr/home", &home).unwrap();
        fs::create_dir(root.path().join("usr")).unwrap();
        symlink(outside.path(), root.path().join("usr/home")).unwrap();
        let error = straighten(root.path()).unwrap_err().to_string();
        assert!(error.contains("usr/home is a link"), "{error}");
        tree::remove(&home).unwrap();
        symlink("data/home", &home).unwrap();
        straighten(root.path()).unwrap();
        let error = ensure_in(root.path()).unwrap_err().to_string();
        assert!(error.contains("/home is a link") && error.contains("directory"), "{error}");
    }

    #[test]
    fn what_has_no_accounts_is_no_root() {
        let nothing = tempfile::tempdir().unwrap();
        let error = ensure_in(nothing.path()).unwrap_err();
        assert!(error.to_string().contains("etc/passwd"), "{error}");
    }
}
