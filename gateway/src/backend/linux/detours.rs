//! The ways that sandboxes have which may reach names: one to a resolver, one to web servers.

use std::{net::IpAddr, sync::Arc};

use tokio_util::task::AbortOnDropHandle;

use super::{
    error::Call,
    fence::{Detours, Fences},
    resolver::{self, Resolver},
    slot::GATEWAY,
    web::Web,
};
use crate::backend::Error;

/// Both are served until it is dropped.
pub(super) struct Open {
    _serving: [AbortOnDropHandle<()>; 3],
}

/// Within a runtime.
pub(super) fn open(fences: &Arc<Fences>, dns: &[IpAddr]) -> Result<Open, Error> {
    let (udp, tcp, answers) = resolver::listen().call("listen for questions at", GATEWAY)?;
    let listener = resolver::listen_tcp(0).call("listen for connections at", GATEWAY)?;
    let web = listener.local_addr().call("ask the address of", GATEWAY)?.port();
    let resolver = Arc::new(Resolver::new(fences.clone(), dns.to_vec()));
    let leading = Arc::new(Web::new(fences.clone(), resolver.clone()));
    let serving = [
        tokio::spawn(resolver.clone().serve_udp(udp)),
        tokio::spawn(resolver.serve_tcp(tcp)),
        tokio::spawn(leading.serve(listener)),
    ];
    fences.detour_by(Detours { answers, web });
    Ok(Open { _serving: serving.map(AbortOnDropHandle::new) })
}
