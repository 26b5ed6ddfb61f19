//! How a jail reaches the network: its stack, its end of an epair, the packet filter.
//!
//! | mode | the jail's stack | reaches |
//! |---|---|---|
//! | `none` | its own, with lo0 only | nothing |
//! | `none`, kernel without VIMAGE | the host's, with one address of 127/8 that is its own | what the host serves, from that address: `doctor` says so |
//! | `nat` | its own, with one end of an epair(4) | the internet, and the resolvers of the settings |
//! | `inherit` | the host's | what the host does |
//!
//! A link is a subnet of its own, routed by the host: two addresses, and no bridge. On a bridge
//! sandboxes share a segment with the host, and which of them has an address is what they say by
//! ARP; on a subnet each, the packet filter knows by the route of an address whose it is. So
//! nothing in the rules names a sandbox, and making a link is a handful of ioctls.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
};

use envd::wire::JailNetwork;
use parking_lot::Mutex;
use rctl_sys::jail::Jid;
use tracing::warn;

use super::{
    counted::Links,
    error::Kernel,
    fences::Fence,
    net_slot::{Owner, PREFIX, RUN, Slot, Slots},
    net_sys,
    pf::Tag,
    pf_run::{Filter, Guard},
    plan::Stack,
};
use crate::{
    backend::{Error, NetworkMode, Settings, Traffic},
    network,
    sandbox::SandboxId,
};

/// The host's part in the networks of its jails. All of it blocks.
pub(super) struct Network {
    data_dir: PathBuf,
    tag: Tag,
    slots: Arc<Slots>,
    filter: Arc<Filter>,
    /// From `prepare` to `retire`.
    guard: Mutex<Option<Guard>>,
    links: Mutex<Links>,
}

impl Network {
    pub(super) fn new(settings: &Settings) -> Self {
        let tag = Tag::of(&settings.data_dir);
        Self {
            data_dir: settings.data_dir.clone(),
            slots: Arc::new(Slots::new(RUN.as_ref())),
            filter: Arc::new(Filter::new(tag.clone(), settings.dns.clone(), RUN.as_ref())),
            tag,
            guard: Mutex::default(),
            links: Mutex::default(),
        }
    }

    /// What has gone over the links of those that are there.
    pub(super) fn traffic(
        &self,
        there: &BTreeSet<SandboxId>,
    ) -> Result<HashMap<SandboxId, Traffic>, Error> {
        let interfaces = net_sys::counters()?;
        let slots = || self.slots.list();
        Ok(self.links.lock().traffic(&interfaces, there, &self.data_dir, slots))
    }

    /// Makes the host ready: modules, forwarding, the packet filter. Idempotent. A host whose
    /// filter is not ready can still make sandboxes without a network, and says so.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        *self.guard.lock() = None;
        self.slots.prepare(self.tag.as_str())?;
        self.clear()?;
        if !has_stacks()? {
            return Ok(());
        }
        net_sys::load_module(c"if_epair")?;
        let ours = {
            let (slots, data_dir) = (Arc::clone(&self.slots), self.data_dir.clone());
            move |holds| {
                // Without the filter the host would be anybody's router.
                let forwards = holds && net_sys::turn_on_forwarding().map_err(complain).is_ok();
                set_all(&slots, &data_dir, forwards);
            }
        };
        self.filter.fences().take_up(&self.own_slots());
        ours(self.filter.look());
        *self.guard.lock() = Some(Guard::start(Arc::clone(&self.filter), ours));
        Ok(())
    }

    /// What a gateway has left whose directory is gone: nobody else would ever look after it.
    fn clear(&self) -> Result<(), Error> {
        for (slot, owner) in self.slots.list() {
            let name = owner.id.cell_name();
            if !owner.data_dir.exists() && rctl_sys::jail::find(&name).to("find", &name)?.is_none()
            {
                self.remove(slot)?;
            }
        }
        Ok(())
    }

    /// Which stack the jail is to have; before there is one.
    pub(super) fn stack(&self, id: SandboxId, mode: NetworkMode) -> Result<Stack, Error> {
        let stacks = has_stacks()?;
        match mode {
            NetworkMode::Inherit => Ok(Stack::Host),
            NetworkMode::None if stacks => Ok(Stack::Own),
            NetworkMode::None => {
                let address = self.slots.take(&self.owner(id))?.loopback();
                net_sys::add_loopback(address)?;
                Ok(Stack::Loopback(address))
            }
            NetworkMode::Nat if stacks => {
                self.filter.holds()?;
                Ok(Stack::Own)
            }
            NetworkMode::Nat => Err(Error::Unsupported(
                "network nat needs a kernel with options VIMAGE, as GENERIC is".into(),
            )),
        }
    }

    /// Gives a jail that has no process yet its link. Returns what envd has to configure inside.
    pub(super) fn up(
        &self,
        id: SandboxId,
        jid: Jid,
        mode: NetworkMode,
        filter: &network::Filter,
    ) -> Result<Option<JailNetwork>, Error> {
        if mode != NetworkMode::Nat {
            return Ok(None);
        }
        let slot = self.slots.take(&self.owner(id))?;
        self.filter.fence(slot, &fence_of(filter)?)?;
        net_sys::make_pair(slot, &self.tag, &id.cell_name())?;
        net_sys::give(slot, jid)?;
        net_sys::open(slot)?;
        if let Err(error) = self.filter.holds() {
            // The guard may have looked for links before there was this one.
            net_sys::shut(slot)?;
            return Err(error);
        }
        Ok(Some(JailNetwork {
            interface: slot.inside(),
            address: slot.address(),
            prefix: PREFIX,
            gateway: slot.gateway(),
        }))
    }

    /// Has one that lives reach what the filter leaves open, if it is linked; says whether it is.
    pub(super) fn fence(&self, id: SandboxId, filter: &network::Filter) -> Result<bool, Error> {
        let linked = |slot: &Slot| net_sys::has_pair(*slot);
        let slot = self.slots.of(&self.owner(id)).into_iter().find(linked);
        let fence = fence_of(filter)?;
        slot.map_or(Ok(false), |slot| self.filter.fence(slot, &fence).map(|()| true))
    }

    /// Whether it has a link, or an address of 127/8 and no other.
    pub(super) fn has_slot(&self, id: SandboxId) -> bool {
        !self.slots.of(&self.owner(id)).is_empty()
    }

    fn own_slots(&self) -> Vec<Slot> {
        let all = self.slots.list().into_iter();
        all.filter_map(|(slot, of)| (of.data_dir == self.data_dir).then_some(slot)).collect()
    }

    /// Takes away whatever [`Network::stack`] and [`Network::up`] have made. Idempotent; the jail
    /// may be gone, and this gateway may know nothing of it.
    pub(super) fn down(&self, id: SandboxId) -> Result<(), Error> {
        self.slots.of(&self.owner(id)).into_iter().try_for_each(|slot| self.remove(slot))
    }

    /// The file goes last, so that a failure is tried again.
    fn remove(&self, slot: Slot) -> Result<(), Error> {
        net_sys::remove_pair(slot)?;
        net_sys::remove_loopback(slot.loopback())?;
        self.filter.lift(slot)?;
        self.slots.free(slot)
    }

    /// The sandboxes of this data directory that have anything left here.
    pub(super) fn list(&self) -> Result<Vec<SandboxId>, Error> {
        let all = self.slots.list().into_iter();
        Ok(all.filter_map(|(_, of)| (of.data_dir == self.data_dir).then_some(of.id)).collect())
    }

    /// Undoes `prepare`: our rules when no sandbox of ours is left, the rest when none of any
    /// gateway on this host is.
    pub(super) fn retire(&self) -> Result<(), Error> {
        // It would load the rules again.
        *self.guard.lock() = None;
        if !self.list()?.is_empty() {
            return Ok(());
        }
        if self.filter.holds().is_ok() {
            self.filter.unload()?;
        }
        if self.slots.retire(self.tag.as_str()) {
            net_sys::restore_forwarding()?;
            self.filter.fences().retire();
            // What others have put there is theirs.
            let _ = std::fs::remove_dir(RUN);
        }
        Ok(())
    }

    fn owner(&self, id: SandboxId) -> Owner {
        Owner { id, data_dir: self.data_dir.clone() }
    }
}

/// What the packet filter can do of it.
fn fence_of(filter: &network::Filter) -> Result<Fence, Error> {
    if filter.names.is_empty() {
        Ok(Fence::of(filter))
    } else {
        Err(Error::NotYet("allowing domains"))
    }
}

/// Whether a jail can have a network stack of its own: `options VIMAGE`.
pub(super) fn has_stacks() -> Result<bool, Error> {
    rctl_sys::sysctl::feature("vimage").to("read", "kern.features.vimage")
}

/// The links of one gateway; one that has gone meanwhile is no matter.
fn set_all(slots: &Slots, data_dir: &std::path::Path, holds: bool) {
    for (slot, _) in slots.list().into_iter().filter(|(_, of)| of.data_dir == data_dir) {
        let set = if holds { net_sys::open(slot) } else { net_sys::shut(slot) };
        if let Err(error) = set {
            warn!(%error, "a sandbox's link is not as the packet filter would have it");
        }
    }
}

fn complain(error: Error) {
    warn!(%error, "no sandbox has a network: the host forwards nothing");
}
