//! What a sandbox writes: of what its root is made, how much it is, and how it outlives its
//! processes. All of it blocks.

use std::{path::Path, time::Duration};

use rctl_sys::{
    mount::{self, Mounted},
    sysctl,
};

use super::{
    freezing, furniture, holding,
    jails::Inner,
    making::Making,
    plan::{ROOT, Root},
    written, zfs,
};
use crate::{
    backend::{
        CellSpec, Copied, Error, Layer,
        copy::{self, Still},
        fresh,
    },
    sandbox::SandboxId,
};

/// Of what the root of one to be made is.
pub(super) fn root(inner: &Inner, spec: &CellSpec) -> Result<Root, Error> {
    let (over, layer) = match spec.template.layers.as_slice() {
        [layer] => (None, layer),
        [over, .., layer] => (Some(over), layer),
        [] => {
            let id = &spec.template.id;
            return Err(Error::Unsupported(format!("template {id} has no layer")));
        }
    };
    let thin = || {
        zfs::check_is_tree(layer)?;
        Ok(Root::Thin {
            entries: furniture::entries(layer)?,
            over: over.cloned(),
            layer: layer.clone(),
        })
    };
    let Some(zfs) = &inner.zfs else { return thin() };
    if spec.layer == Layer::Kept {
        return match zfs.kept(spec.id)? {
            Some(dataset) => Ok(Root::Clone { dataset, layer: layer.clone() }),
            None => thin(),
        };
    }
    if over.is_some() || !zfs.has(layer, spec.limits.disk_bytes)? {
        return thin();
    }
    let dataset = zfs.dataset(layer, spec.id, spec.limits.disk_bytes)?;
    Ok(Root::Clone { dataset, layer: layer.clone() })
}

/// Ends a sandbox, but for what it has written.
pub(super) fn shut_down(inner: &Inner, id: SandboxId) -> Result<(), Error> {
    let directory = inner.directory(id);
    if own_file_system(&directory).is_some_and(|root| root.fstype == "tmpfs") {
        return Err(Error::Unsupported(format!(
            "sandbox {id} has its files in memory (--jail tmpfs), where they end with it"
        )));
    }
    holding::release(&mut Making { keeps: true, ..Making::new(inner, id, &directory) })?;
    freezing::forget(&directory)?;
    fresh::remove_sockets(&directory)
}

/// It goes on with that.
pub(super) fn take_up(inner: &Inner, id: SandboxId) -> Result<(), Error> {
    match &inner.zfs {
        Some(zfs) if zfs.kept(id)?.is_some() => zfs.take_up(id),
        _ => Ok(()),
    }
}

/// Writes out what it has written, unless that is in a pool, which is to be flushed as a whole:
/// whether it is.
pub(super) fn flush(inner: &Inner, id: SandboxId) -> Result<bool, Error> {
    let directory = inner.directory(id);
    let is_kept = || inner.zfs.as_ref().map_or(Ok(false), |zfs| Ok(zfs.kept(id)?.is_some()));
    match own_file_system(&directory) {
        Some(root) if root.fstype == "tmpfs" => Err(Error::Unsupported(format!(
            "sandbox {id} has its files in memory (--jail tmpfs), and nowhere else"
        ))),
        None if !is_kept()? => written::write_out(&directory.join(ROOT)).map(|()| false),
        _ => Ok(true),
    }
}

/// The same, of a copy.
pub(super) fn flush_copy(inner: &Inner, copy: &Path) -> Result<bool, Error> {
    match &inner.zfs {
        Some(zfs) if zfs.is_copy(copy)? => Ok(true),
        _ => written::write_out(copy).map(|()| false),
    }
}

pub(super) fn flush_pool(inner: &Inner) -> Result<(), Error> {
    inner.zfs.as_ref().map_or(Ok(()), zfs::Zfs::flush)
}

/// Copies what a running sandbox has written to `to`: by a snapshot of its dataset, or, where it has
/// none, file by file. What is left there on error is the caller's to remove.
pub(super) fn copy_layer(
    inner: &Inner,
    id: SandboxId,
    to: &Path,
    is_enough: &dyn Fn() -> bool,
) -> Result<Copied, Error> {
    if let Some(zfs) = &inner.zfs
        && zfs.copy(id, to, is_enough)?
    {
        let (root, stood_still) = (to.to_owned(), Duration::ZERO);
        return Ok(Copied { root, by: "a ZFS snapshot", stood_still, whole: true });
    }
    let directory = inner.directory(id);
    let still = Still {
        freeze: &|| freezing::freeze(id, &directory, is_enough),
        thaw: &|| freezing::thaw(id, &directory),
    };
    copy::layer(&directory.join(ROOT), to, &still, &[zfs::MARK_NAME], is_enough)
}

/// Bytes it has in its root beside those it began with; `None` where that is no file system of its
/// own. One look at a file.
pub(super) fn used(inner: &Inner, id: SandboxId) -> Option<u64> {
    let root = own_file_system(&inner.directory(id))?;
    let base = match &inner.zfs {
        Some(zfs) if root.fstype == "zfs" => zfs.base(id).ok()??,
        _ => 0,
    };
    Some(root.total_bytes.saturating_sub(root.free_bytes).saturating_sub(base))
}

/// What its root is mounted from, if it is.
fn own_file_system(directory: &Path) -> Option<Mounted> {
    let root = directory.join(ROOT);
    mount::statfs(&root).ok().filter(|found| found.path == root)
}

/// kern.boot_id: a number that each boot draws. Older kernels have none.
pub(super) fn boot() -> Option<String> {
    sysctl::bytes("kern.boot_id").ok().flatten().map(hex::encode)
}
