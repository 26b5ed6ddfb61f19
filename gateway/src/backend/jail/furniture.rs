//! What is in a sandbox's root when it starts.
//!
//! A clone is the template as it is, and all of it can be written. A **thin root** is an ordinary
//! directory of the sandbox's, the top of which looks like the template's:
//!
//! | in the template | in the sandbox |
//! |---|---|
//! | `etc`, `root`, `home`, `var` | a copy, of the sandbox's own |
//! | `tmp`, `run` | empty, of the sandbox's own |
//! | `dev`, and whatever is an empty directory | empty |
//! | any other directory (`bin`, `lib`, `usr`, ...) | the template's, read-only, by nullfs |
//! | files and links | a copy |
//!
//! So everything can be written but what came with the template as programs: `pip install --user`,
//! a virtual environment and new directories at the top work; `pkg install`, and `pip install` into
//! `/usr/local`, need a clone. The copied directories are to be small in a template: no caches.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rctl_sys::mount::Mount;

use super::{copying::set_mode, error::Call, plan::Step};
use crate::backend::Error;

/// Of the top of a template's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory, its mode, and whether anything is in it.
    Directory { mode: u32, empty: bool },
    /// A file or a link.
    Other,
}

/// The top of a layer, in the order of names.
pub(super) fn entries(layer: &Path) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(layer).call("read", layer.display())? {
        let path = entry.call("read", layer.display())?.path();
        let metadata = fs::symlink_metadata(&path).call("lstat", path.display())?;
        let kind = if metadata.is_dir() {
            let empty = fs::read_dir(&path).call("read", path.display())?.next().is_none();
            Kind::Directory { mode: metadata.mode() & 0o7777, empty }
        } else {
            Kind::Other
        };
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        entries.push(Entry { name, kind });
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

const COPIED: [&str; 4] = ["etc", "root", "home", "var"];
const FRESH: [&str; 3] = ["dev", "run", "tmp"];

/// What a thin root has in the place of an entry of its template.
enum Taken {
    Fresh,
    Copied,
    /// A directory with that mode, and nothing in it.
    Empty(u32),
    /// The same, with the template's on it.
    Shared(u32),
}

impl Entry {
    fn taken(&self) -> Taken {
        let is_one_of = |known: &[&str]| known.iter().any(|it| self.name.as_os_str() == *it);
        match self.kind {
            Kind::Directory { .. } if is_one_of(&FRESH) => Taken::Fresh,
            Kind::Directory { .. } if is_one_of(&COPIED) => Taken::Copied,
            Kind::Directory { mode, empty: true } => Taken::Empty(mode),
            Kind::Directory { mode, empty: false } => Taken::Shared(mode),
            Kind::Other => Taken::Copied,
        }
    }
}

/// The steps from an empty `root` to one that looks like `layer`.
pub(super) fn thin(layer: &Path, root: &Path, entries: &[Entry]) -> Vec<Step> {
    let mut steps = Vec::new();
    for entry in entries {
        let (from, to) = (layer.join(&entry.name), root.join(&entry.name));
        match entry.taken() {
            Taken::Fresh => {}
            Taken::Copied => steps.push(Step::Copy { from, to }),
            Taken::Empty(mode) => steps.push(Step::Directory { path: to, mode }),
            Taken::Shared(mode) => {
                steps.push(Step::Directory { path: to.clone(), mode });
                steps.push(Step::Mount(Mount::new("nullfs", to).from(&from).read_only()));
            }
        }
    }
    // The others are seen to for every root.
    steps.push(Step::Place { path: root.join("tmp"), mode: 0o1777 });
    steps
}

/// Those from a root that has all of its own already to one with what it shares with `layer`.
pub(super) fn shared(layer: &Path, root: &Path, entries: &[Entry]) -> Vec<Step> {
    let shared = entries.iter().filter_map(|entry| match entry.taken() {
        Taken::Shared(mode) => Some((&entry.name, mode)),
        Taken::Fresh | Taken::Copied | Taken::Empty(_) => None,
    });
    let steps = shared.flat_map(|(name, mode)| {
        let (from, to) = (layer.join(name), root.join(name));
        let mount = Mount::new("nullfs", &to).from(&from).read_only();
        [Step::Place { path: to, mode }, Step::Mount(mount)]
    });
    steps.collect()
}

/// Those from an empty `root` to one that has all of its own from the copy of another.
pub(super) fn over(copy: PathBuf, layer: &Path, root: &Path, entries: &[Entry]) -> Vec<Step> {
    let mut steps = vec![Step::CopyInto { from: copy, to: root.to_owned() }];
    steps.extend(shared(layer, root, entries));
    steps
}

/// devfs with only what a jail needs, and fdescfs, without which `/dev/fd/3` does not exist.
pub(super) fn devices(root: &Path, ruleset: u16) -> Vec<Step> {
    let dev = root.join("dev");
    vec![
        Step::Place { path: dev.clone(), mode: 0o555 },
        Step::Mount(Mount::new("devfs", &dev).ruleset(ruleset)),
        Step::Mount(Mount::new("fdescfs", dev.join("fd"))),
    ]
}

/// procfs(5), where it was asked for: in a jail it shows the jail's own processes (`p_cansee` in
/// sys/fs/pseudofs/pseudofs_vnops.c).
pub(super) fn processes(root: &Path) -> Vec<Step> {
    let proc = root.join("proc");
    vec![Step::Place { path: proc.clone(), mode: 0o555 }, Step::Mount(Mount::new("procfs", proc))]
}

/// Its names and resolvers under `/etc`, and who it is under `/run/e2b`.
pub(super) fn identity(
    root: &Path,
    hostname: &str,
    dns: &[IpAddr],
    who: impl IntoIterator<Item = (String, String)>,
) -> Vec<Step> {
    let (etc, run) = (root.join("etc"), root.join("run"));
    let e2b = run.join("e2b");
    let mut steps = vec![
        Step::Place { path: etc.clone(), mode: 0o755 },
        Step::Write { path: etc.join("hosts"), text: hosts(hostname) },
        Step::Write { path: etc.join("resolv.conf"), text: resolv_conf(dns) },
        Step::Place { path: run, mode: 0o755 },
        Step::Place { path: e2b.clone(), mode: 0o755 },
    ];
    let who = who.into_iter();
    steps.extend(who.map(|(name, text)| Step::Write { path: e2b.join(format!(".{name}")), text }));
    steps
}

fn hosts(hostname: &str) -> String {
    format!("::1 localhost\n127.0.0.1 localhost\n127.0.0.1 {hostname}\n")
}

/// A sandbox has no IPv6 to reach a resolver by.
fn resolv_conf(dns: &[IpAddr]) -> String {
    dns.iter().filter(|server| server.is_ipv4()).map(|it| format!("nameserver {it}\n")).collect()
}

/// Whatever the gateway's umask is. Fails if there is anything.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new().mode(mode).create(path).call("mkdir", path.display())?;
    set_mode(path, mode)
}

/// Unless there is a directory already. Nobody has run in this root yet, but who made the template
/// may have put a link there that leads out of it.
pub(super) fn make_place(path: &Path, mode: u32) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => {
            let source = io::Error::from(io::ErrorKind::NotADirectory);
            Err(source).call("use the template's", path.display())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_directory(path, mode),
        Err(error) => Err(error).call("lstat", path.display()),
    }
}

/// Takes the place of what is there, and follows no link.
pub(super) fn write(path: &Path, text: &str) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).call("unlink", path.display());
        }
        _ => {}
    }
    let mut file = File::create_new(path).call("make", path.display())?;
    file.write_all(text.as_bytes()).call("write", path.display())?;
    set_mode(path, 0o644)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn the_top_of_a_layer_is_read_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        symlink("usr/bin", dir.path().join("bin")).unwrap();
        set_mode(&dir.path().join("usr"), 0o711).unwrap();
        set_mode(&dir.path().join("mnt"), 0o755).unwrap();
        let entry = |name: &str, kind| Entry { name: name.into(), kind };
        assert_eq!(
            entries(dir.path()).unwrap(),
            [
                entry("bin", Kind::Other),
                entry("mnt", Kind::Directory { mode: 0o755, empty: true }),
                entry("usr", Kind::Directory { mode: 0o711, empty: false }),
            ]
        );
    }

    #[test]
    fn no_link_of_a_template_leads_out_of_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "untouched").unwrap();
        symlink(dir.path(), dir.path().join("etc")).unwrap();
        let error = make_place(&dir.path().join("etc"), 0o755).unwrap_err();
        assert!(error.to_string().starts_with("use the template's "), "{error}");
        let link = dir.path().join("resolv.conf");
        symlink(&outside, &link).unwrap();
        write(&link, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
        assert_eq!(mode(&link), 0o644);
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
    }
}
