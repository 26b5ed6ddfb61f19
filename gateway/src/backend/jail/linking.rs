//! A link for a sandbox that was made without one, or has destroyed its own: what is made with a jail
//! otherwise (`making`) is made for one that lives.

use rctl_sys::{
    abi::JAIL_SYS_NEW,
    jail::{self, By, Flags, Kind},
};
use tracing::error;

use super::{
    entry,
    error::Kernel,
    jails::Inner,
    net::has_stacks,
    plan::{Unlinked, unlinked},
};
use crate::{
    backend::{Error, NetworkMode},
    network::Filter,
    sandbox::SandboxId,
};

/// Where the filter leaves anything open. On error there is none. Blocks, for a bounded time.
pub(super) fn link(inner: &Inner, id: SandboxId, filter: &Filter) -> Result<(), Error> {
    let name = id.cell_name();
    // A kernel without VIMAGE does not know of it.
    let wanted = if has_stacks()? { &[("vnet", Kind::Int)][..] } else { &[] };
    let found = jail::get(By::Name(&name), wanted, Flags::NONE).to("look for jail", &name)?;
    let found = found.ok_or_else(|| Error::Unsupported(format!("sandbox {id} is not there")))?;
    let has_stack = found.int("vnet") == Some(JAIL_SYS_NEW);
    match unlinked(has_stack, inner.network.has_slot(id), filter) {
        Unlinked::Stays => return Ok(()),
        Unlinked::IsTheHosts => {
            return Err(Error::NotYet("a network policy for a jail with the host's network stack"));
        }
        Unlinked::Links => {}
    }
    inner.network.stack(id, NetworkMode::Nat)?;
    inner.network.down(id)?;
    let up = inner.network.up(id, found.jid, NetworkMode::Nat, filter);
    let linked = up.and_then(|network| match network {
        Some(network) => {
            entry::configure(inner.image()?, &inner.directory(id), id, found.jid, network)
        }
        None => Ok(()),
    });
    if linked.is_err()
        && let Err(error) = inner.network.down(id)
    {
        error!(sandbox = %id, %error, "a link that is not used cannot be taken away");
    }
    linked
}
