//! How a jail reaches the network: its stack, its end of an epair, the packet filter.

use envd::wire::JailNetwork;
use rctl_sys::jail::Jid;

use super::plan::Stack;
use crate::{
    backend::{Error, NetworkMode, Settings},
    sandbox::SandboxId,
};

/// The host's part in the networks of its jails. All of it blocks.
pub(super) struct Network;

impl Network {
    pub(super) fn new(_settings: &Settings) -> Self {
        Self
    }

    /// Makes the host ready (bridge, packet filter). Idempotent.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Which stack the jail is to have; before there is one.
    pub(super) fn stack(&self, _id: SandboxId, _mode: NetworkMode) -> Result<Stack, Error> {
        Ok(Stack::Own)
    }

    /// Gives a jail that has no process yet its link. Returns what envd has to configure inside.
    pub(super) fn up(
        &self,
        _id: SandboxId,
        _jid: Jid,
        mode: NetworkMode,
    ) -> Result<Option<JailNetwork>, Error> {
        match mode {
            NetworkMode::None => Ok(None),
            NetworkMode::Nat => Err(Error::Unsupported("nat is not there yet".to_owned())),
        }
    }

    /// Takes away whatever [`Network::stack`] and [`Network::up`] have made. Idempotent; the jail
    /// may be gone, and this gateway may know nothing of it.
    pub(super) fn down(&self, _id: SandboxId) -> Result<(), Error> {
        Ok(())
    }

    /// The sandboxes of this data directory that have anything left here.
    pub(super) fn list(&self) -> Result<Vec<SandboxId>, Error> {
        Ok(Vec::new())
    }

    /// Undoes `prepare`, when no sandbox of any gateway on this host is left.
    pub(super) fn retire(&self) -> Result<(), Error> {
        Ok(())
    }
}
