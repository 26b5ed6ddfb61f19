//! An envd's way into its jail, up to its answer: its sockets and log, and what it is told.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixListener},
    },
    path::Path,
    sync::Arc,
    time::Duration,
};

use envd::{
    control,
    wire::{Attach, Attached, Descriptor, JailAttach, JailNetwork, PROTOCOL, Spec},
};
use rctl_sys::jail::Jid;

use super::{
    error::Call,
    first, limits,
    spawn::{self, Image, Process},
};
use crate::backend::{CellSpec, Error};

/// For each step of the conversation with a fresh envd.
const PATIENCE: Duration = Duration::from_secs(20);

const SOCKETS: [(&str, Descriptor); 3] = [
    ("envd.sock", Descriptor::EnvdListener),
    ("tunnel.sock", Descriptor::TunnelListener),
    ("report.sock", Descriptor::ReportListener),
];
const LOG: &str = "envd.log";

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
    }
}

/// Starts an envd and hears whether it serves. On error it has ended. Blocks, for a bounded time.
pub(super) fn enter(
    image: &Image,
    directory: &Path,
    spec: &CellSpec,
    attach: JailAttach,
    jid: Jid,
) -> Result<Arc<Process>, Error> {
    let mut descriptors: Vec<(Descriptor, OwnedFd)> = Vec::new();
    for (name, role) in SOCKETS {
        let path = directory.join(name);
        let listener = UnixListener::bind(&path).call("bind", path.display())?;
        descriptors.push((role, listener.into()));
    }
    let path = directory.join(LOG);
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    let log = options.open(&path).call("open", path.display())?;

    let child = spawn::spawn(image, &log)?;
    child.control.set_read_timeout(Some(PATIENCE)).call("set timeout of", "control")?;
    child.control.set_write_timeout(Some(PATIENCE)).call("set timeout of", "control")?;
    let spec = Spec {
        protocol: PROTOCOL,
        sandbox_id: spec.id.to_string(),
        template_id: spec.template.id.clone(),
        descriptors: descriptors.iter().map(|(role, _)| *role).collect(),
        attach: Attach::Jail(attach),
        init: spec.init.clone(),
    };
    let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(|(_, fd)| fd.as_fd()).collect();
    let answer = control::send_spec(child.control.as_fd(), &spec, &fds)
        .and_then(|()| control::receive_attached(child.control.as_fd()));
    match answer {
        Ok(Attached::Ready { protocol: PROTOCOL }) => {
            first::note(directory, jid, child.pid())?;
            Ok(child.release())
        }
        Ok(Attached::Ready { protocol }) => Err(Error::Attach {
            step: "speak the gateway's protocol".into(),
            message: format!("the gateway speaks version {PROTOCOL}, envd {protocol}"),
        }),
        Ok(Attached::Failed { step, message, .. }) => Err(Error::Attach { step, message }),
        Err(source) => Err(match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                Error::Timeout("envd's answer", PATIENCE)
            }
            _ => Error::Attach {
                step: "answer".into(),
                message: format!("{source}; its log ends: {}", log_end(directory)),
            },
        }),
    }
}

fn log_end(directory: &Path) -> String {
    const LENGTH: u64 = 600;
    let read = || {
        let mut log = File::open(directory.join(LOG))?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(LENGTH)))?;
        let mut text = Vec::new();
        log.take(LENGTH).read_to_end(&mut text)?;
        Ok::<_, io::Error>(String::from_utf8_lossy(&text).trim().to_owned())
    };
    read().unwrap_or_else(|error| error.to_string())
}

/// Removes the sockets, which nobody serves any more.
pub(super) fn remove_sockets(directory: &Path) -> Result<(), Error> {
    for (name, _) in SOCKETS {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).call("unlink", path.display());
            }
            _ => {}
        }
    }
    Ok(())
}
