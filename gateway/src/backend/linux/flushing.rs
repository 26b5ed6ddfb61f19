//! Writing file systems to their disks, each for all who wait for that at the same time: syncfs(2)
//! writes whatever a file system has to write, whoever's it is.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::PathBuf,
    sync::Arc,
};

use nix::unistd::syncfs;
use parking_lot::Mutex;

use super::error::{Call, blocking};
use crate::backend::{Error, rounds::Rounds};

/// Those under way, by what is mounted.
#[derive(Default)]
pub(super) struct Flushing(Mutex<HashMap<u64, Arc<Rounds>>>);

impl Flushing {
    /// Writes out the file system that a directory is on, with all that was written to it before
    /// this was called.
    pub(super) async fn flush(&self, directory: PathBuf) -> Result<(), Error> {
        let path = directory.clone();
        let open = move || {
            let opened = File::open(&path).call("open", path.display())?;
            let mount = mount_of(&opened).call("look for the mount of", path.display())?;
            Ok((opened, mount))
        };
        let (opened, mount) = blocking(open).await?;
        let rounds = Arc::clone(self.0.lock().entry(mount).or_default());
        let round = move || syncfs(&opened).call("syncfs", directory.display());
        rounds.join(blocking(round)).await
    }
}

/// proc_pid_fdinfo(5): the number of the mount that an open file is on, which is the same for all
/// subvolumes of a btrfs that are not mounted themselves.
fn mount_of(file: &File) -> io::Result<u64> {
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let number = told.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other("the kernel does not say"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_on_one_file_system_is_flushed_together() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        let flushing = Flushing::default();
        let (one, other) =
            tokio::join!(flushing.flush(dir.path().to_owned()), flushing.flush(below.clone()));
        one.and(other).unwrap();
        assert_eq!(flushing.0.lock().len(), 1);
        flushing.flush("/dev/shm".into()).await.unwrap();
        assert_eq!(flushing.0.lock().len(), 2);
        let lost = flushing.flush(dir.path().join("nowhere")).await.unwrap_err().to_string();
        assert!(lost.contains("nowhere"), "{lost}");
    }
}
