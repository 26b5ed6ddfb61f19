//! The pool with a backend without a kernel: who gets what, and what becomes of the rest.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use chrono::Utc;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{
    Capacity, NewPool, PoolCount, PoolRules, SeenPool,
    filling::{Tended, Turn},
};
use crate::{
    backend::NetworkMode,
    limits::Bounds,
    network::NetworkPolicy,
    sandbox::{
        Error, Owner, Quota, Rules, SandboxId, Sandboxes, Wanted,
        testing::{self, Bed, TestBackend, bed},
    },
    template::{FindError, Template},
};

fn pooled(size: usize) -> Rules {
    let sizes = BTreeMap::from([("base".to_owned(), size)]);
    Rules { pool: PoolRules { sizes, memory: 1 << 30 }, ..testing::rules() }
}

/// A bed whose pool is kept, and full.
async fn filled(rules: Rules) -> Bed {
    let size = rules.pool.sizes["base"];
    let bed = bed(rules);
    keep(&bed.sandboxes);
    until(&bed.sandboxes, |count| count.available == size).await;
    bed
}

/// One whose templates all have kernels.
fn bed_with_kernels(rules: Rules) -> Bed {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(TestBackend::default());
    for name in ["sandboxes", "trash"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let template = Arc::new(Template { kernels: true, ..testing::template() });
    let find = Box::new(move |_: &str| Ok(template.clone()));
    let inside = testing::inside(&backend);
    let sandboxes = Sandboxes::new(dir.path(), backend.clone(), rules, find, inside);
    let tidy = sandboxes.clone();
    tokio::spawn(async move { tidy.keep_tidy().await });
    Bed { dir, backend, sandboxes }
}

fn keep(sandboxes: &Sandboxes) {
    let sandboxes = sandboxes.clone();
    tokio::spawn(async move { sandboxes.keep_pool().await });
}

async fn until(sandboxes: &Sandboxes, so: impl Fn(&PoolCount) -> bool) {
    let reached = async {
        while !so(&sandboxes.pool()["base"]) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let reached = timeout(Duration::from_secs(30), reached).await;
    reached.unwrap_or_else(|_| panic!("it stays at {:?}", sandboxes.pool()));
}

fn count(total: usize, allocated: usize, available: usize) -> PoolCount {
    PoolCount { total, allocated, available }
}

/// Ids in the order they were made.
fn made(backend: &TestBackend) -> Vec<SandboxId> {
    backend.specs.lock().iter().map(|spec| spec.id).collect()
}

#[tokio::test]
async fn a_tenant_that_may_have_none_or_waits_keeps_none_from_others() {
    let bed = filled(pooled(1)).await;
    let quota = Quota { max_sandboxes: Some(1), ..Quota::default() };
    let owner = Owner { tenant: "one".parse().unwrap(), quota };
    let ours = || Wanted { owner: owner.clone(), ..testing::wanted() };
    let first = bed.sandboxes.create(ours(), None).await.unwrap();
    until(&bed.sandboxes, |it| it.available == 1).await;
    let entry = *made(&bed.backend).last().unwrap();
    let refused = bed.sandboxes.create(ours(), None).await;
    assert!(matches!(refused, Err(Error::Quota { .. })), "{:?}", refused.map(|it| it.id()));
    assert_eq!(*made(&bed.backend).last().unwrap(), entry);
    // While it ends, its tenant waits for its place.
    bed.sandboxes.0.registry.hide(first.id(), &owner.tenant);
    let (late, other) = tokio::join!(
        bed.sandboxes.create(ours(), None),
        bed.sandboxes.create(testing::wanted(), None)
    );
    assert!(matches!(late, Err(Error::Quota { .. })), "{:?}", late.map(|it| it.id()));
    assert_eq!(other.unwrap().id(), entry);
}

#[tokio::test]
async fn a_sandbox_of_the_pool_is_what_was_asked_for_and_another_is_made_for_the_next() {
    let bed = filled(pooled(1)).await;
    let spec = bed.backend.specs.lock()[0].clone();
    let dir = bed.dir.path().join("sandboxes").join(spec.id.to_string());
    assert!(bed.sandboxes.running(spec.id).is_err() && !dir.join("sandbox.json").exists());
    assert_eq!(bed.sandboxes.pool()["base"], count(1, 0, 1));

    let before = Utc::now();
    let mut wanted = testing::wanted();
    wanted.env_vars.insert("MINE".into(), "1".into());
    wanted.metadata.insert("a".into(), "b".into());
    wanted.timeout = Duration::from_secs(7);
    let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
    assert_eq!(sandbox.id(), spec.id);
    assert!(sandbox.facts().from_pool && sandbox.facts().started_at >= before);
    assert_eq!(sandbox.facts().metadata["a"], "b");
    let life = sandbox.ends_at().unwrap() - sandbox.facts().started_at;
    // Deadlines are kept in whole milliseconds.
    assert!((6999..=7000).contains(&life.num_milliseconds()));
    assert!(dir.join("sandbox.json").exists());
    let (told, init) = bed.backend.begun.lock()[0].clone();
    assert_eq!(told, dir);
    assert_eq!(init.access_token.as_deref(), Some(sandbox.envd_token()));
    assert_ne!(spec.init.access_token, init.access_token);
    assert_eq!(init.default_user.as_deref(), Some("user"));
    let env = init.env_vars.unwrap();
    assert_eq!((env["MINE"].as_str(), env["LANG"].as_str()), ("1", "C.UTF-8"));

    until(&bed.sandboxes, |it| *it == count(2, 1, 1)).await;
    bed.sandboxes.kill(sandbox.id()).await.unwrap();
    assert_eq!(bed.sandboxes.pool()["base"], count(1, 0, 1));
    assert!(bed.sandboxes.stop(false, Duration::from_secs(30)).await);
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn what_an_entry_cannot_become_is_made_anew() {
    let bed = filled(pooled(1)).await;
    let entry = made(&bed.backend)[0];
    let closed = Wanted { policy: NetworkPolicy::of_access(Some(false)), ..testing::wanted() };
    let sandbox = bed.sandboxes.create(closed, None).await.unwrap();
    assert!(sandbox.id() != entry && !sandbox.facts().from_pool);
    let spec = bed.backend.specs.lock().iter().find(|spec| spec.id == sandbox.id()).cloned();
    assert_eq!(spec.unwrap().network, NetworkMode::None);
    let open = Wanted { policy: NetworkPolicy::of_access(Some(true)), ..testing::wanted() };
    assert_eq!(bed.sandboxes.create(open, None).await.unwrap().id(), entry);
}

#[tokio::test]
async fn of_many_that_come_at_once_each_gets_a_sandbox_of_its_own() {
    let bed = filled(Rules { max_sandboxes: 40, ..pooled(3) }).await;
    let create = || bed.sandboxes.create(testing::wanted(), None);
    let all = futures_util::future::try_join_all((0..30).map(|_| create())).await.unwrap();
    let mut ids: Vec<_> = all.iter().map(|sandbox| sandbox.id()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 30);
    assert!(all.iter().filter(|sandbox| sandbox.facts().from_pool).count() >= 3);
}

#[tokio::test]
async fn an_entry_that_died_is_replaced_and_not_given_away() {
    let bed = filled(pooled(2)).await;
    let first = made(&bed.backend)[0];
    bed.backend.end_cell(first);
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    assert_ne!(sandbox.id(), first);
    until(&bed.sandboxes, |it| it.available == 2).await;
    timeout(Duration::from_secs(30), async {
        while bed.backend.cells.lock().contains_key(&first) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("the dead one is removed");
}

#[tokio::test]
async fn whom_the_entries_do_not_answer_gets_a_new_sandbox_at_once() {
    let bed = filled(pooled(2)).await;
    let entries = made(&bed.backend);
    bed.backend.failing_begins.store(2, SeqCst);
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    assert!(!entries.contains(&sandbox.id()) && !sandbox.facts().from_pool);
    assert!(bed.backend.begun.lock().is_empty());
    until(&bed.sandboxes, |it| it.available == 2).await;
}

#[tokio::test]
async fn the_pool_takes_no_place_that_a_client_could_have() {
    let bed = filled(Rules { max_sandboxes: 2, ..pooled(2) }).await;
    let none = Wanted { policy: NetworkPolicy::of_access(Some(false)), ..testing::wanted() };
    for _ in 0..2 {
        bed.sandboxes.create(none.clone(), None).await.unwrap();
    }
    // Nobody could have one of these.
    until(&bed.sandboxes, |it| *it == count(0, 0, 0)).await;
    let full = bed.sandboxes.create(testing::wanted(), None).await;
    assert!(matches!(full, Err(Error::Full(_))));
}

#[tokio::test]
async fn an_entry_survives_a_create_that_finds_no_place() {
    let bed = bed(Rules { max_sandboxes: 1, ..pooled(1) });
    let entry = bed.sandboxes.tend(&mut Turn::default()).await;
    assert_eq!(entry, Tended::Made);
    let held = bed.sandboxes.place(SandboxId::random(), &Default::default()).await.unwrap();
    let full = bed.sandboxes.create(testing::wanted(), None).await;
    assert!(matches!(full, Err(Error::Full(_))));
    assert_eq!(bed.sandboxes.pool()["base"].available, 1);
    drop(held);
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    assert!(sandbox.facts().from_pool);
}

#[tokio::test]
async fn where_memory_is_short_all_give_way_and_none_are_made() {
    let bed = filled(pooled(2)).await;
    let poor = Rules { memory_headroom: u64::MAX, ..pooled(2) };
    let poor = testing::sandboxes(bed.dir.path(), &bed.backend, poor);
    let entries = bed.sandboxes.0.pool.take_all();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        assert!(poor.0.pool.put(entry).is_none());
    }
    // A client that needs memory gets what the pool had, though here it is not enough.
    let none = Wanted { policy: NetworkPolicy::of_access(Some(false)), ..testing::wanted() };
    let full = poor.create(none, None).await;
    assert!(matches!(full, Err(Error::Full(_))));
    assert_eq!(poor.pool()["base"], count(0, 0, 0));
    assert!(made(&bed.backend).iter().all(|id| !bed.backend.cells.lock().contains_key(id)));
    assert_eq!(poor.tend(&mut Turn::default()).await, Tended::Nothing);
}

#[tokio::test]
async fn the_pool_is_as_large_as_its_memory_allows() {
    let mut rules = pooled(5);
    rules.pool.memory = 100 << 20;
    let bed = bed(rules);
    bed.backend.memory_used.store(40 << 20, SeqCst);
    for expected in [Tended::Made, Tended::Made, Tended::Nothing] {
        assert_eq!(bed.sandboxes.tend(&mut Turn::default()).await, expected);
    }
    assert_eq!(bed.sandboxes.pool()["base"].available, 2);
}

#[tokio::test]
async fn an_entry_that_cannot_be_made_leaves_nothing() {
    let bed = bed(pooled(1));
    bed.backend.failing_creates.store(1, SeqCst);
    assert_eq!(bed.sandboxes.tend(&mut Turn::default()).await, Tended::Failed);
    bed.until_nothing_is_left().await;
    assert_eq!(bed.sandboxes.tend(&mut Turn::default()).await, Tended::Made);
}

#[tokio::test]
async fn only_what_has_kernels_is_warmed_and_an_entry_that_is_not_is_as_good() {
    for (bed, warmed) in [(bed(pooled(1)), 0), (bed_with_kernels(pooled(1)), 1)] {
        assert_eq!(bed.sandboxes.tend(&mut Turn::default()).await, Tended::Made);
        assert_eq!(bed.backend.warmed.load(SeqCst), warmed);
        assert_eq!(bed.sandboxes.pool()["base"], count(1, 0, 1));
    }
}

#[test]
fn why_an_entry_is_not_warm_is_told_once() {
    let mut turn = Turn::default();
    let because = |why: &str| Some(why.to_owned());
    for (template, cold, news) in [
        ("base", because("no kernel"), true),
        ("base", because("no kernel"), false),
        ("other", because("no kernel"), true),
        ("base", because("too late"), true),
        ("base", None, false),
        ("base", because("too late"), true),
    ] {
        assert_eq!(turn.is_news(template, cold.clone()), news, "{template}: {cold:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_stops_does_not_wait_for_an_entry_to_be_warm() {
    let bed = bed_with_kernels(pooled(1));
    *bed.backend.warming_takes.lock() = Duration::from_secs(1000);
    let mut turn = Turn::default();
    let (tended, stopped) = tokio::join!(bed.sandboxes.tend(&mut turn), async {
        while bed.backend.warmed.load(SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(bed.sandboxes.pool()["base"], count(1, 0, 0));
        bed.sandboxes.stop(false, Duration::from_secs(10)).await
    });
    assert_eq!(tended, Tended::Nothing);
    assert!(stopped);
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn nothing_is_made_while_a_client_waits_for_a_sandbox() {
    let bed = bed(pooled(1));
    let held = bed.sandboxes.place(SandboxId::random(), &Default::default()).await.unwrap();
    let mut turn = Turn::default();
    let tending = bed.sandboxes.tend(&mut turn);
    tokio::pin!(tending);
    let early = timeout(Duration::from_millis(100), &mut tending).await;
    assert!(early.is_err() && bed.backend.specs.lock().is_empty());
    drop(held);
    timeout(Duration::from_secs(30), tending).await.unwrap();
    assert_eq!(bed.backend.specs.lock().len(), 1);
}

#[tokio::test]
async fn nothing_is_made_when_the_gateway_came_to_stop_meanwhile() {
    let bed = bed(pooled(1));
    let held = bed.sandboxes.place(SandboxId::random(), &Default::default()).await.unwrap();
    let mut turn = Turn::default();
    let tending = bed.sandboxes.tend(&mut turn);
    tokio::pin!(tending);
    assert!(timeout(Duration::from_millis(20), &mut tending).await.is_err());
    bed.sandboxes.0.pool.close();
    drop(held);
    let tended = timeout(Duration::from_secs(30), tending).await.unwrap();
    assert!(tended == Tended::Nothing && bed.backend.specs.lock().is_empty());
}

#[tokio::test]
async fn entries_of_a_template_that_was_replaced_are_never_given_away() {
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(TestBackend::default());
    for name in ["sandboxes", "trash"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let present = Arc::new(Mutex::new(Some(Arc::new(testing::template()))));
    let find = {
        let present = present.clone();
        Box::new(move |_: &str| present.lock().clone().ok_or(FindError::Unknown))
    };
    let inside = testing::inside(&backend);
    let sandboxes = Sandboxes::new(dir.path(), backend.clone(), pooled(1), find, inside);
    let mut turn = Turn::default();
    sandboxes.tend(&mut turn).await;
    let old = made(&backend)[0];
    let newer = Template { layers: vec!["/layers/newer".into()], ..testing::template() };
    *present.lock() = Some(Arc::new(newer.clone()));
    let sandbox = sandboxes.create(testing::wanted(), None).await.unwrap();
    assert!(sandbox.id() != old && sandbox.facts().template == newer);
    sandboxes.tend(&mut turn).await;
    assert_eq!(sandboxes.pool()["base"].available, 1);
    assert_eq!(*backend.specs.lock().last().unwrap().template, newer);
    *present.lock() = None;
    sandboxes.tend(&mut turn).await;
    assert_eq!(sandboxes.pool()["base"].available, 0);
    sandboxes.0.tasks.close();
    timeout(Duration::from_secs(30), sandboxes.0.tasks.wait()).await.unwrap();
    assert_eq!(backend.cells.lock().keys().collect::<Vec<_>>(), [&sandbox.id()]);
}

#[tokio::test]
async fn templates_have_their_turns_though_one_of_them_fails() {
    let mut rules = pooled(2);
    rules.pool.sizes.insert("other".into(), 1);
    let dir = tempfile::tempdir().unwrap();
    let backend = Arc::new(TestBackend::default());
    std::fs::create_dir_all(dir.path().join("sandboxes")).unwrap();
    std::fs::create_dir_all(dir.path().join("trash")).unwrap();
    let find = Box::new(|name: &str| {
        Ok(Arc::new(Template { id: name.to_owned(), ..testing::template() }))
    });
    let inside = testing::inside(&backend);
    let sandboxes = Sandboxes::new(dir.path(), backend.clone(), rules, find, inside);
    let mut turn = Turn::default();
    backend.failing_creates.store(1, SeqCst);
    let (failed, made, nothing) = (Tended::Failed, Tended::Made, Tended::Nothing);
    for expected in [failed, made, made, made, nothing] {
        assert_eq!(sandboxes.tend(&mut turn).await, expected);
    }
    let order: Vec<_> = backend.specs.lock().iter().map(|it| it.template.id.clone()).collect();
    assert_eq!(order, ["other", "base", "base"]);
}

#[tokio::test]
async fn the_next_gateway_ends_what_was_nobodys() {
    let bed = filled(pooled(2)).await;
    let mine = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    until(&bed.sandboxes, |it| it.available == 2).await;
    assert_eq!(bed.backend.cells.lock().len(), 3);
    let after = testing::sandboxes(bed.dir.path(), &bed.backend, pooled(2));
    after.adopt_all().await.unwrap();
    assert_eq!(after.pool()["base"], count(1, 1, 0));
    after.0.tasks.close();
    timeout(Duration::from_secs(30), after.0.tasks.wait()).await.unwrap();
    assert_eq!(bed.backend.cells.lock().keys().collect::<Vec<_>>(), [&mine.id()]);
}

fn capacity(buffer: usize, pool_max: usize) -> Capacity {
    Capacity { buffer_max: buffer, buffer_min: buffer, pool_max, pool_min: 0 }
}

fn new_pool(name: &str, capacity: Capacity) -> NewPool {
    NewPool {
        name: name.into(),
        template: "base".into(),
        limits: String::new(),
        allow_internet_access: None,
        capacity,
    }
}

/// Tends until there is nothing to do; the number of those that were made.
async fn tended(sandboxes: &Sandboxes) -> usize {
    let (mut made, mut turn) = (0, Turn::default());
    while sandboxes.tend(&mut turn).await == Tended::Made {
        made += 1;
    }
    made
}

fn seen(sandboxes: &Sandboxes, name: &str) -> (usize, usize, usize) {
    let SeenPool { count, .. } = sandboxes.see_pool(name).unwrap();
    (count.total, count.allocated, count.available)
}

#[tokio::test]
async fn a_pool_that_is_made_at_run_time_is_filled_beside_that_of_the_settings() {
    let bed = bed(pooled(1));
    let made = bed.sandboxes.make_pool(new_pool("mine", capacity(2, 3))).await.unwrap();
    assert_eq!(tended(&bed.sandboxes).await, 3);
    assert_eq!(
        (seen(&bed.sandboxes, "base"), seen(&bed.sandboxes, "mine")),
        ((1, 0, 1), (2, 0, 2))
    );
    assert_eq!(bed.sandboxes.pool()["base"], count(3, 0, 3));
    assert_eq!(seen(&bed.sandboxes, &made.spec.id.to_string()), (2, 0, 2));
    let names: Vec<_> = bed.sandboxes.pools().iter().map(|it| it.spec.name.clone()).collect();
    assert_eq!(names, ["base", "mine"]);
    // The oldest of either is taken, and no more is made than may be in all.
    for _ in 0..3 {
        bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    }
    assert_eq!(
        (seen(&bed.sandboxes, "base"), seen(&bed.sandboxes, "mine")),
        ((1, 1, 0), (2, 2, 0))
    );
    assert_eq!(tended(&bed.sandboxes).await, 2);
    assert_eq!(
        (seen(&bed.sandboxes, "base"), seen(&bed.sandboxes, "mine")),
        ((2, 1, 1), (3, 2, 1))
    );
    let mine = bed.sandboxes.see_pool("mine").unwrap();
    assert_eq!(mine.updated, 3);
    assert_eq!(mine.revision.unwrap().len(), 16);
}

#[tokio::test]
async fn a_pool_grows_and_shrinks_as_it_is_told() {
    let bed = bed(pooled(0));
    bed.sandboxes.make_pool(new_pool("mine", capacity(1, 10))).await.unwrap();
    assert_eq!(tended(&bed.sandboxes).await, 1);
    bed.sandboxes.set_pool("mine", capacity(4, 10)).await.unwrap();
    assert_eq!(tended(&bed.sandboxes).await, 3);
    let few = Capacity { buffer_min: 0, buffer_max: 2, pool_min: 0, pool_max: 10 };
    bed.sandboxes.set_pool("mine", few).await.unwrap();
    assert_eq!(tended(&bed.sandboxes).await, 0);
    assert_eq!(seen(&bed.sandboxes, "mine"), (2, 0, 2));
    // What waits is left alone within the bounds.
    bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    assert_eq!(tended(&bed.sandboxes).await, 0);
    assert_eq!(seen(&bed.sandboxes, "mine"), (2, 1, 1));
    let least = Capacity { pool_min: 4, ..few };
    bed.sandboxes.set_pool("mine", least).await.unwrap();
    assert_eq!(tended(&bed.sandboxes).await, 2);
    assert_eq!(seen(&bed.sandboxes, "mine"), (4, 1, 3));
}

#[tokio::test]
async fn an_entry_is_for_whom_its_limits_and_its_network_suit() {
    let bed = bed(pooled(0));
    let small = NewPool { limits: "memory=64".into(), ..new_pool("small", capacity(1, 9)) };
    let alone = NewPool { allow_internet_access: Some(false), ..new_pool("alone", capacity(1, 9)) };
    for new in [small, alone] {
        bed.sandboxes.make_pool(new).await.unwrap();
    }
    assert_eq!(tended(&bed.sandboxes).await, 2);
    let plain = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    assert!(!plain.facts().from_pool);
    let policy = NetworkPolicy::of_access(Some(false));
    let alone = Wanted { policy, ..testing::wanted() };
    let limits = Bounds::parse("memory=64").unwrap();
    let small = Wanted { limits, ..testing::wanted() };
    for (wanted, name) in [(alone, "alone"), (small, "small")] {
        let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
        assert_eq!(sandbox.facts().pool, Some(bed.sandboxes.see_pool(name).unwrap().spec.id));
    }
}

#[tokio::test]
async fn a_pool_that_is_deleted_takes_what_waits_with_it_and_leaves_what_runs() {
    let bed = bed(pooled(0));
    bed.sandboxes.make_pool(new_pool("mine", capacity(2, 9))).await.unwrap();
    assert_eq!(tended(&bed.sandboxes).await, 2);
    let running = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    bed.sandboxes.remove_pool("mine").await.unwrap();
    assert!(matches!(bed.sandboxes.see_pool("mine"), Err(Error::NoPool(_))));
    assert!(matches!(bed.sandboxes.remove_pool("mine").await, Err(Error::NoPool(_))));
    assert_eq!(tended(&bed.sandboxes).await, 0);
    assert!(bed.sandboxes.running(running.id()).is_ok());
    // It still came out of a pool of that template.
    assert_eq!(bed.sandboxes.pool()["base"], count(1, 1, 0));
    testing::until(|| bed.backend.cells.lock().len() == 1).await;
    // One of the same name is another.
    bed.sandboxes.make_pool(new_pool("mine", capacity(0, 9))).await.unwrap();
    assert_eq!(seen(&bed.sandboxes, "mine"), (0, 0, 0));
}

#[tokio::test]
async fn what_is_being_made_for_a_pool_that_is_deleted_does_not_stay() {
    let bed = bed(pooled(0));
    bed.sandboxes.make_pool(new_pool("mine", capacity(1, 9))).await.unwrap();
    *bed.backend.create_takes.lock() = Duration::from_millis(100);
    let mut turn = Turn::default();
    let (tended, ()) = tokio::join!(bed.sandboxes.tend(&mut turn), async {
        while bed.sandboxes.pool()["base"].total == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        bed.sandboxes.remove_pool("mine").await.unwrap();
    });
    assert_eq!(tended, Tended::Made);
    assert!(bed.sandboxes.pool().is_empty(), "{:?}", bed.sandboxes.pool());
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn pools_of_operators_are_there_after_a_restart_and_those_of_the_settings_are_fixed() {
    let bed = bed(pooled(1));
    let made = bed.sandboxes.make_pool(new_pool("mine", capacity(1, 9))).await.unwrap();
    bed.sandboxes.make_pool(new_pool("gone", capacity(1, 9))).await.unwrap();
    bed.sandboxes.set_pool("mine", capacity(2, 9)).await.unwrap();
    bed.sandboxes.remove_pool("gone").await.unwrap();
    for name in ["mine", "base"] {
        let taken = bed.sandboxes.make_pool(new_pool(name, capacity(1, 9))).await;
        assert!(matches!(taken, Err(Error::PoolNameTaken(_))), "{name}");
    }
    let unknown = NewPool { template: "nosuch".into(), ..new_pool("x", capacity(1, 9)) };
    assert!(matches!(bed.sandboxes.make_pool(unknown).await, Err(Error::Template { .. })));
    let building = NewPool { template: "building".into(), ..new_pool("later", capacity(1, 9)) };
    assert!(bed.sandboxes.make_pool(building).await.unwrap().revision.is_none());
    assert_eq!(tended(&bed.sandboxes).await, 3);
    let taken = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    std::fs::write(bed.dir.path().join("pools/0.json"), "{").unwrap();

    let after = testing::sandboxes(bed.dir.path(), &bed.backend, pooled(1));
    after.adopt_all().await.unwrap();
    let names: Vec<_> = after.pools().iter().map(|it| it.spec.name.clone()).collect();
    assert_eq!(names, ["base", "later", "mine"]);
    let spec = after.see_pool("mine").unwrap().spec;
    assert_eq!((spec.id, spec.capacity), (made.spec.id, capacity(2, 9)));
    assert_eq!(spec.created_at, made.spec.created_at);
    let of = |name: &str| after.see_pool(name).unwrap();
    assert_eq!(of("base").count.allocated + of("mine").count.allocated, 1);
    assert!(taken.facts().pool.is_some());
    for change in
        [after.set_pool("base", capacity(0, 1)).await.map(drop), after.remove_pool("base").await]
    {
        assert!(matches!(change, Err(Error::PoolOfSettings(_))));
    }
    assert!(tended(&after).await >= 2);
    assert_eq!(of("mine").count.available, 2);
}
