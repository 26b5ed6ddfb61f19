//! The size of what sandboxes have written, where the file system does not count it: their files
//! are looked at one after the other, by a thread of the lowest priority that rests nine times as
//! long as it works. What it has found is some seconds old, with many large sandboxes minutes. One
//! that has not run since has written nothing, and is passed over most times.
//!
//! What is looked at is hostile and changes meanwhile: no link is followed, nothing is opened but
//! directories, and one look has a bound, beyond which it tells what it has found so far.

#![allow(unsafe_code)]

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use nix::{
    dir::Dir,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat},
    sys::stat::{FileStat, Mode, fstatat},
};
use parking_lot::Mutex;

use crate::sandbox::SandboxId;

/// Files and directories looked at in one sandbox.
const MOST_ENTRIES: u64 = 1 << 20;
/// Directories within each other, each of which is open meanwhile.
const DEEPEST: usize = 64;
/// Files of several names that are remembered, to be counted once.
const MOST_LINKED: usize = 1 << 16;
/// Between the ends of two rounds at least.
const PERIOD: Duration = Duration::from_secs(10);
/// Rounds in which each sandbox is looked at once, though nobody said that it has run: what its file
/// system had put aside for it may have been given back.
const ROUNDS: u64 = 30;
/// Rest after work, so many times as long.
const REST: u32 = 9;
/// How soon the thread notices that nobody wants it.
const NOTICE: Duration = Duration::from_millis(500);

/// What was found last; when it is dropped the looking ends.
#[derive(Debug, Default)]
pub(super) struct Found(Mutex<HashMap<SandboxId, Size>>);

#[derive(Debug)]
struct Size {
    /// `None` until it has been looked at for the first time.
    bytes: Option<u64>,
    /// Whether its sandbox has run since it was last begun to be looked at.
    stale: bool,
}

impl Found {
    /// Begins to look at the layers below `home`, each at `<id>/<layer>`.
    pub(super) fn begin(home: PathBuf, layer: &'static str) -> std::io::Result<Arc<Self>> {
        let found = Arc::new(Self::default());
        let weak = Arc::downgrade(&found);
        let named = thread::Builder::new().name("disk-use".to_owned());
        named.spawn(move || keep_looking(&weak, &home, layer))?;
        Ok(found)
    }

    /// Bytes; `None` before the first look. `ran` is whether the sandbox has since this was last
    /// asked.
    pub(super) fn of(&self, id: SandboxId, ran: bool) -> Option<u64> {
        let mut all = self.0.lock();
        let size = all.get_mut(&id)?;
        size.stale |= ran;
        size.bytes
    }

    /// Whether to look at a sandbox in that round; what it does from now on is of another.
    fn is_due(&self, id: SandboxId, round: u64) -> bool {
        let mut all = self.0.lock();
        // One that is looked at for the first time is known from now on: it may run meanwhile.
        let size = all.entry(id).or_insert(Size { bytes: None, stale: false });
        std::mem::take(&mut size.stale)
            || size.bytes.is_none()
            || round.wrapping_add(id.spread()).is_multiple_of(ROUNDS)
    }

    fn put(&self, id: SandboxId, bytes: u64) {
        let mut all = self.0.lock();
        let size = all.entry(id).or_insert(Size { bytes: None, stale: false });
        size.bytes = Some(bytes);
    }
}

fn keep_looking(found: &Weak<Found>, home: &Path, layer: &str) {
    give_way();
    for round in 0_u64.. {
        let began = Instant::now();
        let ids = ids(home);
        for &id in &ids {
            match found.upgrade() {
                Some(found) if found.is_due(id, round) => {}
                Some(_) => continue,
                None => return,
            }
            let worked = Instant::now();
            // One that is gone meanwhile has no size.
            let size = size(&home.join(id.to_string()).join(layer));
            let Some(found) = found.upgrade() else { return };
            if let Some(size) = size {
                found.put(id, size);
            }
            drop(found);
            thread::sleep((worked.elapsed() * REST).min(PERIOD));
        }
        let Some(kept) = found.upgrade() else { return };
        let ids: HashSet<SandboxId> = ids.into_iter().collect();
        kept.0.lock().retain(|id, _| ids.contains(id));
        drop(kept);
        while began.elapsed() < PERIOD {
            if found.strong_count() == 0 {
                return;
            }
            thread::sleep(NOTICE);
        }
    }
}

/// Lets all else run first, and read from the disk first.
fn give_way() {
    // SAFETY: both act on the calling thread alone (0 is itself); the parameter is zero, as
    // SCHED_IDLE demands, and outlives the call. IOPRIO_WHO_PROCESS is 1, and 3 << 13 is the class
    // idle. That either fails, which no kernel does, changes only the pace.
    unsafe {
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameter);
        libc::syscall(libc::SYS_ioprio_set, 1, 0, 3 << 13);
    }
}

fn ids(home: &Path) -> Vec<SandboxId> {
    let entries = fs::read_dir(home).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// What is below `path` takes on the disk (bytes); `None` where there is no such directory.
fn size(path: &Path) -> Option<u64> {
    let top = openat(AT_FDCWD, path, FLAGS, Mode::empty()).ok()?;
    let mut look = Look { bytes: 0, entries: 0, linked: HashSet::new() };
    look.directory(&top, 0);
    Some(look.bytes)
}

const FLAGS: OFlag =
    OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_NOATIME);

struct Look {
    bytes: u64,
    entries: u64,
    /// Inodes of files with several names.
    linked: HashSet<u64>,
}

impl Look {
    /// What cannot be read has gone meanwhile and is left out.
    fn directory(&mut self, at: &OwnedFd, depth: usize) {
        let opened = at.try_clone().map(Dir::from_fd);
        let Ok(Ok(mut entries)) = opened else { return };
        for entry in entries.iter() {
            let Ok(entry) = entry else { return };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                return;
            }
            let Ok(file) = fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            self.count(&file);
            if file.st_mode & libc::S_IFMT == libc::S_IFDIR
                && depth < DEEPEST
                && let Ok(within) = openat(at, name, FLAGS, Mode::empty())
            {
                self.directory(&within, depth + 1);
            }
        }
    }

    fn count(&mut self, file: &FileStat) {
        let several = file.st_nlink > 1 && file.st_mode & libc::S_IFMT != libc::S_IFDIR;
        if several && self.linked.len() < MOST_LINKED && !self.linked.insert(file.st_ino) {
            return;
        }
        let blocks = u64::try_from(file.st_blocks).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(blocks.saturating_mul(512));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, kib: usize) {
        fs::write(path, vec![1; kib << 10]).unwrap();
    }

    #[test]
    fn files_count_once_and_as_they_lie_on_the_disk_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (layer, outside) = (dir.path().join("layer"), dir.path().join("outside"));
        fs::create_dir_all(layer.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        let empty = size(&layer).unwrap();
        write(&outside.join("file"), 4096);
        write(&layer.join("a/b/file"), 512);
        fs::hard_link(layer.join("a/b/file"), layer.join("again")).unwrap();
        symlink(&outside, layer.join("a/link")).unwrap();
        symlink(outside.join("file"), layer.join("file")).unwrap();
        fs::File::create(layer.join("hole")).unwrap().set_len(1 << 30).unwrap();
        let grown = size(&layer).unwrap() - empty;
        assert!((512 << 10..600 << 10).contains(&grown), "{grown}");
        assert_eq!(size(&outside.join("file")), None);
        symlink(&layer, dir.path().join("link")).unwrap();
        assert_eq!(size(&dir.path().join("link")), None);
        assert_eq!(size(&dir.path().join("nowhere")), None);
    }

    #[test]
    fn what_lies_deeper_than_is_looked_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut deep = dir.path().to_owned();
        for _ in 0..DEEPEST + 20 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        let before = size(dir.path()).unwrap();
        write(&deep.join("file"), 1024);
        assert_eq!(size(dir.path()), Some(before));
    }

    #[test]
    fn sizes_are_found_for_as_long_as_somebody_wants_them_and_forgotten_with_their_sandbox() {
        let home = tempfile::tempdir().unwrap();
        let id = SandboxId::random();
        let layer = home.path().join(id.to_string()).join("layer");
        fs::create_dir_all(&layer).unwrap();
        write(&layer.join("file"), 64);
        let found = Found::begin(home.path().to_owned(), "layer").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        let until = |what: &dyn Fn() -> bool| {
            while !what() {
                assert!(Instant::now() < deadline);
                thread::sleep(Duration::from_millis(5));
            }
        };
        until(&|| found.of(id, false).is_some_and(|bytes| bytes >= 64 << 10));
        assert_eq!(found.of(SandboxId::random(), true), None);
        let weak = Arc::downgrade(&found);
        drop(found);
        until(&|| weak.strong_count() == 0);
    }

    #[test]
    fn what_is_written_during_the_first_look_is_found_by_the_next() {
        let (found, id) = (Found::default(), SandboxId::random());
        let idle = |round: &u64| !round.wrapping_add(id.spread()).is_multiple_of(ROUNDS);
        let round = (0..).find(idle).unwrap();
        assert_eq!(found.of(id, true), None);
        assert!(found.is_due(id, round));
        assert_eq!(found.of(id, true), None);
        found.put(id, 7);
        assert!(found.is_due(id, round) && !found.is_due(id, round));
        assert_eq!(found.of(id, false), Some(7));
    }

    #[test]
    fn one_that_has_not_run_is_looked_at_in_its_turn_alone() {
        let (found, id) = (Found::default(), SandboxId::random());
        let due = |rounds: u64| (0..rounds).filter(|round| found.is_due(id, *round)).count();
        assert_eq!(due(ROUNDS), 30);
        found.put(id, 7);
        assert_eq!((due(ROUNDS), found.of(id, false)), (1, Some(7)));
        assert_eq!(due(ROUNDS), 1);
        assert_eq!(found.of(id, true), Some(7));
        let idle =
            (0..).find(|round| !(round + id.spread() % ROUNDS).is_multiple_of(ROUNDS)).unwrap();
        assert!(found.is_due(id, idle) && !found.is_due(id, idle));
        // What it does while it is looked at is not lost.
        found.of(id, true);
        found.put(id, 8);
        assert!(found.is_due(id, idle) && !found.is_due(id, idle));
    }
}
