//! What Coppice is compared with, each through its own program as Debian packages it.

pub(crate) mod nginx;
pub(crate) mod programs;
pub(crate) mod standing;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

/// Where Debian has put a program; not all of its places are in every user's PATH.
pub(crate) fn find(program: &str) -> anyhow::Result<PathBuf> {
    let given = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = env::split_paths(&given).chain(sbin).map(|place| place.join(program));
    let found = places.find(|place| place.is_file());
    found.with_context(|| format!("{program} is not there; `sh tools/bench.sh` installs it"))
}

/// Runs a program to its end, which has to be a good one.
pub(crate) fn run(program: &Path, args: &[String]) -> anyhow::Result<()> {
    let name = program.display();
    let done = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| name.to_string())?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{name}: {}: {}", done.status, said.trim());
    Ok(())
}

/// The first line of what a program says of its version.
pub(crate) fn version(program: &str, flag: &str) -> String {
    let done = find(program)
        .and_then(|path| Ok(Command::new(path).arg(flag).stdin(Stdio::null()).output()?));
    let Ok(done) = done else { return String::new() };
    let said = if done.stdout.is_empty() { done.stderr } else { done.stdout };
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned()
}
