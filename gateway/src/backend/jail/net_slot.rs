//! Slots: host-wide numbers, one for each sandbox of any gateway that has a link or an address of
//! the host's, from which the names and addresses of those follow.
//!
//! A slot is the file `/var/run/coppice/slots/<n>`, which says whose it is: whoever links his file
//! there first has it. It is there before anything is made in the kernel and goes after that, so
//! that what a killed gateway leaves behind is found. A host that starts anew has neither: rc.d's
//! `cleanvar` empties `/var/run`.

use std::{
    fs,
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::error::Call;
use crate::{backend::Error, sandbox::SandboxId};

pub(super) const RUN: &str = "/var/run/coppice";

/// epairs of ours have the units from here on: what others make begins at 0.
const FIRST_UNIT: u32 = 4096;
/// FreeBSD: an interface's unit is at most 32,767 (`IF_MAXUNIT`, net/if.h).
const MAX: u32 = 32_768 - FIRST_UNIT;

/// The block RFC 2544 sets aside for benchmarks: nothing real is there. A slot has four addresses.
pub(super) const NETWORK: &str = "198.18.0.0/15";
const FIRST_ADDRESS: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// Of a link: two ends, and what belongs to nobody in a subnet.
pub(super) const PREFIX: u8 = 30;

/// Of the loopback block, far from what anybody binds to.
const FIRST_LOOPBACK: u32 = u32::from_be_bytes([127, 64, 0, 1]);

/// A draft that is older is nobody's any more.
const DRAFT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

impl Slot {
    pub(super) fn new(number: u32) -> Option<Self> {
        (number < MAX).then_some(Self(number))
    }

    fn unit(self) -> u32 {
        FIRST_UNIT + self.0
    }

    /// What epair(4) is asked for.
    pub(super) fn pair(self) -> String {
        format!("epair{}", self.unit())
    }

    /// The host's end.
    pub(super) fn outside(self) -> String {
        format!("epair{}a", self.unit())
    }

    /// Whether that may be the host's end of a link of ours.
    pub(super) fn is_outside(interface: &str) -> bool {
        let unit = interface.strip_prefix("epair").and_then(|rest| rest.strip_suffix('a'));
        unit.and_then(|unit| unit.parse::<u32>().ok()).is_some_and(|unit| unit >= FIRST_UNIT)
    }

    /// The jail's.
    pub(super) fn inside(self) -> String {
        format!("epair{}b", self.unit())
    }

    /// Of the host's end.
    pub(super) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_ADDRESS + 4 * self.0 + 1)
    }

    /// Of the jail's.
    pub(super) fn address(self) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_ADDRESS + 4 * self.0 + 2)
    }

    /// Of a jail that has no stack of its own.
    pub(super) fn loopback(self) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_LOOPBACK + self.0)
    }
}

/// Whether an address is one of a link's.
pub(super) fn is_ours(address: Ipv4Addr) -> bool {
    u32::from(address) >> 17 == FIRST_ADDRESS >> 17
}

/// Whose a slot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    pub(super) id: SandboxId,
    pub(super) data_dir: PathBuf,
}

pub(super) struct Slots {
    run: PathBuf,
    /// Where to look next: a number just freed rests, as peers may remember its address.
    next: AtomicU32,
}

impl Slots {
    pub(super) fn new(run: &Path) -> Self {
        Self { run: run.to_owned(), next: AtomicU32::new(0) }
    }

    /// Makes the directories, with this gateway in its list.
    pub(super) fn prepare(&self, gateway: &str) -> Result<(), Error> {
        for path in [self.slots(), self.gateways().join(gateway)] {
            fs::create_dir_all(&path).call("mkdir", path.display())?;
        }
        self.clear_drafts(DRAFT);
        Ok(())
    }

    /// A gateway that was killed while it took a slot has left its draft.
    fn clear_drafts(&self, older_than: Duration) {
        for entry in fs::read_dir(self.slots()).into_iter().flatten().flatten() {
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
        let draft = self.slots().join(format!(".{}", owner.id));
        self.write(&draft, &text)?;
        let taken = self.place(&draft);
        let _ = fs::remove_file(&draft);
        taken
    }

    fn write(&self, draft: &Path, text: &[u8]) -> Result<(), Error> {
        let write = || fs::File::create(draft)?.write_all(text);
        match write() {
            // A gateway that was the last of the host as we came has cleared the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(self.slots()).call("mkdir", self.slots().display())?;
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
            match fs::hard_link(draft, &path) {
                Ok(()) => {
                    self.next.store((slot.0 + 1) % MAX, Ordering::Relaxed);
                    return Ok(slot);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).call("link to", path.display()),
            }
        }
        Err(Error::Full(format!("all {MAX} slots in {} are taken", self.slots().display())))
    }

    pub(super) fn free(&self, slot: Slot) -> Result<(), Error> {
        let path = self.path(slot);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.call("unlink", path.display()),
        }
    }

    /// All that are taken, by whomever.
    pub(super) fn list(&self) -> Vec<(Slot, Owner)> {
        let Ok(entries) = fs::read_dir(self.slots()) else { return Vec::new() };
        entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let slot = Slot::new(entry.file_name().to_str()?.parse().ok()?)?;
                Some((slot, serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?))
            })
            .collect()
    }

    /// Those of one sandbox: more than one if it was made by half, twice.
    pub(super) fn of(&self, owner: &Owner) -> Vec<Slot> {
        self.list().into_iter().filter_map(|(slot, of)| (of == *owner).then_some(slot)).collect()
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
        self.clear_drafts(Duration::ZERO);
        last(&self.slots())
    }

    fn slots(&self) -> PathBuf {
        self.run.join("slots")
    }

    fn gateways(&self) -> PathBuf {
        self.run.join("gateways")
    }

    fn path(&self, slot: Slot) -> PathBuf {
        self.slots().join(slot.0.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> (tempfile::TempDir, Slots) {
        let directory = tempfile::tempdir().unwrap();
        let slots = Slots::new(directory.path());
        slots.prepare("one").unwrap();
        (directory, slots)
    }

    fn owner() -> Owner {
        Owner { id: SandboxId::random(), data_dir: "/srv/one".into() }
    }

    #[test]
    fn a_slot_is_one_sandbox_s_until_it_is_given_back() {
        let (_directory, slots) = slots();
        let (one, two) = (owner(), owner());
        let first = slots.take(&one).unwrap();
        assert_ne!(slots.take(&two).unwrap(), first);
        assert_eq!(slots.of(&one), [first]);
        slots.free(first).unwrap();
        slots.free(first).unwrap();
        assert_eq!(slots.of(&one), []);
        assert_eq!(slots.list().len(), 1);
    }

    #[test]
    fn gateways_on_one_host_get_different_slots() {
        let (directory, slots) = slots();
        let other = Slots::new(directory.path());
        assert_ne!(slots.take(&owner()).unwrap(), other.take(&owner()).unwrap());
    }

    #[test]
    fn a_number_that_was_just_freed_rests() {
        let (_directory, slots) = slots();
        let first = slots.take(&owner()).unwrap();
        slots.free(first).unwrap();
        assert_ne!(slots.take(&owner()).unwrap(), first);
    }

    #[test]
    fn only_the_last_gateway_clears_the_host() {
        let (directory, slots) = slots();
        slots.prepare("two").unwrap();
        assert!(!slots.retire("one"));
        let slot = slots.take(&owner()).expect("the other gateway goes on");
        assert!(!slots.retire("two"), "a sandbox is left");
        slots.free(slot).unwrap();
        assert!(slots.retire("two"));
        assert!(!directory.path().join("slots").exists());
        slots.take(&owner()).expect("a gateway goes on when another has cleared the host");
    }

    #[test]
    fn a_draft_left_behind_is_in_nobodys_way() {
        let (directory, slots) = slots();
        let draft = directory.path().join("slots/.old");
        fs::write(&draft, "").unwrap();
        slots.prepare("one").unwrap();
        assert!(draft.exists(), "another gateway may be about to link it");
        assert!(slots.list().is_empty());
        assert!(slots.retire("one"));
    }

    #[test]
    fn names_and_addresses_follow_from_the_number_up_to_the_last() {
        let first = Slot(0);
        assert_eq!((first.pair(), first.outside()), ("epair4096".into(), "epair4096a".into()));
        assert_eq!(first.inside(), "epair4096b");
        assert!(Slot::is_outside(&first.outside()) && !Slot::is_outside(&first.inside()));
        assert!(!Slot::is_outside("epair0a") && !Slot::is_outside("em0"));
        assert_eq!(first.gateway(), Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(first.address(), Ipv4Addr::new(198, 18, 0, 2));
        assert_eq!(first.loopback(), Ipv4Addr::new(127, 64, 0, 1));

        let last = Slot::new(MAX - 1).unwrap();
        assert_eq!(last.inside(), "epair32767b");
        assert!(is_ours(last.address()) && is_ours(first.gateway()));
        assert_eq!(last.address(), Ipv4Addr::new(198, 19, 191, 254));
        assert_eq!(last.loopback(), Ipv4Addr::new(127, 64, 112, 0));
        assert_eq!(Slot::new(MAX), None);
        assert!(!is_ours(Ipv4Addr::new(198, 20, 0, 1)));
        assert!(!is_ours(Ipv4Addr::new(198, 17, 255, 255)));
    }
}
