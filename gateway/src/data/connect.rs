//! Reaching a port of a sandbox: envd on its own socket, every other one through the tunnel.

use std::{io, time::Duration};

use envd::tunnel::{self, Answer, Handed};
use tokio::time::{Instant, sleep, timeout};

use super::server::Server;
use crate::sandbox::Sandbox;

/// Until a port's stream is open.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a socket nobody listens on is tried again: envd has died and the sandbox is about to be
/// cut, or it is FreeBSD's way to say that the backlog is full.
const REFUSED: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("nothing listens on the port")]
    PortClosed,
    #[error("envd is gone: {0}")]
    Gone(io::Error),
    #[error("{0}")]
    Failed(io::Error),
    #[error("no answer within {CONNECT:?}")]
    TimedOut,
}

pub(super) async fn connect(sandbox: &Sandbox, port: u16) -> Result<Handed, Error> {
    let stream = async {
        if Server::of(sandbox, port).is_envds() {
            return dial(sandbox, "envd.sock").await;
        }
        let tunnel = dial(sandbox, "tunnel.sock").await?;
        match tunnel::ask(tunnel, port).await.map_err(Error::Failed)? {
            Answer::Open(stream) => Ok(stream),
            Answer::Refused => Err(Error::PortClosed),
        }
    };
    timeout(CONNECT, stream).await.unwrap_or(Err(Error::TimedOut))
}

/// Connects to one of the sandbox's sockets, as patiently as a full backlog asks for.
async fn dial(sandbox: &Sandbox, socket: &str) -> Result<Handed, Error> {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    let path = sandbox.dir().join(socket);
    let started = Instant::now();
    loop {
        match Handed::dial(&path) {
            Ok(stream) => return Ok(stream),
            // Linux: the backlog is full.
            Err(error) if error.kind() == WouldBlock => {}
            Err(error) if matches!(error.kind(), ConnectionRefused | NotFound) => {
                if started.elapsed() >= REFUSED {
                    return Err(Error::Gone(error));
                }
            }
            Err(error) => return Err(Error::Failed(error)),
        }
        sleep(PAUSE).await;
    }
}
