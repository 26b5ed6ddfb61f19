//! Making a sandbox's kernel half, up to envd's answer. Undoing a failure is the caller's.

use std::{
    io::Write,
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use envd::{
    control,
    walls::{self, Wall},
    wire::{Attach, Attached, Descriptor, LinuxAttach, LinuxNetwork, PROTOCOL, Spec},
};

use super::{
    cgroup::{Cgroups, ENVD_MEMORY},
    devices,
    error::Call,
    idmap::{self, Access},
    net, shaping,
    slot::{GATEWAY, Slot},
    spawner::{Child, Spawner},
};
use crate::backend::{CellSpec, Error, NetworkMode, fresh};

/// For each step of the conversation with a fresh envd, which has none but its own mounts to do.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of a sandbox's directory: what it writes.
pub(super) const LAYER: &str = "layer";

/// A child in its namespaces and cgroups, which has not run anything yet.
pub(super) struct Staged {
    child: Child,
    descriptors: Vec<(Descriptor, OwnedFd)>,
    directory: PathBuf,
}

/// Makes all of a sandbox that does not concern the network. Blocks.
pub(super) fn stage(
    cgroups: &Cgroups,
    spawner: &Spawner,
    directory: PathBuf,
    layer: &Path,
    spec: &CellSpec,
    slot: Slot,
) -> Result<Staged, Error> {
    let mut descriptors = fresh::listen(&directory)?;
    let log = fresh::open_log(&directory)?;

    let group = cgroups.create(spec.id, spec.limits)?;
    let child = spawner.spawn(&log, group.envd.as_ref(), slot.first_uid())?;
    child.join(&group.envd_v1)?;
    let namespace = child.map_ids(slot.first_uid())?;
    for path in &spec.template.layers {
        let mount = idmap::mount(path, namespace.as_fd(), Access::ReadOnly)?;
        descriptors.push((Descriptor::LowerLayer, mount));
    }
    let mount = idmap::mount(layer, namespace.as_fd(), Access::ReadWrite)?;
    descriptors.push((Descriptor::WritableLayer, mount));
    descriptors.push((Descriptor::Devices, devices::mount(slot.first_uid())?));
    let procs = group.user_procs.into_iter();
    descriptors.extend(procs.map(|procs| (Descriptor::UserCgroup, procs)));
    descriptors.push((Descriptor::MemoryUsage, group.memory_usage));
    descriptors.push((Descriptor::CpuUsage, group.cpu_usage));
    descriptors.push((Descriptor::MemoryKills, group.memory_kills));
    Ok(Staged { child, descriptors, directory })
}

/// How envd is to enter.
pub(super) fn attach(spec: &CellSpec, cpus: Vec<u16>, slot: Slot) -> LinuxAttach {
    LinuxAttach {
        hostname: spec.id.to_string(),
        memory_bytes: spec.limits.memory_bytes,
        // Half of either: an upload that fills it is charged to envd, and must meet its end
        // before envd meets its own.
        shm_bytes: spec.limits.memory_bytes.min(ENVD_MEMORY) / 2,
        cpus,
        processes: spec.limits.processes,
        open_files: spec.limits.open_files.filter(|_| !walls::is_down(Wall::Limits)),
        network: match spec.network {
            NetworkMode::None | NetworkMode::Inherit => None,
            NetworkMode::Nat => Some(LinuxNetwork { address: slot.address(), gateway: GATEWAY }),
        },
    }
}

/// Lets the child go and hears whether it serves. Blocks, for a bounded time.
pub(super) fn start(
    staged: Staged,
    spec: CellSpec,
    attach: LinuxAttach,
    slot: Slot,
) -> Result<OwnedFd, Error> {
    let Staged { mut child, descriptors, directory } = staged;
    child.control.set_read_timeout(Some(PATIENCE)).call("set timeout of", "control")?;
    child.control.set_write_timeout(Some(PATIENCE)).call("set timeout of", "control")?;
    let (network, limits) = (spec.network, spec.limits);
    let spec = Spec {
        protocol: PROTOCOL,
        sandbox_id: spec.id.to_string(),
        template_id: spec.template.id.clone(),
        descriptors: descriptors.iter().map(|(role, _)| *role).collect(),
        attach: Attach::Linux(attach),
        init: spec.init,
    };
    let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(|(_, fd)| fd.as_fd()).collect();
    let mut release = || {
        child.control.write_all(b"g")?;
        control::send_spec(child.control.as_fd(), &spec, &fds)
    };
    let answer = release();
    let mut link = Ok(());
    if answer.is_ok() && network == NetworkMode::Nat {
        // While envd is busy with its mounts; it waits for this byte before it needs the link.
        link = net::create(slot, child.pid)
            .and_then(|()| shaping::shape(slot, &limits, || shaping::namespace_of(child.pid)));
        let told = match link {
            Ok(()) => child.control.write_all(b"n"),
            Err(_) => child.control.shutdown(Shutdown::Write),
        };
        // It may have failed and be gone, and has said why.
        drop(told);
    }
    let answer = answer.and_then(|()| control::receive_attached(child.control.as_fd()));
    if let Err(error) = link {
        return Err(match answer {
            Ok(Attached::Failed { step, message, .. }) if step != control::AWAIT_LINK => {
                Error::Attach { step, message }
            }
            _ => error,
        });
    }
    fresh::judge(answer, &directory, PATIENCE)?;
    child.release().ok_or_else(|| Error::Unsupported("a child without a pidfd".into()))
}
