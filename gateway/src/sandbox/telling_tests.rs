use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use super::*;
use crate::{
    events::{Cost, Event, Room, Subscription, Tariff, Types},
    limits::Limits,
    metrics::{self, Format},
    sandbox::{
        Pausing, Rules, Wanted,
        testing::{self, Bed, bed},
    },
};

const MINUTE: Duration = Duration::from_secs(60);

fn dear() -> Rules {
    let tariff = Tariff {
        core_second: Cost::from_nanos(7919),
        gib_second: Cost::from_nanos(1009),
        paused_gib_hour: Cost::from_nanos(1_000_003),
    };
    Rules { tariff, ..testing::rules() }
}

fn listen(sandboxes: &Sandboxes) -> Subscription {
    sandboxes.events().subscribe("test", Types::all(), Room::default())
}

async fn heard(subscription: &mut Subscription) -> Vec<Arc<Event>> {
    let mut all = Vec::new();
    while subscription.waiting() > 0 {
        all.extend(subscription.batch(1000, Duration::ZERO).await.events);
    }
    all
}

fn kinds(events: &[Arc<Event>]) -> Vec<&'static str> {
    events.iter().map(|event| event.what.kind()).collect()
}

fn find<'a>(events: &'a [Arc<Event>], kind: &str, nth: usize) -> &'a Event {
    events.iter().filter(|event| event.what.kind() == kind).nth(nth).unwrap()
}

fn millis(from: &Event, to: &Event) -> u64 {
    millis_between(from.at, to.at)
}

/// What whoever reads nothing but the events makes of them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Replay {
    /// Running or not, of those that are there.
    states: HashMap<SandboxId, bool>,
    /// Metrics, by their lines but for the value.
    counters: HashMap<String, u64>,
    costs: HashMap<SandboxId, Cost>,
    totals: HashMap<SandboxId, Cost>,
}

impl Replay {
    fn of<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut replay = Self::default();
        let mut seen = std::collections::HashSet::new();
        for event in events {
            // One that was told twice has the same id.
            if seen.insert(event.id) {
                replay.take(event);
            }
        }
        replay
    }

    fn count(&mut self, line: impl Into<String>, more: u64) {
        *self.counters.entry(line.into()).or_default() += more;
    }

    fn took(&mut self, of: &str, ns: u64) {
        self.count(format!("coppice_sandbox_{of}_duration_seconds_count"), 1);
        if of == "create" {
            self.count("coppice_sandbox_create_ns_sum", ns);
        }
    }

    fn take(&mut self, event: &Event) {
        let id = event.sandbox;
        match &event.what {
            What::SandboxStarted { took_ns, .. } => {
                self.states.insert(id, true);
                self.count("coppice_sandboxes_created_total", 1);
                self.took("create", *took_ns);
            }
            What::SandboxPaused { took_ns, .. } => {
                self.states.insert(id, false);
                self.count("coppice_sandboxes_paused_total", 1);
                self.took("pause", *took_ns);
            }
            What::SandboxResumed { took_ns, .. } => {
                self.states.insert(id, true);
                self.count("coppice_sandboxes_resumed_total", 1);
                self.took("resume", *took_ns);
            }
            What::SandboxAdopted { state } => {
                self.states.insert(id, state == "running");
            }
            What::SandboxFailed { reason } => {
                self.count(format!("coppice_create_failures_total{{reason=\"{reason}\"}}"), 1);
            }
            What::SandboxTerminated { reason, .. } => {
                self.states.remove(&id);
                self.count(format!("coppice_sandboxes_ended_total{{reason=\"{reason}\"}}"), 1);
                if reason == "user" {
                    self.count("coppice_sandboxes_killed_total", 1);
                }
            }
            What::CostRuntime { cost, .. } | What::CostStorage { cost, .. } => {
                *self.costs.entry(id).or_default() += *cost;
            }
            What::CostTotal { sandbox_cost, .. } => {
                self.totals.insert(id, *sandbox_cost);
            }
            _ => {}
        }
    }

    /// Whether the metrics count the same, those of whatever did not happen included.
    fn agrees(&self, sandboxes: &Sandboxes) {
        let families = [
            "coppice_sandboxes_created_total",
            "coppice_sandboxes_killed_total",
            "coppice_sandboxes_paused_total",
            "coppice_sandboxes_resumed_total",
            "coppice_sandboxes_ended_total",
            "coppice_create_failures_total",
            "coppice_sandbox_create_ns_sum",
            "coppice_sandbox_create_duration_seconds_count",
            "coppice_sandbox_pause_duration_seconds_count",
            "coppice_sandbox_resume_duration_seconds_count",
        ];
        let text = metrics::tell(sandboxes, Format::Plain);
        let mut lines = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            if families.contains(&name.split('{').next().unwrap()) {
                let counted = self.counters.get(name).copied().unwrap_or_default();
                assert_eq!(value, counted.to_string(), "{name}");
                lines += 1;
            }
        }
        assert!(lines > families.len(), "{text}");
        let present = sandboxes.registry().all_present();
        let states: HashMap<_, _> =
            present.iter().map(|it| (it.id(), it.phase() == Phase::Running)).collect();
        assert_eq!(self.states, states);
    }
}

fn replayed(events: &[Arc<Event>]) -> Replay {
    Replay::of(events.iter().map(|event| &**event))
}

async fn sleep() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn a_life(bed: &Bed) -> SandboxId {
    let id = bed.sandboxes.create(testing::wanted(), None).await.unwrap().id();
    for _ in 0..2 {
        sleep().await;
        bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
        sleep().await;
        bed.sandboxes.resume(id, MINUTE, Reason::User, true).await.unwrap();
    }
    sleep().await;
    bed.sandboxes.kill(id).await.unwrap();
    id
}

#[tokio::test]
async fn a_life_is_told_in_order_with_its_times_and_what_each_came_of() {
    let bed = bed(testing::rules());
    let mut events = listen(&bed.sandboxes);
    let id = a_life(&bed).await;
    let all = heard(&mut events).await;
    let expected = ["created", "started", "paused", "resumed", "paused", "resumed", "terminated"];
    assert_eq!(kinds(&all), expected.map(|kind| format!("sandbox.{kind}")));
    assert!(all.iter().all(|event| event.sandbox == id && &*event.template == "base"));
    assert!(all.is_sorted_by_key(|event| event.at) && all.is_sorted_by_key(|event| event.id));
    let parents: Vec<_> = all.iter().map(|event| event.parent).collect();
    let chain = [None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(0)];
    assert_eq!(parents, chain.map(|n: Option<usize>| n.map(|n| all[n].id)));
    let What::SandboxCreated { image, resources, metadata, .. } = &all[0].what else { panic!() };
    let Limits { cpus, memory_bytes, .. } = testing::template().limits;
    assert_eq!((&**image, resources.cpu_count), ("base", cpus));
    assert_eq!((resources.memory_mb, resources.disk_mb), (memory_bytes >> 20, None));
    assert!(metadata.is_empty());
    let mut sums = [0, 0];
    for (n, event) in all.iter().enumerate() {
        match &event.what {
            What::SandboxStarted { startup_duration_ms, took_ns } => {
                assert_eq!(*startup_duration_ms, took_ns / 1_000_000);
            }
            What::SandboxPaused { runtime_duration_ms, reason, .. } => {
                assert_eq!(*runtime_duration_ms, millis(&all[n - 1], event));
                assert!(*runtime_duration_ms >= 20 && reason == "user");
                sums[0] += runtime_duration_ms;
            }
            What::SandboxResumed { paused_duration_ms, .. } => {
                assert_eq!(*paused_duration_ms, millis(&all[n - 1], event));
                sums[1] += paused_duration_ms;
            }
            What::SandboxTerminated { total_runtime_ms, total_paused_ms, reason, total_cost } => {
                let last = millis(&all[n - 1], event);
                assert_eq!([*total_runtime_ms, *total_paused_ms], [sums[0] + last, sums[1]]);
                assert_eq!((&**reason, *total_cost), ("user", None));
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_a_life_cost_in_parts_is_what_it_cost_as_a_whole() {
    let bed = bed(dear());
    let mut events = listen(&bed.sandboxes);
    let id = a_life(&bed).await;
    let all = heard(&mut events).await;
    let costs: Vec<_> =
        all.iter().filter(|event| event.what.kind().starts_with("cost.")).cloned().collect();
    let expected = ["runtime", "storage", "runtime", "storage", "runtime", "total"];
    assert_eq!(kinds(&costs), expected.map(|kind| format!("cost.{kind}")));
    let closers = ["paused", "resumed", "paused", "resumed", "terminated", "terminated"];
    for (n, (cost, closer)) in costs.iter().zip(closers).enumerate() {
        let closer = find(&all, &format!("sandbox.{closer}"), [0, 0, 1, 1, 0, 0][n]);
        assert_eq!((cost.parent, cost.at), (Some(closer.id), closer.at), "{n}");
    }
    let replay = replayed(&all);
    assert!(replay.costs[&id] > Cost::default());
    assert_eq!(replay.costs[&id], replay.totals[&id]);
    let ended = find(&all, "sandbox.terminated", 0);
    let What::SandboxTerminated { total_runtime_ms, total_paused_ms, total_cost, .. } = &ended.what
    else {
        panic!()
    };
    let price = Price::of(dear().tariff, &testing::template().limits);
    let whole = [price.runtime(*total_runtime_ms), price.storage(*total_paused_ms)];
    assert_eq!(whole.into_iter().sum::<Cost>(), replay.totals[&id]);
    assert_eq!(*total_cost, Some(replay.totals[&id]));
}

#[tokio::test]
async fn whoever_ends_it_and_wherever_it_stood_all_of_its_time_is_reckoned() {
    for paused in [false, true] {
        let bed = bed(dear());
        let mut events = listen(&bed.sandboxes);
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let id = sandbox.id();
        sleep().await;
        if paused {
            bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
            sleep().await;
            bed.sandboxes.kill(id).await.unwrap();
        } else {
            bed.backend.end_cell(id);
            testing::until(|| bed.sandboxes.present(id).is_err()).await;
        }
        sleep().await;
        let all = heard(&mut events).await;
        let replay = replayed(&all);
        assert_eq!(replay.costs[&id], replay.totals[&id]);
        replay.agrees(&bed.sandboxes);
        let What::SandboxTerminated { reason, total_paused_ms, .. } =
            &find(&all, "sandbox.terminated", 0).what
        else {
            panic!()
        };
        assert_eq!(&**reason, if paused { "user" } else { "envd_died" });
        assert_eq!(*total_paused_ms >= 20, paused);
    }
}

#[tokio::test]
async fn a_gateway_that_goes_on_knows_the_parents_and_the_times() {
    let bed = bed(dear());
    let mut first = listen(&bed.sandboxes);
    let create = || bed.sandboxes.create(testing::wanted(), None);
    let (a, b, c) = (create().await.unwrap(), create().await.unwrap(), create().await.unwrap());
    for sandbox in [&a, &b] {
        sleep().await;
        bed.sandboxes.pause(sandbox.id(), Pausing::default()).await.unwrap();
        sleep().await;
    }
    bed.sandboxes.resume(a.id(), MINUTE, Reason::User, true).await.unwrap();
    let mut told = heard(&mut first).await;
    // One ends while nobody looks, after the gateway is gone.
    bed.backend.cells.lock().remove(&c.id());

    let after = testing::sandboxes(bed.dir.path(), &bed.backend, dear());
    let mut second = listen(&after);
    after.adopt_all().await.unwrap();
    let adopted = heard(&mut second).await;
    let state = |sandbox: &Sandbox| {
        let of = |event: &&Arc<Event>| {
            event.sandbox == sandbox.id() && event.what.kind() == "sandbox.adopted"
        };
        let What::SandboxAdopted { state } = &adopted.iter().find(of)?.what else { panic!() };
        Some(state.clone())
    };
    assert_eq!(state(&a).as_deref(), Some("running"));
    assert_eq!(state(&b).as_deref(), Some("paused"));
    assert_eq!(state(&c), None);
    after.resume(b.id(), MINUTE, Reason::User, true).await.unwrap();
    for sandbox in [&a, &b] {
        sleep().await;
        after.kill(sandbox.id()).await.unwrap();
    }
    let later = heard(&mut second).await;
    let resumed = find(&later, "sandbox.resumed", 0);
    let of_b: Vec<_> = told.iter().filter(|it| it.sandbox == b.id()).cloned().collect();
    let paused = find(&of_b, "sandbox.paused", 0);
    assert_eq!(resumed.parent, Some(paused.id));
    let What::SandboxResumed { paused_duration_ms, .. } = resumed.what else { panic!() };
    assert_eq!(paused_duration_ms, millis(paused, resumed));
    told.extend(adopted.into_iter().chain(later));
    let replay = replayed(&told);
    assert!(replay.states.is_empty());
    for sandbox in [&a, &b, &c] {
        assert_eq!(replay.costs[&sandbox.id()], replay.totals[&sandbox.id()]);
        let of: Vec<_> = told.iter().filter(|it| it.sandbox == sandbox.id()).cloned().collect();
        let created = find(&of, "sandbox.created", 0).id;
        assert_eq!(find(&of, "sandbox.terminated", 0).parent, Some(created));
    }
}

#[tokio::test]
async fn an_end_that_may_not_have_been_told_is_told_again_under_its_own_ids() {
    let bed = bed(dear());
    let mut first = listen(&bed.sandboxes);
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    sleep().await;
    bed.backend.failing_destroys.store(1000, SeqCst);
    bed.sandboxes.kill(sandbox.id()).await.unwrap();
    let told = heard(&mut first).await;
    let after = testing::sandboxes(bed.dir.path(), &bed.backend, dear());
    let mut second = listen(&after);
    after.adopt_all().await.unwrap();
    let again = heard(&mut second).await;
    assert_eq!(kinds(&again), ["sandbox.terminated", "cost.runtime", "cost.total"]);
    assert_eq!(again[..], told[told.len() - 3..]);
    bed.backend.failing_destroys.store(0, SeqCst);
}

#[tokio::test]
async fn creates_that_fail_and_pauses_that_do_are_told_as_they_are_counted() {
    let bed = bed(dear());
    let mut events = listen(&bed.sandboxes);
    for template in ["base", "building", "nobody's", &"x".repeat(1000)] {
        bed.backend.failing_creates.store(1, SeqCst);
        let wanted = Wanted { template: template.into(), ..testing::wanted() };
        assert!(bed.sandboxes.create(wanted, None).await.is_err());
    }
    bed.backend.failing_creates.store(0, SeqCst);
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    let id = sandbox.id();
    bed.backend.failing_freezes.store(1, SeqCst);
    assert!(bed.sandboxes.pause(id, Pausing::default()).await.is_err());
    // Nor is one told that has no record.
    std::fs::create_dir(sandbox.dir().join(".sandbox.json")).unwrap();
    assert!(bed.sandboxes.pause(id, Pausing::default()).await.is_err());
    std::fs::remove_dir(sandbox.dir().join(".sandbox.json")).unwrap();
    bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
    bed.backend.failing_thaws.store(1, SeqCst);
    assert!(bed.sandboxes.resume(id, MINUTE, Reason::User, true).await.is_err());
    sleep().await;
    bed.sandboxes.resume(id, MINUTE, Reason::User, true).await.unwrap();
    bed.sandboxes.kill(id).await.unwrap();
    let all = heard(&mut events).await;
    let names: Vec<_> = kinds(&all).into_iter().filter(|kind| kind.starts_with("s")).collect();
    let expected = [
        "failed",
        "failed",
        "failed",
        "failed",
        "created",
        "started",
        "paused",
        "resumed",
        "terminated",
    ];
    assert_eq!(names, expected.map(|kind| format!("sandbox.{kind}")));
    assert_eq!(&*all[2].template, "nobody's");
    assert_eq!(&*all[3].template, "");
    let replay = replayed(&all);
    replay.agrees(&bed.sandboxes);
    assert_eq!(replay.costs[&id], replay.totals[&id]);
    let [paused, resumed] = ["paused", "resumed"].map(|it| find(&all, &format!("sandbox.{it}"), 0));
    let What::SandboxResumed { paused_duration_ms, .. } = resumed.what else { panic!() };
    assert_eq!(paused_duration_ms, millis(paused, resumed));
}

#[tokio::test]
async fn forks_snapshots_and_what_is_set_anew_are_told() {
    let bed = bed(testing::rules());
    let mut events = listen(&bed.sandboxes);
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    let id = sandbox.id();
    bed.sandboxes.set_timeout(id, MINUTE * 5).await.unwrap();
    bed.sandboxes.extend(id, MINUTE).await.unwrap();
    bed.sandboxes.set_network(id, sandbox.policy()).await.unwrap();
    let snapshot = bed.sandboxes.snapshot(id, None, &super::super::Quota::default()).await.unwrap();
    bed.sandboxes.fork(super::super::Owner::default(), id, 2, MINUTE).await.unwrap();
    let all = heard(&mut events).await;
    let expected = [
        "created",
        "started",
        "updated",
        "updated",
        "snapshotted",
        "created",
        "started",
        "created",
        "started",
        "forked",
    ];
    // The two forks are made at once.
    let names = kinds(&all);
    assert_eq!(names.len(), expected.len(), "{names:?}");
    assert_eq!(names[..5], expected.map(|kind| format!("sandbox.{kind}"))[..5]);
    let What::SandboxUpdated { changed, end_at } = &all[2].what else { panic!() };
    let ends = told(sandbox.ends_at().unwrap());
    assert_eq!((&**changed, end_at.as_ref()), ("timeout", Some(&ends)));
    assert_eq!(all[2].parent, Some(sandbox.run_event()));
    let reference = snapshot.reference();
    assert_eq!(all[4].what, What::SandboxSnapshotted { snapshot: reference });
    let forked = find(&all, "sandbox.created", 1);
    let What::SandboxCreated { forked_from, .. } = &forked.what else { panic!() };
    assert_eq!(*forked_from, Some(id.to_string()));
    assert_eq!(all[9].what, What::SandboxForked { asked: 2, made: 2 });
    replayed(&all).agrees(&bed.sandboxes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_many_do_at_once_each_life_is_told_in_order_and_as_it_is_counted() {
    let bed = bed(Rules { max_sandboxes: 20, ..dear() });
    let mut events = listen(&bed.sandboxes);
    let lives = (0..20_u64).map(|n| {
        let sandboxes = bed.sandboxes.clone();
        tokio::spawn(async move {
            let sandbox = sandboxes.create(testing::wanted(), None).await.unwrap();
            let id = sandbox.id();
            for _ in 0..n % 4 {
                let _ = sandboxes.pause(id, Pausing::default()).await;
                let _ = sandboxes.connect(id, MINUTE, true).await;
            }
            // A kill that cuts in.
            if n % 2 == 0 {
                let _ = tokio::join!(
                    sandboxes.pause(id, Pausing::default()),
                    sandboxes.kill(id),
                    sandboxes.kill(id)
                );
            }
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.await.unwrap();
    }
    let all = heard(&mut events).await;
    let replay = replayed(&all);
    replay.agrees(&bed.sandboxes);
    for (id, total) in &replay.totals {
        assert_eq!(replay.costs.get(id).copied().unwrap_or_default(), *total);
        let of: Vec<_> = all.iter().filter(|it| it.sandbox == *id).collect();
        assert_eq!(of[0].what.kind(), "sandbox.created");
        let ids: HashMap<_, _> = of.iter().enumerate().map(|(n, it)| (it.id, n)).collect();
        assert_eq!(ids.len(), of.len());
        // Each comes after what it came of.
        for (n, event) in of.iter().enumerate().skip(1) {
            assert!(ids[&event.parent.unwrap()] < n, "{of:?}");
        }
        let end = of.iter().position(|it| it.what.kind() == "sandbox.terminated").unwrap();
        assert!(of[end..].iter().skip(1).all(|it| it.what.kind().starts_with("cost.")));
    }
    assert_eq!(replay.totals.len(), 10);
}
