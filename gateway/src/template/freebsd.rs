//! Templates on FreeBSD: what `pkg(8)` puts into a root, and the recipe of `code-interpreter-v1`.
//!
//! Packages are fetched and unpacked by the host's `pkg --rootdir`, from the repositories that the
//! host trusts, as FreeBSD's own release/scripts/make-oci-image.sh does. What depends on the version
//! of Python is named after it (`py311-numpy`), and which one that is, the repository's `python3`
//! says.

mod hints;
mod kernels;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    account::plain,
    import, interpreter,
    recipe::{self, Below, Built},
    tool::{self, Tool},
    tree::{self, failed},
};

/// Not that of base, which would fetch the real one without having been asked.
const PKG: &str = "/usr/local/sbin/pkg";
/// Where a host keeps its repositories' descriptions; the later one has the last word.
const REPOSITORIES: [&str; 2] = ["/etc/pkg", "/usr/local/etc/pkg/repos"];
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Into `base`, as far as the repository has them; `%` is Python's flavour, `py311`.
const BASE_PACKAGES: &[&str] =
    &["bash", "ca_root_nss", "curl", "git-lite", "python3", "%-pip", "sudo"];
/// Without these there is no interpreter.
const NEEDED: &[&str] = &["python3", "%-ipykernel", "%-numpy", "%-pandas", "%-matplotlib"];
/// What the Linux template has as well, as far as the repository has them.
const WELCOME: &[&str] = &[
    "bash",
    "%-filetype",
    "%-openpyxl",
    "%-pillow",
    "%-pip",
    "%-plotly",
    // What e2b-charts asks for; the other `%-pydantic` is of version 1.
    "%-pydantic2",
    "%-requests",
    "%-scikit-learn",
    "%-scipy",
    "%-seaborn",
    // Of Python's own library, in a package of its own.
    "%-sqlite3",
    "%-sympy",
];

const BASH: &str = include_str!("freebsd/bash.sh");
const KERNEL: &str = include_str!("freebsd/python3.json");
const PIP_CONF: &str = "[global]\nbreak-system-packages = true\nroot-user-action = ignore\n";
const SUDOERS: &str = "user ALL=(ALL:ALL) NOPASSWD: ALL\n";

/// Downloads and catalogues of pkg's, and what etcupdate(8) compares with: a sandbox without a clone
/// has a copy of `var`.
const LEFT: &[&str] = &["var/cache/pkg", "var/db/etcupdate", "var/db/pkg/repos"];

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("pkg is not installed on this host: `pkg bootstrap`")]
    NoPkg,
    #[error(
        "the catalogue of packages cannot be had: is there a network, and is what is in /etc/pkg and \
         /usr/local/etc/pkg/repos right? {0}"
    )]
    Catalogue(tool::Error),
    #[error("the package repository has no {0}")]
    Absent(String),
}

/// All that the result depends on, but for what lies below.
pub(super) fn recipe() -> String {
    let ours = interpreter::PYTHON_FILES;
    format!("{NEEDED:?} {WELCOME:?} {KERNEL} {ours:?} {}", kernels::recipe())
}

/// Builds `code-interpreter-v1` in `dir`: a copy of what lies below, and packages in it.
pub(super) fn build(
    dir: &Path,
    below: &Below,
    stop: &CancellationToken,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Built, recipe::Error> {
    let root = dir.join("root");
    tree::make_dir(&root)?;
    let Some(whole) = below.layers.first() else { return Err(recipe::Error::NoSource) };
    progress("copying what lies below");
    import::copy(whole, &root, dir, stop)?;
    let packages = Packages::new(Path::new(PKG), &root, dir, stop, progress)?;
    let python = packages.python()?;
    let mut names = packages.all_of(NEEDED, &python)?;
    names.extend(packages.some_of(WELCOME, &python));
    names.extend(kernels::packages(&packages.known));
    packages.install(&names)?;
    clear(&root)?;
    hints::write(&root)?;
    provide_bash(&root)?;
    let inside =
        kernels::Inside { chroot: Path::new(kernels::CHROOT), root: &root, dir, stop, progress };
    inside.add(python)?;
    put_interpreter(&root, &python)?;
    progress("opening /usr/local to everyone in the sandbox");
    Tool::new("find", dir, Duration::from_secs(5 * 60))
        .args([root.join("usr/local")])
        .args(["-type", "d", "-exec", "chmod", "a+w", "{}", "+"])
        .run(stop, |_| {})?;
    hints::close(&root)?;
    Ok(Built { root, node: None })
}

/// What `base` gets beside the system itself. Without packages it is good for less, but good: so
/// what fails there is said and not fatal.
pub(super) fn furnish(
    root: &Path,
    dir: &Path,
    stop: &CancellationToken,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<(), recipe::Error> {
    let added = Packages::new(Path::new(PKG), root, dir, stop, progress).and_then(|packages| {
        let python = packages.python()?;
        let names = packages.some_of(BASE_PACKAGES, &python);
        packages.install(&names)
    });
    clear(root)?;
    match added {
        Ok(()) => {}
        Err(recipe::Error::Tool(tool::Error::Stopped)) => return Err(tool::Error::Stopped.into()),
        Err(error) => progress(&format!("leaving packages out: {error}")),
    }
    hints::write(root)?;
    provide_bash(root)?;
    // A sandbox is as disposable as a virtual environment: let `pip install` just work.
    tree::write(&root.join("etc/pip.conf"), 0o644, PIP_CONF)?;
    if let Some(sudoers) = plain(root, "usr/local/etc/sudoers.d")? {
        tree::write(&sudoers.join("user"), 0o440, SUDOERS)?;
    }
    Ok(())
}

/// At the path that SDKs start.
fn provide_bash(root: &Path) -> Result<(), recipe::Error> {
    let bash = root.join("bin/bash");
    // Ours gives way to a real one.
    let is_ours = || fs::read(&bash).is_ok_and(|content| content == BASH.as_bytes());
    let is_taken = fs::symlink_metadata(&bash).is_ok_and(|meta| !meta.is_file() || !is_ours());
    if plain(root, "bin")?.is_none() || is_taken {
        return Ok(());
    }
    if plain(root, "usr/local/bin/bash")?.is_some() {
        tree::remove(&bash)?;
        symlink("../usr/local/bin/bash", &bash).map_err(failed("symlink", &bash))?;
        return Ok(());
    }
    tree::write(&bash, 0o755, BASH)?;
    Ok(())
}

/// Ours, after the packages: ipykernel brings a kernelspec of its own.
fn put_interpreter(root: &Path, python: &Python) -> Result<(), recipe::Error> {
    let Some(local) = plain(root, "usr/local")? else {
        return Err(tree::Error::NoRoot(root.join("usr/local")).into());
    };
    let [(display, of_display), config] = interpreter::PYTHON_FILES;
    let site = format!("lib/python3.{}/site-packages", python.minor);
    let display = format!("{site}/{display}");
    let spec = ("share/jupyter/kernels/python3/kernel.json", KERNEL);
    Ok(put_all(&local, [(display.as_str(), of_display), config, spec])?)
}

/// Files below `usr/local`; none of their directories may lead elsewhere.
fn put_all<'a>(
    local: &Path,
    files: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), tree::Error> {
    files.into_iter().try_for_each(|(path, content)| {
        plain(local, path)?;
        interpreter::put(local, path, content)
    })
}

/// The repository's Python 3, as the number after the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Python {
    minor: u32,
}

impl Python {
    /// From the name of its package, `python311`.
    fn of_package(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("python3")?;
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten().map(|minor| Self { minor })
    }

    fn package(self, pattern: &str) -> String {
        pattern.replacen('%', &format!("py3{}", self.minor), 1)
    }
}

/// `pkg`, with a root to put packages into.
struct Packages<'a> {
    pkg: &'a Path,
    root: &'a Path,
    dir: &'a Path,
    repositories: PathBuf,
    /// Every name in the catalogue.
    known: BTreeSet<String>,
    stop: &'a CancellationToken,
    progress: &'a (dyn Fn(&str) + Sync),
}

impl<'a> Packages<'a> {
    /// With today's catalogue.
    fn new(
        pkg: &'a Path,
        root: &'a Path,
        dir: &'a Path,
        stop: &'a CancellationToken,
        progress: &'a (dyn Fn(&str) + Sync),
    ) -> Result<Self, recipe::Error> {
        if !pkg.exists() {
            return Err(Error::NoPkg.into());
        }
        progress("fetching the catalogue of packages");
        let repositories = dir.join("repositories");
        collect(&REPOSITORIES.map(Path::new), &repositories)?;
        let known = BTreeSet::new();
        let mut packages = Self { pkg, root, dir, repositories, known, stop, progress };
        packages.tool(&["update", "-f"]).run(stop, |_| {}).map_err(|error| match error {
            tool::Error::Stopped => recipe::Error::Tool(error),
            error => Error::Catalogue(error).into(),
        })?;
        packages.known = packages.lines(&["rquery", "-U", "-a", "%n"])?.into_iter().collect();
        Ok(packages)
    }

    /// pkg.conf(5): its options are variables, too. Of an older root than the packages were made
    /// for, and of questions, nobody is there to hear; `ABI_FILE` says what system the root is of.
    fn tool(&self, arguments: &[&str]) -> Tool {
        let program = self.pkg.to_string_lossy();
        Tool::new(&program, self.dir, PATIENCE)
            .env("ASSUME_ALWAYS_YES", "yes")
            .env("IGNORE_OSVERSION", "yes")
            .env("ABI_FILE", self.root.join("bin/sh"))
            .args([Path::new("--rootdir"), self.root])
            .args([Path::new("--repo-conf-dir"), &self.repositories])
            .args(arguments)
    }

    fn lines(&self, arguments: &[&str]) -> Result<Vec<String>, recipe::Error> {
        let lines = Mutex::new(Vec::new());
        self.tool(arguments).run(self.stop, |line| lines.lock().push(line.to_owned()))?;
        Ok(lines.into_inner())
    }

    /// The one that the repository's `python3` stands for.
    fn python(&self) -> Result<Python, recipe::Error> {
        let depended = self.lines(&["rquery", "-U", "%dn", "python3"])?;
        let found = depended.iter().find_map(|name| Python::of_package(name));
        found.ok_or_else(|| Error::Absent("python3".to_owned()).into())
    }

    /// The names these have with that Python.
    fn all_of(&self, patterns: &[&str], python: &Python) -> Result<Vec<String>, recipe::Error> {
        let names: Vec<_> = patterns.iter().map(|pattern| python.package(pattern)).collect();
        let absent: Vec<_> =
            names.iter().filter(|name| !self.known.contains(*name)).cloned().collect();
        if absent.is_empty() { Ok(names) } else { Err(Error::Absent(absent.join(", ")).into()) }
    }

    /// The same, of those that there are.
    fn some_of(&self, patterns: &[&str], python: &Python) -> Vec<String> {
        let names = patterns.iter().map(|pattern| python.package(pattern));
        let (found, absent): (Vec<_>, Vec<_>) = names.partition(|name| self.known.contains(name));
        if !absent.is_empty() {
            (self.progress)(&format!(
                "leaving out what there is no package of: {}",
                absent.join(", ")
            ));
        }
        found
    }

    fn install(&self, names: &[String]) -> Result<(), recipe::Error> {
        (self.progress)("installing packages");
        let mut arguments = vec!["install", "-U", "-y"];
        arguments.extend(names.iter().map(String::as_str));
        // Lines such as `[3/87] Installing py311-numpy-1.26.4,1...`.
        self.tool(&arguments).run(self.stop, |line| {
            let step = line.trim_end_matches(['.', ' ']);
            if step.starts_with('[') && (step.contains("Fetching") || step.contains("Installing")) {
                (self.progress)(&format!("installing packages: {step}"));
            }
        })?;
        Ok(())
    }
}

fn clear(root: &Path) -> Result<(), tree::Error> {
    for path in LEFT {
        if let Some(path) = plain(root, path)? {
            tree::remove(&path)?;
        }
    }
    // Where catalogues were before pkg 1.20.
    let Some(database) = plain(root, "var/db/pkg")? else { return Ok(()) };
    for entry in fs::read_dir(&database).map_err(failed("list", &database))? {
        let path = entry.map_err(failed("list", &database))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("repo-") || name.ends_with(".meta") {
            tree::remove(&path)?;
        }
    }
    Ok(())
}

/// Copies of all descriptions of repositories into one directory, in the order they count.
fn collect(from: &[&Path], to: &Path) -> Result<(), tree::Error> {
    tree::empty(to)?;
    for (place, dir) in from.iter().enumerate() {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        for entry in entries.flatten().filter(|e| e.path().extension().is_some_and(|x| x == "conf"))
        {
            let name = format!("{place}-{}", entry.file_name().to_string_lossy());
            fs::copy(entry.path(), to.join(name)).map_err(failed("copy", entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
