//! Stopping all of a sandbox where it is, by the freezer of cgroup v2.
//!
//! It is the parent cgroup's, so that envd stops as well. What SIGSTOP or a tracer holds counts as
//! frozen and stays held when the cgroup is thawed, and nobody's parent is told of either.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::error::Call;
use crate::backend::Error;

/// For the last process to come to a halt; one in an uninterruptible call goes on to its end.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Freezer {
    pub(super) cgroup: PathBuf,
}

impl Freezer {
    /// Blocks.
    pub(super) fn freeze(&self) -> Result<(), Error> {
        let frozen = self.try_freeze();
        if frozen.is_err() {
            // Half of it stands still; what is gone has nothing to thaw.
            let _ = self.set("0");
        }
        frozen
    }

    fn try_freeze(&self) -> Result<(), Error> {
        // Linux: a write takes the lock of all cgroups, and a gateway that starts asks for many.
        if self.frozen()? && self.stands_still()? {
            return Ok(());
        }
        self.set("1")?;
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(50);
        while !self.stands_still()? {
            if Instant::now() >= deadline {
                return Err(Error::Timeout("the freezing of a sandbox", PATIENCE));
            }
            // Linux: cgroup.events can be polled, but is told of at most once in 10 ms.
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
        Ok(())
    }

    pub(super) fn thaw(&self) -> Result<(), Error> {
        self.set("0")
    }

    /// Whether it is or is about to be: a gateway may have died while it waited.
    pub(super) fn frozen(&self) -> Result<bool, Error> {
        let path = self.cgroup.join("cgroup.freeze");
        Ok(fs::read_to_string(&path).call("read", path.display())?.trim() == "1")
    }

    fn set(&self, to: &str) -> Result<(), Error> {
        let path = self.cgroup.join("cgroup.freeze");
        fs::write(&path, to).call("write", format_args!("{to} to {}", path.display()))
    }

    fn stands_still(&self) -> Result<bool, Error> {
        let path = self.cgroup.join("cgroup.events");
        let events = fs::read_to_string(&path).call("read", path.display())?;
        Ok(events.lines().any(|line| line == "frozen 1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freezer(events: &str) -> (tempfile::TempDir, Freezer) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.freeze"), "0\n").unwrap();
        fs::write(dir.path().join("cgroup.events"), events).unwrap();
        let freezer = Freezer { cgroup: dir.path().to_owned() };
        (dir, freezer)
    }

    #[test]
    fn it_is_frozen_once_the_kernel_says_so_and_until_thawed() {
        let (_dir, freezer) = freezer("populated 1\nfrozen 1\n");
        assert!(!freezer.frozen().unwrap());
        freezer.freeze().unwrap();
        freezer.freeze().unwrap();
        assert!(freezer.frozen().unwrap());
        freezer.thaw().unwrap();
        freezer.thaw().unwrap();
        assert!(!freezer.frozen().unwrap());
    }

    #[test]
    fn what_cannot_be_seen_to_stand_still_runs_on() {
        let (dir, freezer) = freezer("");
        fs::remove_file(dir.path().join("cgroup.events")).unwrap();
        let error = freezer.freeze().unwrap_err().to_string();
        assert!(error.contains("cgroup.events: No such file"), "{error}");
        assert!(!freezer.frozen().unwrap());
    }

    #[test]
    fn what_is_not_there_is_named() {
        let freezer = Freezer { cgroup: "/no/such/cgroup".into() };
        let expected = "/no/such/cgroup/cgroup.freeze: No such file";
        for error in [freezer.freeze(), freezer.thaw(), freezer.frozen().map(drop)] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
