//! Connections to the sandboxes, kept open between requests.
//!
//! Each sandbox has a pool of its own that goes when it is cut or has not been used for a while. A
//! connection belongs to one request at a time, as a [`Lease`]; a lease that is dropped closes its
//! connection at once, which is how envd learns that a client has gone. A connection whose request
//! and response have both been carried to their ends comes back.
//!
//! Servers of users hang up when they like, so theirs are used again only for requests that may be
//! sent twice. And some serve one connection at a time: a kept one must not keep them from the
//! next, see [`Pool::make_room`].

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    connect::{self, connect},
    connection::Connection,
    secured::secure,
    server::Server,
};
use crate::sandbox::{Sandbox, SandboxId};

/// Idle connections of one sandbox.
const MAX_IDLE: usize = 64;
/// envd keeps them as long as we do.
const ENVD_IDLE: Duration = Duration::from_secs(15);
/// Enough for requests that follow each other; a server that counts its connections, or serves one
/// at a time, is not to wait for long.
const USER_IDLE: Duration = Duration::from_millis(500);
/// For a server of a user's to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between looks for connections, and pools, that are idle.
const SWEEP: Duration = Duration::from_secs(1);

#[derive(Clone, Default)]
pub(super) struct Pools(Arc<Mutex<HashMap<SandboxId, Arc<Pool>>>>);

pub(super) struct Pool {
    sandbox: Arc<Sandbox>,
    /// Of the run that its connections are of.
    cut: CancellationToken,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    idle: Vec<Idle>,
    /// Ports on which somebody waits for room, once for each who does.
    crowded: Vec<u16>,
}

struct Idle {
    connection: Connection,
    port: u16,
    since: Instant,
    /// For how long it is kept.
    limit: Duration,
}

/// One request's connection.
pub(super) struct Lease {
    pool: Arc<Pool>,
    port: u16,
    connection: Connection,
    /// Whether it has carried a request before, and so may have been closed since.
    used: bool,
}

impl Pools {
    pub(super) fn of(&self, sandbox: &Arc<Sandbox>, cut: &CancellationToken) -> Arc<Pool> {
        let mut pools = self.0.lock();
        if let Some(pool) = pools.get(&sandbox.id())
            && Arc::ptr_eq(&pool.sandbox, sandbox)
            && !pool.cut.is_cancelled()
        {
            return pool.clone();
        }
        let (sandbox, cut) = (sandbox.clone(), cut.clone());
        let pool = Arc::new(Pool { sandbox: sandbox.clone(), cut, kept: Mutex::default() });
        pools.insert(sandbox.id(), pool.clone());
        tokio::spawn(self.clone().tend(pool.clone()));
        pool
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Closes what is idle, and forgets the pool when it is cut or unused.
    async fn tend(self, pool: Arc<Pool>) {
        let cut = pool.cut.clone();
        while cut.run_until_cancelled(sleep(SWEEP)).await.is_some() {
            let left = pool.sweep();
            let mut pools = self.0.lock();
            // Nobody else can get hold of it while the map is locked.
            let unused = Arc::strong_count(&pool) <= 2;
            if left == 0 && unused {
                return pools.forget(&pool);
            }
        }
        pool.kept.lock().idle.clear();
        self.0.lock().forget(&pool);
    }
}

trait Forget {
    fn forget(&mut self, pool: &Arc<Pool>);
}

impl Forget for HashMap<SandboxId, Arc<Pool>> {
    fn forget(&mut self, pool: &Arc<Pool>) {
        let id = pool.sandbox.id();
        if self.get(&id).is_some_and(|current| Arc::ptr_eq(current, pool)) {
            self.remove(&id);
        }
    }
}

impl Pool {
    /// A connection to that port: one that waits for a request where `kept` will do, or a new one.
    pub(super) async fn lease(
        self: &Arc<Self>,
        port: u16,
        kept: bool,
    ) -> Result<Lease, connect::Error> {
        let lease = |connection, used| Lease { pool: self.clone(), port, connection, used };
        if kept {
            while let Some(mut connection) = self.take(port) {
                // Nobody has looked at it since it came back.
                let look = |cx: &mut Context<'_>| std::task::Poll::Ready(connection.is_ready(cx));
                if poll_fn(look).await {
                    return Ok(lease(connection, true));
                }
            }
        }
        Ok(lease(open(&self.sandbox, port).await?, false))
    }

    pub(super) fn server(&self, port: u16) -> Server {
        Server::of(&self.sandbox, port)
    }

    /// Keeps no connection to that port while the guard lives.
    pub(super) fn make_room(self: &Arc<Self>, port: u16) -> Crowd {
        let mut kept = self.kept.lock();
        kept.crowded.push(port);
        kept.idle.retain(|idle| idle.port != port);
        Crowd { pool: self.clone(), port }
    }

    fn take(&self, port: u16) -> Option<Connection> {
        let mut kept = self.kept.lock();
        let now = Instant::now();
        let at = kept.idle.iter().rposition(|idle| idle.port == port && idle.fresh(now))?;
        Some(kept.idle.remove(at).connection)
    }

    fn put(&self, connection: Connection, port: u16) {
        let mut kept = self.kept.lock();
        // Looked at under the lock that cutting takes last: no connection outlives its sandbox.
        if self.cut.is_cancelled() || kept.crowded.contains(&port) {
            return;
        }
        if kept.idle.len() == MAX_IDLE {
            kept.idle.remove(0);
        }
        let limit = if self.server(port).is_envds() { ENVD_IDLE } else { USER_IDLE };
        kept.idle.push(Idle { connection, port, since: Instant::now(), limit });
    }

    fn sweep(&self) -> usize {
        let mut kept = self.kept.lock();
        let now = Instant::now();
        // Nobody waits on them, so that nobody need be woken either.
        let mut cx = Context::from_waker(Waker::noop());
        kept.idle.retain_mut(|idle| idle.fresh(now) && idle.connection.is_ready(&mut cx));
        kept.idle.len()
    }
}

async fn open(sandbox: &Sandbox, port: u16) -> Result<Connection, connect::Error> {
    let stream = connect(sandbox, port).await?;
    let secured = sandbox.facts().ingress.speaks_tls(port);
    if !secured || Server::of(sandbox, port).is_envds() {
        return Connection::open(stream).await;
    }
    let stream = timeout(HANDSHAKE, secure(stream)).await;
    let stream = stream.map_err(|_| connect::Error::TimedOut)?.map_err(connect::Error::Failed)?;
    Connection::open(stream).await
}

/// Somebody who waits for room on a port.
pub(super) struct Crowd {
    pool: Arc<Pool>,
    port: u16,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let crowded = &mut self.pool.kept.lock().crowded;
        if let Some(at) = crowded.iter().position(|&port| port == self.port) {
            crowded.swap_remove(at);
        }
    }
}

impl Idle {
    fn fresh(&self, now: Instant) -> bool {
        now.duration_since(self.since) < self.limit
    }
}

impl Lease {
    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(super) fn used(&self) -> bool {
        self.used
    }

    /// Gives the connection back once its response has been read to the end.
    pub(super) fn give_back(self) {
        if self.connection.may_be_kept() {
            self.pool.put(self.connection, self.port);
        }
    }
}
