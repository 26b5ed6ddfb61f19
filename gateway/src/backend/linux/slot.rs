//! Slots: host-wide numbers, one for each sandbox of any gateway, from which its uid range, its
//! IPv4 address and its link's name follow.
//!
//! A slot is the file `/run/coppice/slots/<n>`, which says whose it is: whoever moves his file there
//! first has it. The files of slots given back are used again, as some file systems (ext4) become
//! slow where many are made and deleted.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, RenameFlags, renameat2},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::error::Call;
use crate::{backend::Error, sandbox::SandboxId};

pub(super) const RUN: &str = "/run/coppice";
const SLOTS: &str = "/run/coppice/slots";

/// As many as there are ranges of 65,536 user ids from [`FIRST_UID`] on, roughly.
const MAX: u32 = 60_000;
const FIRST_UID: u32 = 0x1000_0000;
/// The index of the first one's link.
const FIRST_LINK: u32 = 0x0100_0000;
/// Ids of a sandbox.
pub(super) const UIDS: u32 = 65_536;

/// A draft that is older is a spare one, or nobody's any more; whoever misses it makes another.
const DRAFT: Duration = Duration::from_secs(60);

/// Spare drafts kept; more are of use only to who gives back many slots before he takes any.
const SPARE: usize = 256;

/// The block RFC 2544 sets aside for benchmarks: nothing real is there.
pub(super) const NETWORK: &str = "198.18.0.0/15";
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const FIRST_ADDRESS: u32 = u32::from_be_bytes([198, 18, 0, 16]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot(pub(super) u32);

impl Slot {
    pub(super) fn first_uid(self) -> u32 {
        FIRST_UID + self.0 * UIDS
    }

    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_ADDRESS + self.0)
    }

    /// Name of the veth on the host.
    pub(super) fn link(self) -> String {
        format!("coppice{}", self.0)
    }

    /// Its index; chosen here, so that it need not be asked for.
    pub(super) fn link_index(self) -> u32 {
        FIRST_LINK + self.0
    }

    /// Whose link has that index, if it is one of ours.
    pub(super) fn of_link(index: u32) -> Option<Self> {
        index.checked_sub(FIRST_LINK).filter(|number| *number < MAX).map(Self)
    }
}

/// Whose a slot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) id: SandboxId,
    pub(super) data_dir: PathBuf,
}

pub(super) struct Slots {
    directory: PathBuf,
    /// Drafts of ours that were slots, to be written anew.
    spare: Mutex<Vec<PathBuf>>,
    /// Where to look next: a number just freed rests, as peers may remember its address.
    next: AtomicU32,
}

impl Slots {
    pub(super) fn new() -> Self {
        // Not each at the same: those whose `/run` is not one have users of their own, mostly.
        let next = SandboxId::random().spread() % u64::from(MAX);
        let next = AtomicU32::new(u32::try_from(next).unwrap_or_default());
        Self { directory: SLOTS.into(), spare: Mutex::default(), next }
    }

    /// Makes the directory, with this gateway in its list.
    pub(super) fn prepare(&self, gateway: &str) -> Result<(), Error> {
        for path in [self.directory.clone(), self.gateways().join(gateway)] {
            fs::create_dir_all(&path).call("mkdir", path.display())?;
        }
        self.clear_drafts(DRAFT);
        Ok(())
    }

    /// A gateway that was killed while it took a slot has left its draft.
    fn clear_drafts(&self, older_than: Duration) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let is_draft = entry.file_name().as_encoded_bytes().starts_with(b".");
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            let age = age.ok().and_then(|since| since.elapsed().ok()).unwrap_or_default();
            if is_draft && age >= older_than {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    pub(super) fn take(&self, owner: &Owner) -> Result<Slot, Error> {
        let text = serde_json::to_vec(owner).map_err(io::Error::from).call("encode", owner.id)?;
        let spare = self.spare.lock().pop();
        let draft = spare.unwrap_or_else(|| self.draft(owner.id));
        self.write(&draft, &text)?;
        let taken = match self.place(&draft) {
            // Another gateway has cleared it, as one of long ago.
            Err(Error::Call { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.write(&draft, &text)?;
                self.place(&draft)
            }
            placed => placed,
        };
        if taken.is_err() {
            let _ = fs::remove_file(&draft);
        }
        taken
    }

    fn write(&self, draft: &Path, text: &[u8]) -> Result<(), Error> {
        // Not truncated, which would have ext4 write it out at once: a spare one is as long, being
        // of the same gateway.
        let write = || {
            let mut options = File::options();
            options.write(true).create(true).truncate(false).open(draft)?.write_all(text)
        };
        match write() {
            // A gateway that was the last of the host as we came has cleared the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = &self.directory;
                fs::create_dir_all(directory).call("mkdir", directory.display())?;
                write()
            }
            result => result,
        }
        .call("write", draft.display())
    }

    fn place(&self, draft: &Path) -> Result<Slot, Error> {
        let start = self.next.load(Ordering::Relaxed);
        for slot in (start..MAX).chain(0..start).map(Slot) {
            let path = self.path(slot);
            match renameat2(AT_FDCWD, draft, AT_FDCWD, &path, RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => {
                    self.next.store((slot.0 + 1) % MAX, Ordering::Relaxed);
                    return Ok(slot);
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno).call("rename to", path.display()),
            }
        }
        Err(Error::Full(format!("all {MAX} slots in {} are taken", self.directory.display())))
    }

    pub(super) fn free(&self, slot: Slot) -> Result<(), Error> {
        let path = self.path(slot);
        let mut spare = self.spare.lock();
        let freed = if spare.len() < SPARE {
            // A name that no gateway has for another.
            let draft = self.draft(SandboxId::random());
            fs::rename(&path, &draft).map(|()| spare.push(draft))
        } else {
            fs::remove_file(&path)
        };
        match freed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).call("give back", path.display())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn owner(&self, slot: Slot) -> Option<Owner> {
        serde_json::from_slice(&fs::read(self.path(slot)).ok()?).ok()
    }

    /// All that are taken, by whomever.
    pub(super) fn list(&self) -> Vec<(Slot, Owner)> {
        let Ok(entries) = fs::read_dir(&self.directory) else { return Vec::new() };
        entries
            .filter_map(|entry| {
                let slot = Slot(entry.ok()?.file_name().to_str()?.parse().ok()?);
                Some((slot, self.owner(slot)?))
            })
            .collect()
    }

    /// Strikes this gateway off the list, and says whether it was the last of the host and no
    /// sandbox of any is left.
    pub(super) fn retire(&self, gateway: &str) -> bool {
        let gateways = self.gateways();
        let _ = fs::remove_dir(gateways.join(gateway));
        let last = |path: &Path| match fs::remove_dir(path) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !last(&gateways) {
            return false;
        }
        self.spare.lock().clear();
        self.clear_drafts(Duration::ZERO);
        last(&self.directory)
    }

    fn gateways(&self) -> PathBuf {
        self.directory.with_file_name("gateways")
    }

    fn draft(&self, name: SandboxId) -> PathBuf {
        self.directory.join(format!(".{name}"))
    }

    fn path(&self, slot: Slot) -> PathBuf {
        self.directory.join(slot.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that begins where the others do.
    fn at(directory: PathBuf) -> Slots {
        Slots { directory, next: AtomicU32::new(0), ..Slots::new() }
    }

    fn slots() -> (tempfile::TempDir, Slots) {
        let directory = tempfile::tempdir().unwrap();
        let slots = at(directory.path().join("slots"));
        slots.prepare("one").unwrap();
        (directory, slots)
    }

    fn owner() -> Owner {
        Owner { id: SandboxId::random(), data_dir: "/data".into() }
    }

    #[test]
    fn nobody_shares_a_slot() {
        let (_directory, slots) = slots();
        let (one, two) = (owner(), owner());
        let (first, second) = (slots.take(&one).unwrap(), slots.take(&two).unwrap());
        assert_ne!(first, second);
        assert_eq!(slots.owner(first), Some(one));
        slots.free(first).unwrap();
        slots.free(first).unwrap();
        assert_eq!(slots.list(), [(second, two)]);
    }

    #[test]
    fn the_file_of_a_slot_given_back_is_used_again_and_may_be_missing() {
        let (_directory, slots) = slots();
        let slot = slots.take(&owner()).unwrap();
        slots.free(slot).unwrap();
        assert_eq!((slots.list().len(), fs::read_dir(&slots.directory).unwrap().count()), (0, 1));
        let one = owner();
        let slot = slots.take(&one).unwrap();
        assert_eq!(slots.owner(slot), Some(one));
        assert_eq!(fs::read_dir(&slots.directory).unwrap().count(), 1);
        slots.free(slot).unwrap();
        slots.clear_drafts(Duration::ZERO);
        slots.take(&owner()).unwrap();
    }

    #[test]
    fn two_gateways_share_no_slot_either() {
        let (_directory, slots) = slots();
        let other = at(slots.directory.clone());
        assert_ne!(slots.take(&owner()).unwrap(), other.take(&owner()).unwrap());
    }

    #[test]
    fn only_the_last_gateway_clears_the_host() {
        let (_directory, slots) = slots();
        slots.prepare("two").unwrap();
        assert!(!slots.retire("one"));
        let slot = slots.take(&owner()).expect("the other gateway goes on");
        assert!(!slots.retire("two"), "a sandbox is left");
        slots.free(slot).unwrap();
        assert!(slots.retire("two"));
        assert!(slots.retire("two"));
    }

    #[test]
    fn a_gateway_goes_on_when_another_has_cleared_the_host() {
        let (_directory, slots) = slots();
        assert!(slots.retire("one"));
        slots.take(&owner()).unwrap();
    }

    #[test]
    fn a_draft_left_behind_is_in_nobodys_way() {
        let (_directory, slots) = slots();
        let draft = |name: &str, age| {
            let file = fs::File::create(slots.directory.join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
        };
        draft(".old", DRAFT + Duration::from_secs(1));
        draft(".new", Duration::ZERO);
        slots.prepare("one").unwrap();
        assert!(!slots.directory.join(".old").exists());
        assert!(slots.directory.join(".new").exists(), "another gateway may be about to link it");
        assert!(slots.retire("one"));
    }

    #[test]
    fn the_last_slot_is_within_every_range() {
        let last = Slot(MAX - 1);
        assert!(last.first_uid().checked_add(UIDS).is_some());
        assert_eq!(last.address().octets()[..1], [198]);
        assert!(u32::from(last.address()) < u32::from(Ipv4Addr::new(198, 20, 0, 0)));
        assert!(last.link().len() < libc::IFNAMSIZ);
    }
}
