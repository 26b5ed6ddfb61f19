//! Batches with a backend without a kernel: what comes about, and what races and restarts leave.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use super::{BatchId, BatchState, NewBatch, SeenBatch, Task, TaskState, end_of, tasks::MOST_SAID};
use crate::sandbox::{
    Error, Owner, Quota, Rules, Sandboxes, Tenant, Wanted,
    testing::{self, Bed, bed},
};

fn rules(most: usize) -> Rules {
    Rules { max_sandboxes: most, ..testing::rules() }
}

fn batch(replicas: usize) -> NewBatch {
    NewBatch { wanted: testing::wanted(), replicas, task: None }
}

fn with_task(replicas: usize, command: &[&str]) -> NewBatch {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    let (env_vars, cwd, user, timeout) = (std::collections::BTreeMap::new(), None, None, None);
    NewBatch { task: Some(Task { command, env_vars, cwd, user, timeout }), ..batch(replicas) }
}

fn see(sandboxes: &Sandboxes, id: BatchId) -> SeenBatch {
    sandboxes.see_batch(&Tenant::default(), id).unwrap()
}

async fn until(sandboxes: &Sandboxes, id: BatchId, so: impl Fn(&SeenBatch) -> bool) -> SeenBatch {
    testing::until(|| so(&see(sandboxes, id))).await;
    see(sandboxes, id)
}

/// Another gateway, with what that bed's has left, and no more than that.
async fn restarted(bed: &Bed, rules: Rules) -> Sandboxes {
    let after = testing::sandboxes(bed.dir.path(), &bed.backend, rules);
    after.adopt_all().await.unwrap();
    let tidy = after.clone();
    tokio::spawn(async move { tidy.keep_tidy().await });
    after
}

/// Ends a gateway as it should end: all that it knows is in its files then.
async fn stop(sandboxes: &Sandboxes) {
    assert!(sandboxes.stop(false, Duration::from_secs(30)).await);
}

fn files(bed: &Bed) -> Vec<String> {
    let entries = std::fs::read_dir(bed.dir.path().join("batches"));
    let names = entries.into_iter().flatten().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_batch_is_there_at_once_and_its_sandboxes_soon() {
    let bed = bed(rules(10));
    *bed.backend.create_takes.lock() = Duration::from_millis(20);
    let id = bed.sandboxes.make_batch(batch(5), None).await.unwrap();
    let first = see(&bed.sandboxes, id);
    assert!(first.state == BatchState::Provisioning && first.desired == 5, "{first:?}");
    bed.sandboxes.await_batch(&Tenant::default(), id, Duration::from_secs(10)).await;
    let all = see(&bed.sandboxes, id);
    assert_eq!((all.total, all.allocated, all.ready, all.ended), (5, 5, 5, 0));
    assert_eq!(all.state, BatchState::Running);
    assert!(all.tasks.is_none());
    let indexes: Vec<usize> = all.members.iter().map(|member| member.index).collect();
    assert_eq!(indexes, [0, 1, 2, 3, 4]);
    for member in &all.members {
        let sandbox = bed.sandboxes.running(member.id).unwrap();
        assert_eq!(sandbox.facts().batch, Some(id));
        let early = all.expires_at - sandbox.ends_at().unwrap();
        assert!(early.num_milliseconds().abs() <= 30_000, "{early}");
    }
    let none = bed.sandboxes.see_batch(&"other".parse().unwrap(), id);
    assert!(matches!(none, Err(Error::NoBatch(_))));
    assert_eq!(bed.sandboxes.batches(&Tenant::default()).len(), 1);
    assert!(bed.sandboxes.batches(&"other".parse().unwrap()).is_empty());
}

#[tokio::test]
async fn what_has_ended_is_counted_and_not_made_again() {
    let bed = bed(rules(10));
    let id = bed.sandboxes.make_batch(batch(3), None).await.unwrap();
    let all = until(&bed.sandboxes, id, |it| it.ready == 3).await;
    bed.sandboxes.kill(all.members[0].id).await.unwrap();
    let left = see(&bed.sandboxes, id);
    assert_eq!((left.total, left.ready, left.ended), (2, 2, 1));
    for member in &all.members[1..] {
        bed.sandboxes.kill(member.id).await.unwrap();
    }
    assert_eq!(see(&bed.sandboxes, id).state, BatchState::Terminated);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bed.backend.specs.lock().len(), 3);
}

#[tokio::test]
async fn what_there_is_no_room_for_is_made_when_there_is() {
    let bed = bed(rules(2));
    let held = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    let id = bed.sandboxes.make_batch(batch(2), None).await.unwrap();
    let some = until(&bed.sandboxes, id, |it| it.ready == 1 && it.why.is_some()).await;
    assert_eq!((some.state, some.total), (BatchState::Provisioning, 1));
    assert_eq!(some.why.unwrap().code(), "capacity");
    bed.sandboxes.kill(held.id()).await.unwrap();
    let all = until(&bed.sandboxes, id, |it| it.ready == 2).await;
    assert_eq!((all.state, all.why), (BatchState::Running, None));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_made_is_given_up_and_told() {
    let bed = bed(rules(10));
    bed.backend.failing_creates.store(100, SeqCst);
    let id = bed.sandboxes.make_batch(batch(4), None).await.unwrap();
    bed.sandboxes.await_batch(&Tenant::default(), id, Duration::from_secs(600)).await;
    let none = see(&bed.sandboxes, id);
    assert_eq!((none.failed, none.total, none.state), (4, 0, BatchState::Failed));
    assert_eq!(none.why.unwrap().code(), "create_failed");
    assert_eq!(bed.backend.failing_creates.load(SeqCst), 100 - 3 * 4);
    let unknown = Wanted { template: "nosuch".into(), ..testing::wanted() };
    let refused = NewBatch { wanted: unknown, ..batch(1) };
    let refused = bed.sandboxes.make_batch(refused, None).await;
    assert!(matches!(refused, Err(Error::Template { .. })));
}

#[tokio::test]
async fn a_batch_counts_against_what_its_tenant_may_have_and_how_often() {
    let bed = bed(rules(10));
    let quota = Quota { max_sandboxes: Some(2), creates_per_minute: Some(3), ..Quota::default() };
    let owner = Owner { tenant: "one".parse().unwrap(), quota };
    let wanted = Wanted { owner: owner.clone(), ..testing::wanted() };
    let asked = NewBatch { wanted: wanted.clone(), ..batch(3) };
    let id = bed.sandboxes.make_batch(asked.clone(), None).await.unwrap();
    testing::until(|| bed.sandboxes.see_batch(&owner.tenant, id).unwrap().ready == 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bed.sandboxes.registry().taken(), 2);
    let often = bed.sandboxes.make_batch(asked, None).await;
    assert!(matches!(often, Err(Error::TooOften { .. })));
    let often = bed.sandboxes.create(wanted, None).await;
    assert!(matches!(often, Err(Error::TooOften { .. })));
}

#[tokio::test]
async fn the_same_key_gives_the_same_batch_also_after_a_restart() {
    let bed = bed(rules(10));
    let make = |sandboxes: &Sandboxes, replicas| {
        let sandboxes = sandboxes.clone();
        async move { sandboxes.make_batch(batch(replicas), Some("k")).await }
    };
    let (a, b) = tokio::join!(make(&bed.sandboxes, 2), make(&bed.sandboxes, 2));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a, b);
    assert!(matches!(make(&bed.sandboxes, 3).await, Err(Error::KeyReused)));
    until(&bed.sandboxes, a, |it| it.ready == 2).await;
    let after = restarted(&bed, rules(10)).await;
    assert_eq!(make(&after, 2).await.unwrap(), a);
    assert_eq!(bed.backend.specs.lock().len(), 2);
    after.remove_batch(&Tenant::default(), a).await.unwrap();
    assert_ne!(make(&after, 2).await.unwrap(), a);
}

#[tokio::test]
async fn a_deletion_ends_what_is_there_and_what_is_being_made() {
    let bed = bed(rules(40));
    *bed.backend.create_takes.lock() = Duration::from_millis(10);
    for after in [0, 5, 25, 60] {
        let id = bed.sandboxes.make_batch(batch(30), None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(after)).await;
        let tenant = Tenant::default();
        let remove = || bed.sandboxes.remove_batch(&tenant, id);
        let (first, second) = tokio::join!(remove(), remove());
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
        assert!(matches!(first.and(second), Err(Error::NoBatch(_))));
        assert!(bed.sandboxes.registry().all_present().is_empty(), "after {after} ms");
        let gone = bed.sandboxes.see_batch(&Tenant::default(), id);
        assert!(matches!(gone, Err(Error::NoBatch(_))));
        assert!(files(&bed).is_empty(), "{:?}", files(&bed));
    }
    // Nor does anything come after it.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bed.sandboxes.registry().all_present().is_empty() && files(&bed).is_empty());
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_gateway_that_starts_goes_on_where_the_one_before_was() {
    let bed = bed(rules(2));
    let id = bed.sandboxes.make_batch(batch(2), None).await.unwrap();
    let more = bed.sandboxes.make_batch(batch(1), None).await.unwrap();
    let before = until(&bed.sandboxes, id, |it| it.ready == 2).await;
    let ended = before.members[0].id;
    until(&bed.sandboxes, more, |it| it.why.is_some()).await;
    stop(&bed.sandboxes).await;
    // One ends when nobody looks any more.
    bed.backend.cells.lock().remove(&ended);
    let after = restarted(&bed, rules(2)).await;
    let seen = see(&after, id);
    assert_eq!((seen.desired, seen.ready, seen.ended), (2, 1, 1));
    assert_eq!((seen.created_at, seen.expires_at), (before.created_at, before.expires_at));
    // The place of the one that ended is taken by what lacked.
    let made = until(&after, more, |it| it.ready == 1).await;
    assert_eq!(after.running(made.members[0].id).unwrap().facts().batch, Some(more));
    assert_eq!(see(&after, id).members.len(), 2);
}

#[tokio::test]
async fn one_that_was_being_deleted_does_not_come_back() {
    let bed = bed(rules(10));
    let id = bed.sandboxes.make_batch(batch(3), None).await.unwrap();
    until(&bed.sandboxes, id, |it| it.ready == 3).await;
    stop(&bed.sandboxes).await;
    let dir = bed.dir.path().join("batches");
    let file = dir.join(format!("{id}.json"));
    std::fs::rename(&file, dir.join(format!("{id}.deleted"))).unwrap();
    let after = restarted(&bed, rules(10)).await;
    assert!(matches!(after.see_batch(&Tenant::default(), id), Err(Error::NoBatch(_))));
    assert!(after.registry().all_present().is_empty());
    testing::until(|| files(&bed).is_empty() && bed.backend.cells.lock().is_empty()).await;
}

#[tokio::test]
async fn a_sandbox_that_its_file_does_not_know_yet_is_found_by_its_record() {
    let bed = bed(rules(10));
    let id = bed.sandboxes.make_batch(batch(3), None).await.unwrap();
    let path = bed.dir.path().join("batches").join(format!("{id}.json"));
    let early = std::fs::read(&path).unwrap();
    until(&bed.sandboxes, id, |it| it.ready == 3).await;
    stop(&bed.sandboxes).await;
    std::fs::write(&path, early).unwrap();
    let after = restarted(&bed, rules(10)).await;
    assert_eq!(see(&after, id).ready, 3);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bed.backend.specs.lock().len(), 3);
}

#[tokio::test]
async fn a_file_of_nonsense_is_left_alone() {
    let bed = bed(rules(10));
    let dir = bed.dir.path().join("batches");
    std::fs::create_dir(&dir).unwrap();
    let ids = [BatchId::random(), BatchId::random()];
    std::fs::write(dir.join(format!("{}.json", ids[0])), "{").unwrap();
    std::fs::write(dir.join("else.json"), "{}").unwrap();
    let id = bed.sandboxes.make_batch(batch(1), None).await.unwrap();
    let mine = std::fs::read(dir.join(format!("{id}.json"))).unwrap();
    std::fs::write(dir.join(format!("{}.json", ids[1])), mine).unwrap();
    until(&bed.sandboxes, id, |it| it.ready == 1).await;
    let after = restarted(&bed, rules(10)).await;
    assert_eq!(after.batches(&Tenant::default()).len(), 1);
}

#[tokio::test]
async fn tasks_end_as_their_programs_do() {
    let bed = bed(rules(20));
    for (command, expected) in [
        (&["exit", "0"][..], TaskState::Succeeded),
        (&["exit", "3"], TaskState::Failed { exit_code: Some(3) }),
        (&["exit", "signal"], TaskState::Failed { exit_code: None }),
        (&["nosuch"], TaskState::Failed { exit_code: None }),
        (&["lost"], TaskState::Unknown),
    ] {
        let id = bed.sandboxes.make_batch(with_task(2, command), None).await.unwrap();
        let over = |it: &SeenBatch| {
            let tasks = it.tasks.as_ref().unwrap();
            tasks.succeeded + tasks.failed + tasks.unknown == 2
        };
        let seen = until(&bed.sandboxes, id, over).await;
        let ends: Vec<_> = seen.members.iter().map(|member| member.task.clone()).collect();
        assert_eq!(ends, [Some(expected.clone()), Some(expected.clone())]);
        let told = seen.tasks.unwrap().last_error;
        assert_eq!(told.is_some(), matches!(expected, TaskState::Failed { .. }), "{told:?}");
        bed.sandboxes.remove_batch(&Tenant::default(), id).await.unwrap();
    }
}

#[tokio::test]
async fn a_task_that_runs_is_found_again_by_the_next_gateway_and_not_run_twice() {
    let bed = bed(rules(10));
    *bed.backend.task_takes.lock() = Duration::from_secs(1000);
    let id = bed.sandboxes.make_batch(with_task(2, &["exit", "0"]), None).await.unwrap();
    let running = |it: &SeenBatch| it.tasks.as_ref().unwrap().running == 2;
    let seen = until(&bed.sandboxes, id, running).await;
    stop(&bed.sandboxes).await;
    // One ends when nobody looks any more.
    let ended = seen.members[1].id;
    bed.backend.cells.lock().remove(&ended);
    *bed.backend.task_takes.lock() = Duration::ZERO;
    let after = restarted(&bed, rules(10)).await;
    let over = |it: &SeenBatch| it.tasks.as_ref().unwrap().succeeded == 1;
    let seen = until(&after, id, over).await;
    assert_eq!(seen.tasks.unwrap().unknown, 1);
    let begun = bed.backend.tasks.lock().clone();
    assert!(begun.len() == 1 && begun[0].1, "{begun:?}");
    // And what came of it is known to the one after that.
    stop(&after).await;
    let last = restarted(&bed, rules(10)).await;
    let tasks = see(&last, id).tasks.unwrap();
    assert_eq!((tasks.succeeded, tasks.unknown), (1, 1));
    assert_eq!(bed.backend.tasks.lock().len(), 1);
}

#[tokio::test]
async fn when_no_gateway_runs_any_more_batches_are_gone_with_their_sandboxes() {
    let bed = bed(rules(10));
    let id = bed.sandboxes.make_batch(batch(3), None).await.unwrap();
    until(&bed.sandboxes, id, |it| it.ready == 3).await;
    stop(&bed.sandboxes).await;
    let down = testing::sandboxes(bed.dir.path(), &bed.backend, rules(10));
    assert_eq!(down.end_all_found().await.unwrap(), 3);
    assert!(files(&bed).is_empty());
    let after = restarted(&bed, rules(10)).await;
    assert!(after.batches(&Tenant::default()).is_empty());
}

#[tokio::test]
async fn no_tenant_has_more_than_so_many_and_what_is_over_gives_way() {
    let bed = bed(rules(10));
    let make = || bed.sandboxes.make_batch(batch(1), None);
    let first = make().await.unwrap();
    let seen = until(&bed.sandboxes, first, |it| it.ready == 1).await;
    for _ in 1..super::MOST {
        let id = make().await.unwrap();
        let seen = until(&bed.sandboxes, id, |it| it.ready == 1).await;
        if bed.sandboxes.registry().taken() > 5 {
            bed.sandboxes.kill(seen.members[0].id).await.unwrap();
        }
    }
    make().await.unwrap();
    assert_eq!(bed.sandboxes.batches(&Tenant::default()).len(), super::MOST);
    assert!(bed.sandboxes.running(seen.members[0].id).is_ok(), "one that runs is not forgotten");
    see(&bed.sandboxes, first);
}

#[test]
fn of_what_a_task_said_the_end_is_kept_and_moves_no_cursor() {
    assert_eq!(end_of(b"no such file\n"), "no such file");
    assert_eq!(end_of(b"a\x1b[2Jb\nc"), "a [2Jb c");
    let long = end_of(&[b'x'; 5000]);
    assert_eq!(long.len(), MOST_SAID);
    // A character that the cut went through is not shown as half of one.
    let cut = end_of("ä".repeat(MOST_SAID).as_bytes());
    assert!(cut.chars().all(|c| c == 'ä') && cut.len() <= MOST_SAID, "{cut}");
    let wrong = end_of(&[0xff; 1000]);
    assert!(wrong.len() <= MOST_SAID, "{}", wrong.len());
}

#[test]
fn a_task_is_read_as_it_was_written() {
    let task = with_task(1, &["sh", "-c", "exit 3"]).task.unwrap();
    let text = serde_json::to_string(&task).unwrap();
    assert_eq!(serde_json::from_str::<Task>(&text).unwrap(), task);
    for state in [
        TaskState::Pending,
        TaskState::Running,
        TaskState::Succeeded,
        TaskState::Failed { exit_code: Some(1) },
        TaskState::Failed { exit_code: None },
        TaskState::Unknown,
    ] {
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<TaskState>(&text).unwrap(), state);
    }
}
