//! Connections to the sandboxes, kept open between requests.
//!
//! Each sandbox has a pool of its own that goes when it is cut or has not been used for a while. A
//! connection belongs to one request at a time, as a [`Lease`]; a lease that is dropped closes its
//! connection at once, which is how envd learns that a client has gone. Only a connection to envd
//! whose request and response have both been carried to their ends comes back: servers of users
//! hang up when they like, and a request that meets that must not be lost or sent twice.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use envd::wire::ENVD_PORT;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use super::connect::{self, connect};
use crate::sandbox::{Sandbox, SandboxId};

/// Idle connections of one sandbox.
const MAX_IDLE: usize = 32;
/// envd keeps them as long as we do.
const ENVD_IDLE: Duration = Duration::from_secs(15);
/// Between looks for connections, and pools, that are idle.
const SWEEP: Duration = Duration::from_secs(5);
/// Longest response head of a sandbox, and most of a response buffered.
const MAX_BUFFER: usize = 128 * 1024;
/// Of one response; each cookie takes one.
const MAX_HEADERS: usize = 512;

#[derive(Clone, Default)]
pub(super) struct Pools(Arc<Mutex<HashMap<SandboxId, Arc<Pool>>>>);

pub(super) struct Pool {
    sandbox: Arc<Sandbox>,
    /// To envd, all of them.
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

struct Connection {
    sender: SendRequest<Incoming>,
    /// The task that reads and writes; it ends by itself when the protocol is upgraded.
    _task: AbortOnDropHandle<()>,
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
    pub(super) fn of(&self, sandbox: &Arc<Sandbox>) -> Arc<Pool> {
        let mut pools = self.0.lock();
        if let Some(pool) = pools.get(&sandbox.id())
            && Arc::ptr_eq(&pool.sandbox, sandbox)
        {
            return pool.clone();
        }
        let pool = Arc::new(Pool { sandbox: sandbox.clone(), idle: Mutex::default() });
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
        let cut = pool.sandbox.cut();
        while cut.run_until_cancelled(sleep(SWEEP)).await.is_some() {
            let left = pool.sweep();
            let mut pools = self.0.lock();
            // Nobody else can get hold of it while the map is locked.
            let unused = Arc::strong_count(&pool) <= 2;
            if left == 0 && unused {
                return pools.forget(&pool);
            }
        }
        pool.idle.lock().clear();
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
    /// A connection to that port: one that waits for a request, or a new one.
    pub(super) async fn lease(self: &Arc<Self>, port: u16) -> Result<Lease, connect::Error> {
        if port == ENVD_PORT
            && let Some(connection) = self.take()
        {
            return Ok(Lease { pool: self.clone(), port, connection, used: true });
        }
        let stream = connect(&self.sandbox, port).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| connect::Error::Failed(std::io::Error::other(error)))?;
        let cut = self.sandbox.cut().clone();
        let task = tokio::spawn(async move {
            // How it ended is told to whoever waits for the response.
            let _ = cut.run_until_cancelled(connection.with_upgrades()).await;
        });
        let connection = Connection { sender, _task: AbortOnDropHandle::new(task) };
        Ok(Lease { pool: self.clone(), port, connection, used: false })
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let now = Instant::now();
        let at =
            idle.iter().rposition(|idle| idle.fresh(now) && idle.connection.sender.is_ready())?;
        Some(idle.remove(at).connection)
    }

    fn put(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        // Looked at under the lock that cutting takes last: no connection outlives its sandbox.
        if connection.sender.is_closed() || self.sandbox.cut().is_cancelled() {
            return;
        }
        if idle.len() == MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle { connection, since: Instant::now() });
    }

    fn sweep(&self) -> usize {
        let mut idle = self.idle.lock();
        let now = Instant::now();
        idle.retain(|idle| idle.fresh(now) && !idle.connection.sender.is_closed());
        idle.len()
    }
}

impl Idle {
    fn fresh(&self, now: Instant) -> bool {
        now.duration_since(self.since) < ENVD_IDLE
    }
}

impl Lease {
    pub(super) fn sender(&mut self) -> &mut SendRequest<Incoming> {
        &mut self.connection.sender
    }

    pub(super) fn used(&self) -> bool {
        self.used
    }

    /// Gives the connection back once its response has been read to the end.
    pub(super) fn give_back(self) {
        if self.port == ENVD_PORT {
            self.pool.put(self.connection);
        }
    }
}
