//! What there is no package of: chart data and the kernel of bash, which pip installs, and the kernel
//! of JavaScript and TypeScript, with what npm does. Both run in the root that is being built.
//!
//! An interpreter is one without any of it, so what cannot be had is said and left out. None of it
//! is compiled: of Python's packages those that are one file for all systems are taken, and for
//! ZeroMQ the kernel has a module of its own.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    super::{
        account::plain,
        interpreter, recipe,
        tool::{self, Tool},
        tree,
    },
    Python, put_all,
};

/// Of the base system.
pub(super) const CHROOT: &str = "/usr/sbin/chroot";
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// `www/node*` and `www/npm-node*`, the best first: the kernel takes types off by what 22.13 has.
const NODES: [&str; 2] = ["24", "22"];

/// By pip: a kernel, what it tells images by, and the data of charts.
const BY_PIP: [&str; 3] = ["bash_kernel", "filetype", "e2b-charts"];

const JAVASCRIPT: &str = "lib/coppice/javascript";
const ZEROMQ: &str = include_str!("javascript/zeromq.js");
const FILES: &[(&str, &str)] = &[
    ("lib/coppice/javascript/package.json", include_str!("javascript/package.json")),
    ("lib/coppice/javascript/package-lock.json", include_str!("javascript/package-lock.json")),
];
const BASH: &str = include_str!("bash.json");

/// Where the root may look names up while it is built.
const RESOLVERS: &str = "/etc/resolv.conf";

pub(super) fn recipe() -> String {
    format!("{NODES:?} {:?} {FILES:?} {ZEROMQ} {BASH} {:?}", pins(), interpreter::JAVASCRIPT_FILES)
}

/// Node and npm, where the repository has both.
pub(super) fn packages(known: &BTreeSet<String>) -> Vec<String> {
    let names = |version: &&str| [format!("node{version}"), format!("npm-node{version}")];
    let mut pairs = NODES.iter().map(names);
    pairs
        .find(|pair| pair.iter().all(|name| known.contains(name)))
        .map(Vec::from)
        .unwrap_or_default()
}

/// As the interpreter on Linux has them.
fn pins() -> Vec<String> {
    BY_PIP.iter().filter_map(|name| interpreter::pinned(name)).collect()
}

/// A root that is being built, and how programs are run in it.
pub(super) struct Inside<'a> {
    pub(super) chroot: &'a Path,
    pub(super) root: &'a Path,
    pub(super) dir: &'a Path,
    pub(super) stop: &'a CancellationToken,
    pub(super) progress: &'a (dyn Fn(&str) + Sync),
}

impl Inside<'_> {
    /// Adds what can be had, and the kernels of what is there then.
    pub(super) fn add(&self, python: Python) -> Result<(), recipe::Error> {
        let Some(local) = plain(self.root, "usr/local")? else {
            return Err(tree::Error::NoRoot(self.root.join("usr/local")).into());
        };
        let resolvers = fs::read(RESOLVERS).unwrap_or_default();
        self.resolve_by(&resolvers)?;
        let by_pip = self.by_pip();
        let by_npm = self.by_npm(&local);
        // Each sandbox gets its own.
        self.resolve_by(b"")?;
        tree::empty(&self.root.join("tmp"))?;
        self.or_left_out("chart data and the kernel of bash", by_pip)?;
        let site = local.join(format!("lib/python3.{}/site-packages", python.minor));
        if site.join("bash_kernel").is_dir() {
            put_all(&local, [("share/jupyter/kernels/bash/kernel.json", BASH)])?;
        }
        self.or_left_out("the kernel of JavaScript", by_npm)
    }

    fn or_left_out(
        &self,
        what: &str,
        done: Result<(), recipe::Error>,
    ) -> Result<(), recipe::Error> {
        match done {
            Err(recipe::Error::Tool(tool::Error::Stopped)) => Err(tool::Error::Stopped.into()),
            Err(error) => {
                (self.progress)(&format!("leaving out {what}: {error}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn resolve_by(&self, resolvers: &[u8]) -> Result<(), tree::Error> {
        match plain(self.root, "etc")? {
            Some(etc) => tree::write(&etc.join("resolv.conf"), 0o644, resolvers),
            None => Ok(()),
        }
    }

    fn by_pip(&self) -> Result<(), recipe::Error> {
        (self.progress)("installing Python packages that there are no packages of");
        self.tool(&["/usr/local/bin/python3", "-m", "pip", "install"])
            .args(["--no-cache-dir", "--no-deps", "--only-binary=:all:", "--no-warn-conflicts"])
            .args(["--break-system-packages", "--root-user-action=ignore"])
            .args(["--disable-pip-version-check", "--progress-bar=off", "--retries=5"])
            .args(pins())
            .run(self.stop, |_| {})?;
        Ok(())
    }

    fn by_npm(&self, local: &Path) -> Result<(), recipe::Error> {
        (self.progress)("installing the JavaScript kernel");
        let home = local.join(JAVASCRIPT);
        // None of its directories may lead elsewhere.
        plain(local, JAVASCRIPT)?;
        tree::remove(&home)?;
        put_all(local, FILES.iter().copied())?;
        let installed = self
            .tool(&["/bin/sh", "-c", "cd \"$1\" && shift && exec \"$@\"", "sh"])
            .args([Path::new("/usr/local").join(JAVASCRIPT)])
            .args(["/usr/local/bin/npm", "ci", "--silent", "--omit=dev", "--ignore-scripts"])
            .args(["--no-audit", "--no-fund", "--cache", "/tmp/npm"])
            .run(self.stop, |_| {});
        if let Err(error) = installed {
            tree::remove(&home)?;
            return Err(error.into());
        }
        // Its own package of ZeroMQ and what only that needs are not there.
        let of_kernel = interpreter::JAVASCRIPT_FILES;
        let of_kernel =
            of_kernel.iter().filter(|(path, _)| !FILES.iter().any(|(its, _)| its == path));
        put_all(local, of_kernel.copied())?;
        put_all(local, [("lib/coppice/javascript/node_modules/zeromq/index.js", ZEROMQ)])?;
        Ok(())
    }

    /// A program in the root, as its root, with the host's network.
    fn tool(&self, argv: &[&str]) -> Tool {
        let root: PathBuf = self.root.to_owned();
        Tool::new(&self.chroot.to_string_lossy(), self.dir, PATIENCE)
            .env("HOME", "/tmp")
            .env("PATH", "/usr/local/bin:/usr/local/sbin:/usr/bin:/bin:/usr/sbin:/sbin")
            .args([root])
            .args(argv)
    }
}
