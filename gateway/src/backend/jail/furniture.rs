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
    net::IpAddr,
    path::{Path, PathBuf},
};

use rctl_sys::mount::Mount;

use super::plan::Step;

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

const COPIED: [&str; 4] = ["etc", "root", "home", "var"];
const FRESH: [(&str, u32); 3] = [("dev", 0o555), ("run", 0o755), ("tmp", 0o1777)];

/// The steps from an empty `root` to one that looks like `layer`.
pub(super) fn thin(layer: &Path, root: &Path, entries: &[Entry]) -> Vec<Step> {
    let mut steps = Vec::new();
    for Entry { name, kind } in entries {
        let (from, to) = (layer.join(name), root.join(name));
        let named = |known: &str| name.as_os_str() == known;
        match *kind {
            Kind::Directory { mode, empty } => {
                if FRESH.iter().any(|(known, _)| named(known)) {
                    continue;
                }
                if COPIED.iter().any(|known| named(known)) {
                    steps.push(Step::Copy { from, to });
                    continue;
                }
                steps.push(Step::Directory { path: to.clone(), mode });
                if !empty {
                    steps.push(Step::Mount(Mount::new("nullfs", to).from(&from).read_only()));
                }
            }
            Kind::Other => steps.push(Step::Copy { from, to }),
        }
    }
    let fresh = FRESH.iter();
    steps.extend(fresh.map(|(name, mode)| Step::Place { path: root.join(name), mode: *mode }));
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
