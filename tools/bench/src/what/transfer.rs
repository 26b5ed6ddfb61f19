//! One request after the other on a connection of its own, each counted by the bytes it moves.

use std::{net::SocketAddr, sync::Arc};

use anyhow::ensure;
use http::Request;

use crate::{
    client::{Client, Keep, Payload},
    load::{Closed, Work},
};

pub(super) type Make = Arc<dyn Fn(usize) -> anyhow::Result<Request<Payload>> + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

pub(super) struct Transfer {
    client: Client,
    make: Make,
    /// Which of the clients this is: each has a file of its own.
    number: usize,
    direction: Direction,
    size: u64,
}

impl Work for Transfer {
    async fn once(&mut self) -> anyhow::Result<u64> {
        let request = (self.make)(self.number)?;
        let answer = self.client.send(request, Keep::Length).await?.successful()?;
        if self.direction == Direction::Down {
            ensure!(answer.length == self.size, "{} bytes of {}", answer.length, self.size);
        }
        Ok(self.size)
    }
}

/// So many clients of one server.
pub(super) fn clients(
    count: usize,
    server: SocketAddr,
    direction: Direction,
    size: u64,
    make: &Make,
) -> Closed<Transfer> {
    let client = |number| Transfer {
        client: Client::new(server),
        make: Arc::clone(make),
        number,
        direction,
        size,
    };
    Closed((0..count).map(client).collect())
}

pub(super) fn at_once(clients: usize) -> String {
    if clients == 1 { "one at a time".to_owned() } else { format!("{clients} at once") }
}

pub(super) fn bytes(size: u64) -> String {
    if size < 1 << 20 { format!("{} KiB", size >> 10) } else { format!("{} MiB", size >> 20) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_in_their_own_unit() {
        assert_eq!((bytes(1024), bytes(64 << 20)), ("1 KiB".into(), "64 MiB".into()));
    }
}
