//! The way to the ports inside: one connection on the tunnel socket is one to `127.0.0.1:port`.
//!
//! See [`crate::wire`] for the few bytes before.

use std::{io, net::Ipv6Addr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
    net::{TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{server::accept, wire::TunnelReply};

/// Connections at once.
const MAX_TUNNELS: usize = 4096;

/// For the port's two bytes to come.
const HELLO: Duration = Duration::from_secs(5);

/// For something inside to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Buffered in each direction (bytes).
const BUFFER: usize = 16 << 10;

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
    let mut inside = match timeout(CONNECT, connect(port)).await.map_err(io::Error::from).flatten()
    {
        Ok(inside) => inside,
        Err(error) => {
            let reply = match error.kind() {
                io::ErrorKind::ConnectionRefused => TunnelReply::Refused,
                _ => TunnelReply::Failed,
            };
            return gateway.write_u8(reply as u8).await;
        }
    };
    inside.set_nodelay(true)?;
    gateway.write_u8(TunnelReply::Open as u8).await?;
    copy_bidirectional_with_sizes(&mut gateway, &mut inside, BUFFER, BUFFER).await?;
    Ok(())
}

/// By IPv4, or IPv6 where nobody listens there: some servers bind `::1` alone.
async fn connect(port: u16) -> io::Result<TcpStream> {
    match TcpStream::connect(("127.0.0.1", port)).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| error)
        }
        connected => connected,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn through(port: u16) -> (UnixStream, u8) {
        let (mut gateway, envd) = UnixStream::pair().unwrap();
        tokio::spawn(tunnel(envd));
        gateway.write_u16(port).await.unwrap();
        let reply = gateway.read_u8().await.unwrap();
        (gateway, reply)
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
            let (mut gateway, reply) = through(port).await;
            assert_eq!(reply, TunnelReply::Open as u8);
            gateway.write_all(b"hello").await.unwrap();
            gateway.shutdown().await.unwrap();
            let mut answer = String::new();
            gateway.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "you said hello");
            server.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_port_nobody_listens_on_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(through(port).await.1, TunnelReply::Refused as u8);
    }
}
