use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::sandbox::{
    Quota, Wanted,
    testing::{self, Bed, bed, until},
};

const LONG: Duration = Duration::from_secs(60);

async fn paused(bed: &Bed, wanted: Wanted) -> Arc<Sandbox> {
    let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
    bed.sandboxes.pause(sandbox.id(), Pausing::default()).await.unwrap();
    sandbox
}

#[tokio::test]
async fn a_paused_sandbox_stands_still_and_goes_on_when_connected_to() {
    let bed = bed(testing::rules());
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    let (id, cut) = (sandbox.id(), sandbox.cut());
    bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
    assert!(cut.is_cancelled() && !sandbox.gone().is_cancelled());
    assert!(bed.backend.is_frozen(id));
    assert!(bed.sandboxes.running(id).is_err() && bed.sandboxes.reach(id).await.is_none());
    let again = bed.sandboxes.pause(id, Pausing::default()).await;
    assert!(matches!(again, Err(Error::NotNow(_, Phase::Paused))), "{again:?}");
    let renewed = bed.sandboxes.set_timeout(id, LONG).await;
    assert!(matches!(renewed, Err(Error::NotNow(_, Phase::Paused))), "{renewed:?}");

    let (same, resumed) = bed.sandboxes.connect(id, LONG, true).await.unwrap();
    assert!(resumed && Arc::ptr_eq(&same, &sandbox) && !bed.backend.is_frozen(id));
    assert!(!sandbox.cut().is_cancelled());
    let left = sandbox.ends_at().unwrap() - Utc::now();
    assert!((58..=60).contains(&left.num_seconds()), "{left}");
    let (_, resumed) = bed.sandboxes.connect(id, LONG, true).await.unwrap();
    assert!(!resumed);
    assert!(!bed.sandboxes.resume(id, LONG, Reason::User, true).await.unwrap());
}

#[tokio::test]
async fn of_many_who_pause_or_resume_at_once_one_does_and_it_ends_as_the_last_one_said() {
    let bed = bed(testing::rules());
    let id = bed.sandboxes.create(testing::wanted(), None).await.unwrap().id();
    let pauses = (0..10).map(|_| bed.sandboxes.pause(id, Pausing::default()));
    let paused = futures_util::future::join_all(pauses).await;
    assert_eq!(paused.iter().filter(|paused| paused.is_ok()).count(), 1, "{paused:?}");
    let resumes = (0..10).map(|_| bed.sandboxes.resume(id, LONG, Reason::User, true));
    let resumed = futures_util::future::try_join_all(resumes).await.unwrap();
    assert_eq!(resumed.iter().filter(|resumed| **resumed).count(), 1, "{resumed:?}");
    assert!(!bed.backend.is_frozen(id));
}

#[tokio::test]
async fn at_its_deadline_one_is_paused_rather_than_ended_where_that_was_asked_for() {
    let bed = bed(testing::rules());
    let short = Duration::from_millis(100);
    let wanted = Wanted { auto_pause: true, timeout: short, ..testing::wanted() };
    let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
    until(|| sandbox.phase() == Phase::Paused).await;
    assert!(bed.backend.is_frozen(sandbox.id()));
    // No deadline ends it.
    tokio::time::sleep(2 * short).await;
    assert_eq!(sandbox.phase(), Phase::Paused);
    bed.sandboxes.connect(sandbox.id(), short, true).await.unwrap();
    until(|| sandbox.phase() == Phase::Paused).await;
    bed.sandboxes.kill(sandbox.id()).await.unwrap();
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn who_sends_it_something_wakes_one_that_is_to_be_woken() {
    let bed = bed(testing::rules());
    let wanted = Wanted { auto_pause: true, auto_resume: true, ..testing::wanted() };
    let sandbox = paused(&bed, wanted).await;
    let reached = futures_util::future::join_all((0..5).map(|_| bed.sandboxes.reach(sandbox.id())));
    assert!(reached.await.iter().all(Option::is_some));
    assert!(!bed.backend.is_frozen(sandbox.id()));
    let left = sandbox.ends_at().unwrap() - Utc::now();
    assert!((58..=60).contains(&left.num_seconds()), "{left}");
}

#[tokio::test]
async fn one_that_cannot_be_stopped_runs_on() {
    let bed = bed(testing::rules());
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    let before = sandbox.ends_at();
    bed.backend.failing_freezes.store(1, SeqCst);
    // Nobody asks for that.
    bed.backend.failing_thaws.store(1, SeqCst);
    assert!(bed.sandboxes.pause(sandbox.id(), Pausing::default()).await.is_err());
    assert_eq!(bed.backend.failing_thaws.swap(0, SeqCst), 1);
    assert_eq!((sandbox.phase(), sandbox.ends_at()), (Phase::Running, before));
    assert!(!sandbox.cut().is_cancelled());
}

#[tokio::test]
async fn one_that_cannot_be_paused_at_its_deadline_is_tried_again_and_not_lost_at_once() {
    let bed = bed(testing::rules());
    let short = Duration::from_millis(50);
    let wanted = Wanted { auto_pause: true, timeout: short, ..testing::wanted() };
    bed.backend.failing_freezes.store(3, SeqCst);
    let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
    let deadline = sandbox.ends_at().unwrap();
    until(|| sandbox.phase() == Phase::Paused).await;
    assert_eq!(sandbox.status().reason, Some(Reason::Deadline));
    assert_eq!(bed.backend.failing_freezes.load(SeqCst), 0);
    // With a while between one try and the next.
    assert!(sandbox.status().since - deadline >= chrono::TimeDelta::milliseconds(300));
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_told_either() {
    let bed = bed(testing::rules());
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    // In the place of the file that a record is written to first.
    let beside = sandbox.dir().join(".sandbox.json");
    std::fs::create_dir(&beside).unwrap();
    assert!(bed.sandboxes.pause(sandbox.id(), Pausing::default()).await.is_err());
    assert_eq!(sandbox.phase(), Phase::Running);
    assert!(!bed.backend.is_frozen(sandbox.id()) && !sandbox.cut().is_cancelled());

    std::fs::remove_dir(&beside).unwrap();
    bed.sandboxes.pause(sandbox.id(), Pausing::default()).await.unwrap();
    std::fs::create_dir(&beside).unwrap();
    assert!(bed.sandboxes.connect(sandbox.id(), LONG, true).await.is_err());
    assert_eq!(sandbox.phase(), Phase::Paused);
    assert!(bed.backend.is_frozen(sandbox.id()));
}

#[tokio::test]
async fn one_that_cannot_go_on_stays_paused() {
    let bed = bed(testing::rules());
    let sandbox = paused(&bed, testing::wanted()).await;
    let since = sandbox.ends_at();
    bed.backend.failing_thaws.store(1, SeqCst);
    assert!(bed.sandboxes.connect(sandbox.id(), LONG, true).await.is_err());
    assert_eq!((sandbox.phase(), sandbox.ends_at()), (Phase::Paused, since));
    assert!(bed.backend.is_frozen(sandbox.id()));
    bed.sandboxes.connect(sandbox.id(), LONG, true).await.unwrap();
}

#[tokio::test]
async fn a_kill_wins_over_a_pause_under_way_and_over_a_paused_sandbox() {
    let bed = bed(testing::rules());
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    *bed.backend.freeze_takes.lock() = Duration::from_millis(200);
    let id = sandbox.id();
    let (paused, killed) = tokio::join!(bed.sandboxes.pause(id, Pausing::default()), async {
        until(|| sandbox.phase() == Phase::Pausing).await;
        bed.sandboxes.kill(id).await
    });
    killed.unwrap();
    assert!(matches!(paused, Err(Error::NotFound(_))), "{paused:?}");
    bed.until_nothing_is_left().await;

    let sandbox = self::paused(&bed, testing::wanted()).await;
    bed.sandboxes.kill(sandbox.id()).await.unwrap();
    assert!(sandbox.gone().is_cancelled());
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_resume_that_meets_a_kill_finds_nothing() {
    for mode in [PauseMode::Full, PauseMode::Filesystem] {
        let bed = bed(testing::rules());
        let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
        let id = sandbox.id();
        let how = Pausing { mode, ..Pausing::default() };
        bed.sandboxes.pause(id, how).await.unwrap();
        // Until nobody else writes its record.
        until(|| sandbox.durable_at().is_some()).await;
        // What there was to go on is gone when its turn comes.
        bed.backend.failing_thaws.store(1, SeqCst);
        bed.backend.failing_creates.store(1, SeqCst);
        let (release, released) = std::sync::mpsc::channel::<()>();
        let holder = sandbox.clone();
        let holder = std::thread::spawn(move || {
            let _held = holder.hold_record();
            let _ = released.recv();
        });
        until(|| sandbox.is_being_saved()).await;
        let resume = tokio::spawn({
            let sandboxes = bed.sandboxes.clone();
            async move { sandboxes.connect(id, LONG, true).await.map(drop) }
        });
        until(|| sandbox.phase() == Phase::Resuming).await;
        let kill = tokio::spawn({
            let sandboxes = bed.sandboxes.clone();
            async move { sandboxes.kill(id).await }
        });
        until(|| sandbox.phase().is_over()).await;
        drop(release);
        holder.join().unwrap();
        let resumed = resume.await.unwrap();
        assert!(matches!(resumed, Err(Error::NotFound(_))), "{mode:?}: {resumed:?}");
        kill.await.unwrap().unwrap();
        assert_eq!(bed.sandboxes.see(id).unwrap().status.reason, Some(Reason::User), "{mode:?}");
        bed.until_nothing_is_left().await;
    }
}

#[tokio::test]
async fn who_creates_again_with_the_same_key_finds_it_running() {
    let bed = bed(testing::rules());
    let first = bed.sandboxes.create(testing::wanted(), Some("k")).await.unwrap();
    bed.sandboxes.pause(first.id(), Pausing::default()).await.unwrap();
    let again = bed.sandboxes.create(testing::wanted(), Some("k")).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(again.phase(), Phase::Running);
    assert!(!bed.backend.is_frozen(first.id()));
}

#[tokio::test(start_paused = true)]
async fn one_that_a_new_gateway_cannot_let_go_on_is_paused_to_its_clients() {
    let bed = bed(testing::rules());
    let running = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    bed.backend.freeze_quietly(running.id());
    bed.backend.failing_thaws.store(100, SeqCst);
    let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
    after.adopt_all().await.unwrap();
    assert_eq!(after.present(running.id()).unwrap().phase(), Phase::Paused);
    bed.backend.failing_thaws.store(0, SeqCst);
    let (_, resumed) = after.connect(running.id(), LONG, true).await.unwrap();
    assert!(resumed && !bed.backend.is_frozen(running.id()));
}

#[tokio::test]
async fn a_gateway_that_starts_finds_the_paused_paused_and_lets_the_others_run() {
    let bed = bed(testing::rules());
    let short = Wanted { timeout: Duration::from_millis(200), ..testing::wanted() };
    let paused = paused(&bed, short).await;
    let running = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    // The one before died in the middle of each.
    bed.backend.thaw_quietly(paused.id());
    bed.backend.freeze_quietly(running.id());
    tokio::time::sleep(Duration::from_millis(250)).await;

    let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
    after.adopt_all().await.unwrap();
    let adopted = after.present(paused.id()).unwrap();
    assert_eq!((adopted.phase(), adopted.ends_at()), (Phase::Paused, paused.ends_at()));
    assert!(adopted.cut().is_cancelled() && !adopted.gone().is_cancelled());
    assert!(bed.backend.is_frozen(paused.id()) && !bed.backend.is_frozen(running.id()));
    assert!(after.running(running.id()).is_ok());
    after.connect(paused.id(), LONG, true).await.unwrap();
}

#[tokio::test]
async fn one_that_neither_goes_on_nor_stands_still_is_not_told_as_paused() {
    let bed = bed(testing::rules());
    let sandbox = paused(&bed, testing::wanted()).await;
    bed.backend.failing_thaws.store(1, SeqCst);
    bed.backend.failing_freezes.store(1, SeqCst);
    assert!(bed.sandboxes.connect(sandbox.id(), LONG, true).await.is_err());
    assert!(sandbox.phase().is_over());
    assert_eq!(sandbox.status().reason, Some(Reason::Stuck));
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_record_that_is_not_written_in_time_leaves_it_paused() {
    let bed = bed(testing::rules());
    let sandbox = paused(&bed, testing::wanted()).await;
    until(|| sandbox.durable_at().is_some()).await;
    let id = sandbox.id();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let holder = sandbox.clone();
    let holder = std::thread::spawn(move || {
        let _held = holder.hold_record();
        let _ = released.recv();
    });
    until(|| sandbox.is_being_saved()).await;
    // Whoever brings it to the disk keeps nobody from writing it.
    sandbox.sync().unwrap();
    let sandboxes = bed.sandboxes.clone();
    let connect = tokio::spawn(async move { sandboxes.connect(id, LONG, true).await.map(drop) });
    until(|| sandbox.phase() == Phase::Resuming).await;
    tokio::time::pause();
    while !connect.is_finished() {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    tokio::time::resume();
    let late = connect.await.unwrap();
    assert!(matches!(late, Err(Error::Io { .. })), "{late:?}");
    assert_eq!(sandbox.phase(), Phase::Paused);
    assert!(bed.backend.is_frozen(id));
    drop(release);
    holder.join().unwrap();
    bed.sandboxes.connect(id, LONG, true).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_has_no_turn_to_pause_in_time_is_told() {
    let bed = bed(testing::rules());
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    let turn = sandbox.turn.lock().await;
    let began = tokio::time::Instant::now();
    let late = bed.sandboxes.pause(sandbox.id(), Pausing::default()).await;
    assert!(matches!(late, Err(Error::NotNow(..))), "{late:?}");
    assert!(began.elapsed() <= 2 * TURN);
    drop(turn);
    bed.sandboxes.pause(sandbox.id(), Pausing::default()).await.unwrap();
}

#[tokio::test]
async fn a_copy_that_would_begin_after_its_deadline_does_not() {
    let bed = bed(testing::rules());
    let wanted = Wanted { auto_pause: true, ..testing::wanted() };
    let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
    let id = sandbox.id();
    *bed.backend.copy_takes.lock() = LONG;
    let turn = sandbox.turn.lock().await;
    let sandboxes = bed.sandboxes.clone();
    let copy =
        tokio::spawn(
            async move { sandboxes.snapshot(id, None, &Quota::default()).await.map(drop) },
        );
    tokio::time::sleep(Duration::from_millis(50)).await;
    bed.sandboxes.set_timeout(id, Duration::ZERO).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(turn);
    until(|| sandbox.phase() == Phase::Paused).await;
    let copied = copy.await.unwrap();
    assert!(matches!(copied, Err(Error::NotNow(..))), "{copied:?}");
}

#[tokio::test]
async fn one_that_is_about_to_end_is_told_so_in_every_instant_of_it() {
    let bed = bed(testing::rules());
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    // Ended, and not remembered yet.
    assert!(sandbox.life.end(Reason::User));
    assert_eq!(bed.sandboxes.see(sandbox.id()).unwrap().status.phase, Phase::Stopping);
    let refused = bed.sandboxes.extend(sandbox.id(), LONG).await.map(drop);
    assert!(matches!(refused, Err(Error::NotNow(_, Phase::Stopping))), "{refused:?}");
}
