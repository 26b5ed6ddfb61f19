//! Web servers, for sandboxes that may reach some by name: connections to ports 80 and 443 come
//! here, whatever address they are for, and go on to an address of the name that they begin with
//! (the SNI of TLS, the Host of HTTP), where the sandbox may reach that. An address that many names
//! share is so open by the allowed ones alone.
//!
//! Of a connection by HTTP the first request is looked at; a server may take those that follow for
//! another of its own names.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{getsockopt, sockopt::OriginalDst};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tracing::debug;

use super::{fence::Fences, places::Places, resolver::Resolver};
use crate::network::name_of;

/// Connections at once: of one sandbox, and of all.
const CONNECTIONS: [usize; 2] = [256, 8192];
/// For what a connection begins with, and how long that may be.
const BEGINNING: Duration = Duration::from_secs(10);
const MOST_BYTES: usize = 16 << 10;
const CONNECT: Duration = Duration::from_secs(10);
/// A sandbox that has gone says nothing.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) struct Web {
    fences: Arc<Fences>,
    resolver: Arc<Resolver>,
    connections: Places,
}

impl Web {
    pub(super) fn new(fences: Arc<Fences>, resolver: Arc<Resolver>) -> Self {
        let [of_one, of_all] = CONNECTIONS;
        Self { fences, resolver, connections: Places::new(of_one, of_all) }
    }

    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((mut stream, SocketAddr::V4(from))) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Some(place) = self.connections.take(*from.ip()) else { continue };
            let web = self.clone();
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = web.carry(&mut stream, *from.ip()).await {
                    debug!(%from, %error, "a connection to a web server");
                    // Not an orderly end of what was not there.
                    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                }
            });
        }
    }

    async fn carry(&self, stream: &mut TcpStream, source: Ipv4Addr) -> io::Result<()> {
        let refused = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
        let named = self.fences.named(source);
        let named = named.ok_or_else(|| refused("it may reach no name".to_owned()))?;
        let port = u16::from_be(getsockopt(stream, OriginalDst)?.sin_port);
        let mut begun = Vec::new();
        let name = timeout(BEGINNING, read_name(stream, &mut begun)).await??;
        if !named.allows(&name) {
            self.fences.note_refused();
            return Err(refused(format!("{name} is not allowed")));
        }
        let found = self.resolver.look_up(&named, &name).await;
        let found = found.map_err(|outcome| io::Error::other(format!("{name}: {outcome:?}")))?;
        let mut server = connect(&found.addresses, port).await?;
        for end in [SockRef::from(&server), SockRef::from(&*stream)] {
            end.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE))?;
            end.set_tcp_nodelay(true)?;
        }
        server.write_all(&begun).await?;
        let copied = copy_bidirectional(stream, &mut server);
        match named.cut.run_until_cancelled(copied).await {
            Some(copied) => copied.map(drop),
            None => Err(refused(format!("{name} is not allowed any more"))),
        }
    }
}

async fn connect(addresses: &[Ipv4Addr], port: u16) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no open address");
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect((*address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

/// The name that a connection begins with; what was read of it is in `begun`.
async fn read_name(stream: &mut TcpStream, begun: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if stream.read_buf(begun).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(name) = name_of(begun)? {
            return Ok(name);
        }
        if begun.len() >= MOST_BYTES {
            let why = "it begins with too much";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
    }
}
