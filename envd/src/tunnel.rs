//! The way to the ports inside: one connection on the tunnel socket becomes one to
//! `127.0.0.1:port`, whose socket is handed to the gateway.
//!
//! See [`crate::wire`] for the few bytes that are said. A socket belongs to the network it was made
//! in, wherever it is used; so what goes to a port and back passes through no process in between.

use std::{io, net::Ipv6Addr, os::fd::AsFd, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

pub use crate::os::Handed;
use crate::{
    os::{self, close_elsewhere},
    server::accept,
    wire::TunnelReply,
};

/// Being connected at once.
const MAX_TUNNELS: usize = 4096;

/// For the port's two bytes to come.
const HELLO: Duration = Duration::from_secs(5);

/// For something inside to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// What the gateway was told of a port.
pub enum Answer {
    Open(Handed),
    /// Nothing listens on it.
    Refused,
}

/// The gateway's side: asks for `port`. What answers may be hostile, and may take for ever.
///
/// # Errors
/// What the socket says, or the port, or nonsense that envd never would.
pub async fn ask(mut tunnel: Handed, port: u16) -> io::Result<Answer> {
    tunnel.write_u16(port).await?;
    let (reply, mut sockets) = tunnel.receive().await?;
    let socket = sockets.pop();
    if sockets.is_empty() {
        match socket {
            Some(socket) if reply == TunnelReply::Open as u8 => {
                return Handed::tcp(socket).map(Answer::Open);
            }
            None if reply == TunnelReply::Refused as u8 => return Ok(Answer::Refused),
            _ => {}
        }
    }
    sockets.extend(socket);
    close_elsewhere(sockets);
    Err(io::Error::other(format!("the tunnel answered {reply}")))
}

/// Serves for ever.
pub(crate) async fn serve(listener: UnixListener) {
    let room = Arc::new(Semaphore::new(MAX_TUNNELS));
    loop {
        let mut gateway = accept(&listener).await;
        let permit = room.clone().try_acquire_owned();
        tokio::spawn(async move {
            let served = match permit {
                Ok(_permit) => tunnel(gateway).await,
                Err(_) => gateway.write_u8(TunnelReply::Failed as u8).await,
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a tunnel broke");
            }
        });
    }
}

async fn tunnel(mut gateway: UnixStream) -> io::Result<()> {
    let port = timeout(HELLO, gateway.read_u16()).await??;
    let connected = timeout(CONNECT, connect(port)).await.map_err(io::Error::from).flatten();
    match connected {
        Ok(inside) => open(&gateway, &inside),
        Err(error) => {
            let reply = match error.kind() {
                io::ErrorKind::ConnectionRefused => TunnelReply::Refused,
                _ => TunnelReply::Failed,
            };
            gateway.write_u8(reply as u8).await
        }
    }
}

/// Answers with an open socket.
pub fn open(gateway: &UnixStream, socket: &impl AsFd) -> io::Result<()> {
    // One byte on an empty socket finds room.
    os::send(gateway.as_fd(), TunnelReply::Open as u8, &[socket.as_fd()])
}

/// By IPv4, or IPv6 where nobody listens there: some servers bind `::1` alone.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let connected = match TcpStream::connect(("127.0.0.1", port)).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| error)
        }
        connected => connected,
    }?;
    connected.set_nodelay(true)?;
    Ok(connected)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The gateway's end, and envd's.
    async fn sockets() -> (Handed, UnixStream) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tunnel.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let gateway = Handed::dial(&path).unwrap();
        (gateway, listener.accept().await.unwrap().0)
    }

    async fn through(port: u16) -> io::Result<Answer> {
        let (gateway, envd) = sockets().await;
        tokio::spawn(tunnel(envd));
        ask(gateway, port).await
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_half_a_close_is_half_a_close() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let server = tokio::spawn(async move {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut asked = String::new();
                client.read_to_string(&mut asked).await.unwrap();
                client.write_all(format!("you said {asked}").as_bytes()).await.unwrap();
            });
            let Answer::Open(mut inside) = through(port).await.unwrap() else { panic!("refused") };
            inside.write_all(b"hello").await.unwrap();
            inside.shutdown().await.unwrap();
            let mut answer = String::new();
            inside.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "you said hello");
            server.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert!(matches!(through(port).await, Ok(Answer::Refused)));
    }

    #[tokio::test]
    async fn an_open_port_without_its_socket_is_an_error() {
        for reply in [&[TunnelReply::Open as u8][..], &[7], &[]] {
            let (gateway, mut envd) = sockets().await;
            envd.write_all(reply).await.unwrap();
            envd.shutdown().await.unwrap();
            assert!(ask(gateway, 80).await.is_err());
        }
    }

    #[tokio::test]
    async fn more_or_less_than_one_tcp_socket_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        let (tcp, unix) = (listener.as_fd(), unix.as_fd());
        let open = TunnelReply::Open as u8;
        let cases =
            [(open, vec![tcp, tcp]), (open, vec![unix]), (TunnelReply::Refused as u8, vec![tcp])];
        for (reply, sent) in cases {
            let (gateway, envd) = sockets().await;
            os::send(envd.as_fd(), reply, &sent).unwrap();
            assert!(ask(gateway, 80).await.is_err(), "{reply}, {sent:?}");
        }
    }
}
