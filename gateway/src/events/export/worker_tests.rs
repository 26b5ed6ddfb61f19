use std::collections::VecDeque;

use super::*;
use crate::{
    events::{
        Events, New, Room, Types, What,
        export::settings::{Kind, Settings},
    },
    metrics::Metrics,
    sandbox::{SandboxId, Tenant},
};

/// What it was sent, and what it answers next; nothing said is a success.
#[derive(Clone, Default)]
struct Peer(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    arrived: Vec<Vec<u64>>,
    answers: VecDeque<Failure>,
    attempts: u64,
    /// It does not come back.
    hangs: bool,
    /// Will not take these.
    poison: Option<u64>,
}

#[async_trait::async_trait]
impl Exporter for Peer {
    async fn send(&mut self, events: &[Arc<Event>]) -> Result<(), Failure> {
        let numbers: Vec<u64> = events.iter().map(|event| number(event)).collect();
        let hangs = {
            let mut said = self.0.lock();
            said.attempts += 1;
            if let Some(failure) = said.answers.pop_front() {
                return Err(failure);
            }
            if said.poison.is_some_and(|poison| numbers.contains(&poison)) {
                return Err(Failure::refused("poison"));
            }
            said.hangs
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        self.0.lock().arrived.push(numbers);
        Ok(())
    }
}

impl Peer {
    fn all(&self) -> Vec<u64> {
        self.0.lock().arrived.concat()
    }

    async fn has(&self, wanted: &[u64]) {
        for _ in 0..1000 {
            if self.all() == wanted {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?} are not {wanted:?}", self.all());
    }
}

fn number(event: &Event) -> u64 {
    match &event.what {
        What::FileRead { size_bytes, .. } => *size_bytes,
        other => panic!("{other:?}"),
    }
}

fn tell(events: &Events, numbers: impl IntoIterator<Item = u64>) {
    for size_bytes in numbers {
        let what = What::FileRead { path: "/x".into(), size_bytes };
        events.emit(New::of(SandboxId::random(), Tenant::default(), "base", what));
    }
}

fn settings(batch: usize, interval: u64) -> Settings {
    let said = "path = \"/bin/true\"";
    let said: crate::events::export::program::Said = toml::from_str(said).unwrap();
    Settings {
        name: "peer".into(),
        types: Types::all(),
        batch,
        interval: Duration::from_millis(interval),
        spool: 1 << 20,
        kind: Kind::Program(said.settings().unwrap()),
    }
}

struct Bed {
    events: Events,
    metrics: Metrics,
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { events: Events::default(), metrics: Metrics::default(), dir }
    }

    fn start(&self, settings: Settings, peer: &Peer) -> Running {
        let room = Room { events: 1000, bytes: 1 << 20 };
        let events = self.events.subscribe("peer", Types::all(), room);
        let figures = self.metrics.exporter("peer");
        Running::start(settings, Box::new(peer.clone()), self.dir.path(), events, figures)
    }

    fn told(&self, name: &str) -> u64 {
        let text = crate::metrics::told_of_exporters(&self.metrics);
        let name = format!("coppice_exporter_{name}{{exporter=\"peer\"}} ");
        // Of several the last is that of the exporter that runs.
        let line = text.lines().rfind(|line| line.starts_with(&name)).unwrap();
        line[name.len()..].parse().unwrap()
    }
}

fn soon() -> time::Instant {
    time::Instant::now() + Duration::from_millis(500)
}

#[tokio::test]
async fn events_are_sent_when_they_are_enough_or_have_waited_long_enough() {
    let (bed, peer) = (Bed::new(), Peer::default());
    let running = bed.start(settings(3, 300), &peer);
    tell(&bed.events, 0..7);
    peer.has(&[0, 1, 2, 3, 4, 5]).await;
    peer.has(&[0, 1, 2, 3, 4, 5, 6]).await;
    assert_eq!(peer.0.lock().arrived, [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
    running.end(soon()).await;
    assert_eq!((bed.told("sent_events_total"), bed.told("waiting_events")), (7, 0));
}

#[tokio::test]
async fn what_fails_is_sent_again_and_what_is_refused_is_found_and_given_up() {
    let (bed, peer) = (Bed::new(), Peer::default());
    peer.0.lock().answers = [Failure::later("it is down"), Failure::later("still")].into();
    peer.0.lock().poison = Some(5);
    let running = bed.start(settings(8, 0), &peer);
    tell(&bed.events, 0..8);
    peer.has(&[0, 1, 2, 3, 4, 6, 7]).await;
    running.end(soon()).await;
    let told = ["sent_events_total", "failed_events_total", "dropped_events_total"];
    assert_eq!(told.map(|name| bed.told(name)), [7, 1, 0]);
    assert!(bed.told("retries_total") >= 2);
}

#[tokio::test]
async fn what_one_says_it_refused_in_part_is_counted_and_not_sent_again() {
    let (bed, peer) = (Bed::new(), Peer::default());
    peer.0.lock().answers = [Failure::Partly { refused: 3, why: "no".into() }].into();
    let running = bed.start(settings(4, 0), &peer);
    tell(&bed.events, 0..4);
    for _ in 0..500 {
        if bed.told("sent_events_total") == 1 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    running.end(soon()).await;
    assert_eq!((bed.told("sent_events_total"), bed.told("failed_events_total")), (1, 3));
    assert_eq!((peer.0.lock().attempts, bed.told("waiting_events")), (1, 0));
}

#[tokio::test]
async fn one_that_is_dead_holds_nothing_up_and_the_next_gateway_sends_what_waits() {
    let (bed, peer) = (Bed::new(), Peer::default());
    peer.0.lock().hangs = true;
    let running = bed.start(settings(4, 0), &peer);
    tell(&bed.events, 0..10);
    sleep(Duration::from_millis(200)).await;
    tell(&bed.events, 10..20);
    let asked = Instant::now();
    running.end(soon()).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert_eq!((peer.all().len(), bed.told("waiting_events")), (0, 20));
    let peer = Peer::default();
    let running = bed.start(settings(4, 60_000), &peer);
    peer.has(&(0..20).collect::<Vec<_>>()).await;
    running.end(soon()).await;
}

#[tokio::test]
async fn at_the_end_what_waits_for_others_is_sent_at_once() {
    let (bed, peer) = (Bed::new(), Peer::default());
    let running = bed.start(settings(100, 60_000), &peer);
    tell(&bed.events, 0..10);
    running.end(soon()).await;
    assert_eq!(peer.all(), (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_spool_that_is_full_loses_the_oldest_and_says_how_many() {
    let (bed, peer) = (Bed::new(), Peer::default());
    peer.0.lock().hangs = true;
    let running = bed.start(Settings { spool: 16 << 10, ..settings(1, 0) }, &peer);
    for some in 0..20 {
        tell(&bed.events, some * 100..(some + 1) * 100);
        sleep(Duration::from_millis(30)).await;
    }
    // And the one that was under way for all that time.
    let there = || (bed.told("waiting_events"), bed.told("dropped_events_total"));
    for _ in 0..1000 {
        if there().0 + there().1 >= 1999 {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    running.end(soon()).await;
    let (waiting, dropped) = there();
    assert!(bed.told("spool_bytes") <= 16 << 10);
    let under_way = 2000 - waiting - dropped;
    assert!(waiting > 10 && under_way <= 1, "{waiting} wait, {dropped} dropped");
    let peer = Peer::default();
    let running = bed.start(settings(1000, 0), &peer);
    peer.has(&(2000 - waiting..2000).collect::<Vec<_>>()).await;
    running.end(soon()).await;
}

#[test]
fn pauses_grow_to_a_bound_and_are_not_all_the_same() {
    for (failures, most) in [(1, 250), (2, 500), (5, 4000), (8, 30_000), (u32::MAX, 30_000)] {
        let most = Duration::from_millis(most);
        for _ in 0..20 {
            let pause = pause_after(failures, LONGEST_PAUSE);
            assert!(pause <= most && pause >= most / 2, "{pause:?}");
        }
    }
    let some: std::collections::HashSet<_> =
        (0..20).map(|_| pause_after(5, LONGEST_PAUSE)).collect();
    assert!(some.len() > 1);
}
