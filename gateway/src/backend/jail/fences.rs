//! What single sandboxes are kept from beyond what all are, in files beside the slots: a gateway
//! that starts has it before it opens a link, and it goes with the slot. When it is put into force
//! is for others to say.

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{error::Call, net_slot::Slot};
use crate::{
    backend::Error,
    network::{Cidr, Filter},
};

/// By the address that it is about.
pub(super) type Fences = BTreeMap<Ipv4Addr, Fence>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) allowed: Vec<Cidr>,
    pub(super) denied: Vec<Cidr>,
}

impl Fence {
    pub(super) fn of(filter: &Filter) -> Self {
        Self { allowed: filter.allowed.clone(), denied: filter.denied.clone() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.denied.is_empty()
    }

    /// Whether what is open to any sandbox is open.
    pub(super) fn permits(&self, target: Ipv4Addr) -> bool {
        let has = |list: &[Cidr]| list.iter().any(|range| range.has(target));
        has(&self.allowed) || !has(&self.denied)
    }
}

/// All of this gateway, and where they are written.
pub(super) struct Kept {
    directory: PathBuf,
    known: Mutex<Fences>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    address: Ipv4Addr,
    allowed: Vec<String>,
    denied: Vec<String>,
}

impl Kept {
    pub(super) fn new(run: &Path) -> Self {
        Self { directory: run.join("fences"), known: Mutex::default() }
    }

    /// Those of the slots that are this gateway's. One that cannot be read is one that closes all:
    /// rather that than one that opens.
    pub(super) fn take_up(&self, slots: &[Slot]) {
        let found = slots.iter().filter_map(|slot| {
            let text = match fs::read(self.path(*slot)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
                text => text.ok(),
            };
            let closed = || Fence { allowed: Vec::new(), denied: vec![Cidr::ALL] };
            Some((slot.address(), text.and_then(|text| read(&text)).unwrap_or_else(closed)))
        });
        *self.known.lock() = found.collect();
    }

    pub(super) fn all(&self) -> Fences {
        self.known.lock().clone()
    }

    pub(super) fn of(&self, slot: Slot) -> Fence {
        self.known.lock().get(&slot.address()).cloned().unwrap_or_default()
    }

    /// Known and written from here on; an open one is neither.
    pub(super) fn set(&self, slot: Slot, fence: &Fence) -> Result<(), Error> {
        let path = self.path(slot);
        if fence.is_open() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).call("unlink", path.display());
                }
                _ => drop(self.known.lock().remove(&slot.address())),
            }
            return Ok(());
        }
        let texts = |list: &[Cidr]| list.iter().map(Cidr::to_string).collect();
        let written = Written {
            address: slot.address(),
            allowed: texts(&fence.allowed),
            denied: texts(&fence.denied),
        };
        let text = serde_json::to_vec(&written).map_err(io::Error::from);
        let draft = path.with_extension("draft");
        let put = |text: Vec<u8>| {
            fs::create_dir_all(&self.directory)?;
            fs::write(&draft, text)?;
            fs::rename(&draft, &path)
        };
        text.and_then(put).call("write", path.display())?;
        self.known.lock().insert(slot.address(), fence.clone());
        Ok(())
    }

    /// With the last gateway of the host.
    pub(super) fn retire(&self) {
        // What others have put there is theirs.
        let _ = fs::remove_dir(&self.directory);
    }

    fn path(&self, slot: Slot) -> PathBuf {
        self.directory.join(slot.address().to_string())
    }
}

fn cidrs(texts: &[String]) -> Option<Vec<Cidr>> {
    texts.iter().map(|range| range.parse().ok()).collect()
}

fn read(text: &[u8]) -> Option<Fence> {
    let written: Written = serde_json::from_slice(text).ok()?;
    Some(Fence { allowed: cidrs(&written.allowed)?, denied: cidrs(&written.denied)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(allowed: &[&str], denied: &[&str]) -> Fence {
        let texts = |list: &[&str]| list.iter().map(|&range| range.to_owned()).collect::<Vec<_>>();
        let cidrs = |list: &[&str]| cidrs(&texts(list)).unwrap();
        Fence { allowed: cidrs(allowed), denied: cidrs(denied) }
    }

    #[test]
    fn a_gateway_that_starts_has_the_fences_of_the_one_before() {
        let run = tempfile::tempdir().unwrap();
        let [one, two, open] = [0, 1, 2].map(|number| Slot::new(number).unwrap());
        let kept = Kept::new(run.path());
        let some = fence(&["1.1.1.1"], &["0.0.0.0/0"]);
        kept.set(one, &some).unwrap();
        kept.set(two, &some).unwrap();
        kept.set(open, &Fence::default()).unwrap();
        let later = Kept::new(run.path());
        later.take_up(&[one, open]);
        assert_eq!(later.all(), Fences::from([(one.address(), some.clone())]));
        later.set(one, &Fence::default()).unwrap();
        assert!(later.all().is_empty());
        assert_eq!(fs::read_dir(run.path().join("fences")).unwrap().count(), 1);

        fs::write(kept.path(two), "{").unwrap();
        later.take_up(&[one, two]);
        assert_eq!(later.of(two), fence(&[], &["0.0.0.0/0"]), "rather closed than open");
    }

    #[test]
    fn what_is_allowed_is_permitted_though_it_is_denied() {
        let some = fence(&["1.1.1.0/24"], &["1.0.0.0/8", "9.9.9.9"]);
        for (target, permitted) in
            [("1.1.1.9", true), ("1.1.2.1", false), ("9.9.9.9", false), ("8.8.8.8", true)]
        {
            assert_eq!(some.permits(target.parse().unwrap()), permitted, "{target}");
        }
    }
}
