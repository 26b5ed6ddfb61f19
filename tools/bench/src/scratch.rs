//! A directory that is gone with what it was made for.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Short: unix sockets below it have 104 bytes for their whole path.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join("bnXXXXXX");
        let path = nix::unistd::mkdtemp(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let began = Instant::now();
        // A program that was running when a run was broken off may still write here.
        while let Err(error) = fs::remove_dir_all(&self.0) {
            if began.elapsed() > PATIENCE {
                eprintln!("error: {} could not be removed: {error}", self.0.display());
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_gone_with_all_that_is_in_it() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        fs::write(path.join("x"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }
}
