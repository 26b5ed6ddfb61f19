//! Ports of sandboxes that are in use: exposed when a server of a user's first answers on one,
//! closed when nothing listens there any more, or the sandbox is paused or ends.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    events::{EventId, Events, What},
    sandbox::{Sandbox, SandboxId},
};

/// Of one sandbox; whoever looks through all of its ports is not told of more.
const MOST: usize = 64;
/// The longest host that an address is made of (bytes).
const MOST_HOST: usize = 255;

#[derive(Clone)]
pub(super) struct Exposed {
    events: Events,
    /// Of the run that each is of.
    open: Arc<Mutex<HashMap<SandboxId, Run>>>,
}

struct Run {
    /// Tells it from the others of its sandbox.
    mark: Arc<()>,
    cut: CancellationToken,
    ports: BTreeMap<u16, EventId>,
}

impl Exposed {
    pub(super) fn new(events: &Events) -> Self {
        Self { events: events.clone(), open: Arc::default() }
    }

    /// Whether that has been told.
    pub(super) fn is_known(&self, sandbox: SandboxId, port: u16) -> bool {
        let open = self.open.lock();
        let run = open.get(&sandbox).filter(|run| !run.cut.is_cancelled());
        run.is_some_and(|run| run.ports.contains_key(&port) || run.ports.len() >= MOST)
    }

    /// A server has answered there, in the run that ends with `cut`.
    pub(super) fn answered(
        &self,
        sandbox: &Arc<Sandbox>,
        port: u16,
        url: String,
        cut: &CancellationToken,
    ) {
        let mut open = self.open.lock();
        let run = open.entry(sandbox.id()).or_insert_with(|| self.run(sandbox, cut));
        if run.cut.is_cancelled() {
            // The one before has been cut, and its ports are about to be closed.
            let before = std::mem::replace(run, self.run(sandbox, cut));
            before.ports.into_iter().for_each(|port| self.closed(sandbox, port));
        }
        if run.ports.len() < MOST && !run.ports.contains_key(&port) {
            let id = self.events.emit(sandbox.event(What::PortExposed { port, url }));
            run.ports.insert(port, id);
        }
    }

    /// Nothing listens there.
    pub(super) fn refused(&self, sandbox: &Sandbox, port: u16) {
        let exposed =
            self.open.lock().get_mut(&sandbox.id()).and_then(|run| run.ports.remove(&port));
        if let Some(exposed) = exposed {
            self.closed(sandbox, (port, exposed));
        }
    }

    fn run(&self, sandbox: &Arc<Sandbox>, cut: &CancellationToken) -> Run {
        let (all, sandbox, over) = (self.clone(), sandbox.clone(), cut.clone());
        let mark = Arc::new(());
        let own = mark.clone();
        tokio::spawn(async move {
            over.cancelled().await;
            let mut open = all.open.lock();
            if open.get(&sandbox.id()).is_some_and(|run| Arc::ptr_eq(&run.mark, &own))
                && let Some(run) = open.remove(&sandbox.id())
            {
                run.ports.into_iter().for_each(|port| all.closed(&sandbox, port));
            }
        });
        Run { mark, cut: cut.clone(), ports: BTreeMap::new() }
    }

    fn closed(&self, sandbox: &Sandbox, (port, exposed): (u16, EventId)) {
        self.events.emit(sandbox.event(What::PortClosed { port }).parent(exposed));
    }
}

/// Where clients reach it, as the request says that came by `host`.
pub(super) fn url(scheme: &str, host: &str, port: u16, sandbox: SandboxId) -> String {
    let name = format!("{port}-{sandbox}");
    let host = &host[..host.floor_char_boundary(MOST_HOST)];
    let below = host.split_once('.').is_some_and(|(first, _)| first.eq_ignore_ascii_case(&name));
    if below { format!("{scheme}://{host}") } else { format!("{scheme}://{name}.{host}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Next, Room, Types};

    #[test]
    fn an_address_is_the_hosts_or_below_it() {
        let id: SandboxId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let own = format!("8000-{id}.example.org");
        assert_eq!(url("https", &own, 8000, id), format!("https://{own}"));
        let below = format!("http://8000-{id}.localhost:3000");
        assert_eq!(url("http", "localhost:3000", 8000, id), below);
        assert!(url("http", &"x".repeat(10_000), 1, id).len() < 400);
    }

    #[tokio::test]
    async fn a_port_is_exposed_once_and_closed_when_it_or_its_run_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = crate::sandbox::testing::sandbox_in(SandboxId::random(), dir.path(), "");
        let events = Events::default();
        let mut all = events.subscribe("all", Types::all(), Room::default());
        let exposed = Exposed::new(&events);
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let id = sandbox.id();
        for port in [80, 80, 81] {
            exposed.answered(&sandbox, port, format!("http://{port}"), &first);
            assert!(exposed.is_known(id, port) && !exposed.is_known(id, 82));
        }
        exposed.refused(&sandbox, 81);
        exposed.refused(&sandbox, 81);
        first.cancel();
        assert!(!exposed.is_known(id, 80));
        exposed.answered(&sandbox, 80, "http://80".into(), &second);
        for port in 1000..2000 {
            exposed.answered(&sandbox, port, String::new(), &second);
        }
        second.cancel();
        let (mut told, mut open) = (Vec::new(), BTreeMap::new());
        while told.len() < 4 + 2 * MOST {
            let next = tokio::time::timeout(std::time::Duration::from_secs(10), all.next());
            let Next::Event(event) = next.await.unwrap() else { panic!() };
            match &event.what {
                What::PortExposed { port, .. } => {
                    assert!(open.insert(*port, event.id).is_none());
                }
                What::PortClosed { port } => assert_eq!(open.remove(port), event.parent),
                what => panic!("{what:?}"),
            }
            told.push(event.what.kind());
        }
        assert_eq!(told[..4], ["port.exposed", "port.exposed", "port.closed", "port.closed"]);
        assert!(open.is_empty() && exposed.open.lock().is_empty());
    }
}
