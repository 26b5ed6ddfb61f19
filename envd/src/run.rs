//! The life of envd as a program: take the spec, enter the sandbox, serve.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    attach,
    control::{self, Descriptors, Failure},
    log, os,
    server::{Listeners, serve},
    state::Envd,
    wire::{Attached, CONTROL_FD, Descriptor, PROTOCOL},
};

/// Threads for calls that block, which is the file system's.
const BLOCKING_THREADS: usize = 8;

/// Enough for any of our calls, and little where hundreds of sandboxes each have some.
const STACK: usize = 256 << 10;

/// `coppice envd`: only the gateway starts this, with a socket at
/// [`CONTROL_FD`](crate::wire::CONTROL_FD).
pub fn run() -> ExitCode {
    os::lean_allocator();
    raise_descriptor_limit();
    let control = match os::inherited(CONTROL_FD).and_then(os::become_first_process) {
        Ok(control) => control,
        Err(error) => {
            eprintln!("envd: {error}; only the gateway starts it");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = log::begin() {
        eprintln!("envd: no log: {error}");
        return ExitCode::FAILURE;
    }
    match enter(control.as_fd()) {
        Ok(Some(serving)) => serve_for_ever(control, serving),
        Ok(None) => leave(control.as_fd()),
        Err(failure) => refuse(control.as_fd(), failure),
    }
}

/// Every process of the sandbox takes a few of ours; its own limit is set when it starts.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(errno) = raised {
        eprintln!("cannot raise the limit on descriptors: {errno}");
    }
}

/// What is served, and on which listeners.
type Serving = (Arc<Envd>, [UnixListener; 3]);

/// From the host into the sandbox, on the only thread. `None`: there is nothing to serve.
fn enter(control: BorrowedFd<'_>) -> Result<Option<Serving>, Failure> {
    let (spec, mut descriptors) =
        control::receive_spec(control).map_err(|error| Failure::new("receive the spec", &error))?;
    if spec.protocol != PROTOCOL {
        return Err(Failure {
            step: "compare versions".into(),
            errno: None,
            message: format!("the gateway speaks {}, this envd {PROTOCOL}", spec.protocol),
        });
    }
    attach::enter(&spec, &mut descriptors, control)?;
    if spec.attach.is_only_network() {
        return Ok(None);
    }
    if let Err(error) = os::adopt_orphans() {
        tracing::warn!(%error, "orphans will not come to us");
    }
    let listeners = listeners(&mut descriptors)?;
    let envd = Envd::with_descriptors(&spec, &mut descriptors);
    Ok(Some((envd, listeners)))
}

/// Says that all is done that this one was started for.
fn leave(control: BorrowedFd<'_>) -> ExitCode {
    match control::send_attached(control, &Attached::Ready { protocol: PROTOCOL }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot tell the gateway");
            ExitCode::FAILURE
        }
    }
}

fn serve_for_ever(control: OwnedFd, (envd, listeners): Serving) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK)
        .thread_keep_alive(Duration::from_secs(2))
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return refuse(control.as_fd(), Failure::new("start the runtime", &error)),
    };
    let served = runtime.block_on(async {
        let [envd_socket, tunnel, report] = listeners;
        let listeners = Listeners {
            envd: tokio::net::UnixListener::from_std(envd_socket)?,
            tunnel: tokio::net::UnixListener::from_std(tunnel)?,
            report: tokio::net::UnixListener::from_std(report)?,
        };
        // Whoever connects from now on is queued until it is accepted.
        control::send_attached(control.as_fd(), &Attached::Ready { protocol: PROTOCOL })?;
        drop(control);
        serve(envd, listeners).await
    });
    if let Err(error) = served {
        tracing::error!(%error, "cannot serve");
    }
    ExitCode::FAILURE
}

fn refuse(control: BorrowedFd<'_>, failure: Failure) -> ExitCode {
    tracing::error!(step = failure.step, errno = failure.errno, "{}", failure.message);
    let Failure { step, errno, message } = failure;
    if let Err(error) = control::send_attached(control, &Attached::Failed { step, errno, message })
    {
        tracing::error!(%error, "cannot tell the gateway");
    }
    ExitCode::FAILURE
}

fn listeners(descriptors: &mut Descriptors) -> Result<[UnixListener; 3], Failure> {
    let mut take = |role| {
        let listener = descriptors
            .take(role)
            .ok_or_else(|| io::Error::other(format!("no {role:?} came with the spec")))
            .map(UnixListener::from)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        listener.map_err(|error| Failure::new("listen", &error))
    };
    Ok([
        take(Descriptor::EnvdListener)?,
        take(Descriptor::TunnelListener)?,
        take(Descriptor::ReportListener)?,
    ])
}
