//! An envd's way into its jail, up to its answer: what it is told.

use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
    time::Duration,
};

use envd::{
    control,
    wire::{Attach, Init, JailAttach, JailNetwork, PROTOCOL, Spec},
};
use rctl_sys::jail::Jid;

use super::{
    error::Call,
    first, limits,
    spawn::{self, Child, Image, Process},
};
use crate::{
    backend::{CellSpec, Error, fresh},
    sandbox::SandboxId,
};

/// For each step of the conversation with a fresh envd.
const PATIENCE: Duration = Duration::from_secs(20);

/// How envd is to enter.
pub(super) fn attach(
    spec: &CellSpec,
    jid: Jid,
    cpus: Vec<u16>,
    network: Option<JailNetwork>,
) -> JailAttach {
    JailAttach {
        jid: jid.raw(),
        hostname: spec.id.to_string(),
        memory_bytes: spec.limits.memory_bytes,
        processes: limits::most_processes(spec.limits),
        cpus,
        network,
        only_network: false,
    }
}

/// Has a jail that lives configure the network it was just given, by an envd that ends with it:
/// addresses do not come along into another stack (`if_vmove`, sys/net/if.c). Blocks, for a bounded
/// time.
pub(super) fn configure(
    image: &Image,
    directory: &Path,
    id: SandboxId,
    jid: Jid,
    network: JailNetwork,
) -> Result<(), Error> {
    let child = begin(image, directory)?;
    let attach = JailAttach {
        jid: jid.raw(),
        hostname: id.to_string(),
        memory_bytes: 0,
        processes: 0,
        cpus: Vec::new(),
        network: Some(network),
        only_network: true,
    };
    let spec = Spec {
        protocol: PROTOCOL,
        sandbox_id: id.to_string(),
        template_id: String::new(),
        descriptors: Vec::new(),
        attach: Attach::Jail(attach),
        init: Init::default(),
    };
    tell(&child, &spec, &[], directory)
}

/// One that waits to be told what to do. Dropped, it is killed.
fn begin(image: &Image, directory: &Path) -> Result<Child, Error> {
    let child = spawn::spawn(image, &fresh::open_log(directory)?)?;
    child.control.set_read_timeout(Some(PATIENCE)).call("set timeout of", "control")?;
    child.control.set_write_timeout(Some(PATIENCE)).call("set timeout of", "control")?;
    Ok(child)
}

fn tell(
    child: &Child,
    spec: &Spec,
    descriptors: &[BorrowedFd<'_>],
    directory: &Path,
) -> Result<(), Error> {
    let answer = control::send_spec(child.control.as_fd(), spec, descriptors)
        .and_then(|()| control::receive_attached(child.control.as_fd()));
    fresh::judge(answer, directory, PATIENCE)
}

/// Starts an envd and hears whether it serves. On error it has ended. Blocks, for a bounded time.
pub(super) fn enter(
    image: &Image,
    directory: &Path,
    spec: &CellSpec,
    attach: JailAttach,
    jid: Jid,
) -> Result<Arc<Process>, Error> {
    let descriptors = fresh::listen(directory)?;
    let child = begin(image, directory)?;
    let spec = Spec {
        protocol: PROTOCOL,
        sandbox_id: spec.id.to_string(),
        template_id: spec.template.id.clone(),
        descriptors: descriptors.iter().map(|(role, _)| *role).collect(),
        attach: Attach::Jail(attach),
        init: spec.init.clone(),
    };
    let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(|(_, fd)| fd.as_fd()).collect();
    tell(&child, &spec, &fds, directory)?;
    first::note(directory, jid, child.pid())?;
    Ok(child.release())
}
