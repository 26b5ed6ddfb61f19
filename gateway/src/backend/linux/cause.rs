//! Why a sandbox's first process ended, in the kernel's words: what it has counted for envd's own
//! cgroup, which nobody in the sandbox can enter.

use std::{fs, io, path::Path};

use super::{
    cgroup::{Cgroups, is_gone},
    cgroup_plan::Controller,
    error::Call,
};
use crate::{
    backend::{Cause, Error},
    sandbox::SandboxId,
};

impl Cgroups {
    /// `None` when nothing that it counts happened.
    pub(super) fn cause(&self, id: SandboxId) -> Result<Option<Cause>, Error> {
        let pids = self.hierarchy(Controller::Pids)?;
        let counted = [
            (self.kills_file(id, "envd")?, "oom_kill", Cause::OutOfMemory),
            (self.cell(pids, id).join("envd/pids.events"), "max", Cause::ProcessLimit),
        ];
        for (path, counter, cause) in counted {
            if read(&path, counter).call("read", path.display())? > 0 {
                return Ok(Some(cause));
            }
        }
        Ok(None)
    }
}

fn read(path: &Path, counter: &str) -> io::Result<u64> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(value(&text, counter)),
        Err(error) if is_gone(&error) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Of a file with a counter a line; 0 where it is not among them.
fn value(text: &str, counter: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found =
        lines.find_map(|(name, value)| (name == counter).then(|| value.trim().parse().ok()));
    found.flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_their_whole_names() {
        let v2 = "low 0\nhigh 0\nmax 41\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!((value(v2, "oom_kill"), value(v2, "max")), (1, 41));
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!((value(v1, "oom_kill"), value(v1, "oom")), (3, 0));
        assert_eq!(value("max\n", "max"), 0);
    }

    #[test]
    fn of_a_cgroup_that_is_gone_nothing_is_said() {
        assert_eq!(read(Path::new("/no/such/cgroup/memory.events"), "oom_kill").unwrap(), 0);
    }
}
