//! Who is connected, and what goes to sandboxes and out of them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use envd::wire::{CODE_PORT, ENVD_PORT};

use super::{
    Metrics,
    counts::{Counter, Counters},
    text::Text,
};

/// What a request to a sandbox is for, by where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Files,
    Commands,
    Envd,
    Code,
    Port,
}

impl Route {
    const ALL: [Self; 5] = [Self::Files, Self::Commands, Self::Envd, Self::Code, Self::Port];

    pub(crate) fn of(port: u16, path: &str) -> Self {
        match port {
            ENVD_PORT if path == "/files" => Self::Files,
            ENVD_PORT if path.starts_with("/process.") => Self::Commands,
            ENVD_PORT => Self::Envd,
            CODE_PORT => Self::Code,
            _ => Self::Port,
        }
    }

    /// No path is written so.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Commands => "commands",
            Self::Envd => "envd",
            Self::Code => "code",
            Self::Port => "port",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Direction {
    /// To a sandbox.
    In,
    Out,
}

#[derive(Debug, Default)]
pub(super) struct Traffic {
    connections: Counter,
    connections_open: AtomicU64,
    tunnels: Counter,
    tunnels_open: AtomicU64,
    requests_open: [AtomicU64; Route::ALL.len()],
    bytes_in: Counters<{ Route::ALL.len() }>,
    bytes_out: Counters<{ Route::ALL.len() }>,
}

/// What is there until this is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    metrics: Arc<Metrics>,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Connection,
    Tunnel,
    Request(Route),
}

/// Counts what goes one way.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    metrics: Arc<Metrics>,
    route: Route,
    direction: Direction,
}

impl Metrics {
    /// A client's.
    pub(crate) fn connection(self: &Arc<Self>) -> Open {
        self.traffic.connections.raise();
        self.open(What::Connection)
    }

    /// A connection that has left HTTP behind.
    pub(crate) fn tunnel(self: &Arc<Self>) -> Open {
        self.traffic.tunnels.raise();
        self.open(What::Tunnel)
    }

    /// A request to a sandbox, until its answer has ended.
    pub(crate) fn passage(self: &Arc<Self>, route: Route) -> Open {
        self.open(What::Request(route))
    }

    pub(crate) fn meter(self: &Arc<Self>, route: Route, direction: Direction) -> Meter {
        Meter { metrics: self.clone(), route, direction }
    }

    fn open(self: &Arc<Self>, what: What) -> Open {
        self.traffic.gauge(what).fetch_add(1, Relaxed);
        Open { metrics: self.clone(), what }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.traffic.gauge(self.what).fetch_sub(1, Relaxed);
    }
}

impl Meter {
    pub(crate) fn add(&self, bytes: usize) {
        let traffic = &self.metrics.traffic;
        let counters = match self.direction {
            Direction::In => &traffic.bytes_in,
            Direction::Out => &traffic.bytes_out,
        };
        counters.add(self.route as usize, bytes as u64);
    }
}

impl Traffic {
    fn gauge(&self, what: What) -> &AtomicU64 {
        match what {
            What::Connection => &self.connections_open,
            What::Tunnel => &self.tunnels_open,
            What::Request(route) => &self.requests_open[route as usize],
        }
    }

    pub(super) fn tell(&self, text: &mut Text) {
        let open = self.connections_open.load(Relaxed);
        text.gauge("coppice_connections_open", "Connections of clients.", open);
        let all = self.connections.value();
        text.counter("coppice_connections_total", "Connections that were accepted.", all);
        let name = "coppice_proxy_requests_open";
        text.gauges(name, "Requests to sandboxes whose answer has not ended.");
        for (route, open) in Route::ALL.iter().zip(&self.requests_open) {
            text.sample(name, &[("route", route.name())], open.load(Relaxed));
        }
        let name = "coppice_proxy_bytes_total";
        text.counters(name, "Bytes of bodies to and out of sandboxes, and of tunnels.");
        for (direction, bytes) in [("in", &self.bytes_in), ("out", &self.bytes_out)] {
            for (route, bytes) in Route::ALL.iter().zip(bytes.values()) {
                text.sample(name, &[("route", route.name()), ("direction", direction)], bytes);
            }
        }
        let open = self.tunnels_open.load(Relaxed);
        text.gauge("coppice_tunnels_open", "Connections that have left HTTP behind.", open);
        let all = self.tunnels.value();
        text.counter("coppice_tunnels_total", "Tunnels that were opened.", all);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Format, *};

    #[test]
    fn a_route_is_known_by_its_port_and_of_envd_by_its_path() {
        for (port, path, route) in [
            (ENVD_PORT, "/files", Route::Files),
            (ENVD_PORT, "/files/compose", Route::Envd),
            (ENVD_PORT, "/process.Process/Start", Route::Commands),
            (ENVD_PORT, "/filesystem.Filesystem/Stat", Route::Envd),
            (CODE_PORT, "/execute", Route::Code),
            (8080, "/files", Route::Port),
        ] {
            assert_eq!(Route::of(port, path), route, "{port} {path}");
        }
        for (n, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, n);
        }
    }

    #[test]
    fn what_is_open_is_counted_until_it_ends_and_bytes_by_route_and_direction() {
        let metrics = Arc::new(Metrics::default());
        let (kept, tunnel) = (metrics.connection(), metrics.tunnel());
        drop((metrics.connection(), tunnel));
        let passage = metrics.passage(Route::Code);
        metrics.meter(Route::Files, Direction::In).add(7);
        metrics.meter(Route::Port, Direction::Out).add(5);
        let mut text = Text::new(Format::Plain, 0);
        metrics.traffic.tell(&mut text);
        let text = text.finish();
        for line in [
            "coppice_connections_open 1",
            "coppice_connections_total 2",
            "coppice_tunnels_open 0",
            "coppice_tunnels_total 1",
            "coppice_proxy_requests_open{route=\"code\"} 1",
            "coppice_proxy_requests_open{route=\"files\"} 0",
            "coppice_proxy_bytes_total{route=\"files\",direction=\"in\"} 7",
            "coppice_proxy_bytes_total{route=\"files\",direction=\"out\"} 0",
            "coppice_proxy_bytes_total{route=\"port\",direction=\"out\"} 5",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        drop((kept, passage));
        assert_eq!(metrics.traffic.connections_open.load(Relaxed), 0);
        assert_eq!(metrics.traffic.requests_open[Route::Code as usize].load(Relaxed), 0);
    }
}
