use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::sandbox::{
    Wanted,
    testing::{self, Bed, bed},
};

const LONG: Duration = Duration::from_secs(60);
const FILES: Pausing = Pausing { mode: PauseMode::Filesystem, require_healthy: false };

async fn until(what: impl Fn() -> bool) {
    let waited = async {
        while !what() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(Duration::from_secs(30), waited).await.expect("it never comes");
}

fn record(sandbox: &Sandbox) -> serde_json::Value {
    let text = std::fs::read(sandbox.dir().join("sandbox.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn runs(bed: &Bed, sandbox: &Sandbox) -> bool {
    bed.backend.cells.lock().contains_key(&sandbox.id())
}

async fn create(bed: &Bed) -> Arc<Sandbox> {
    bed.sandboxes.create(testing::wanted(), None).await.unwrap()
}

#[tokio::test]
async fn one_without_memory_is_booted_over_its_files_and_is_the_same_to_its_clients() {
    let bed = bed(testing::rules());
    let mut wanted = testing::wanted();
    wanted.env_vars.insert("MINE".into(), "yes".into());
    let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
    let id = sandbox.id();
    bed.sandboxes.pause(id, FILES).await.unwrap();
    assert!(!runs(&bed, &sandbox));
    assert_eq!(sandbox.pause_mode(), Some(PauseMode::Filesystem));
    assert_eq!(record(&sandbox)["pause_mode"], "filesystem");
    // That its processes have ended is what was wanted.
    time::sleep(Duration::from_millis(20)).await;
    assert_eq!(sandbox.phase(), Phase::Paused);
    assert!(bed.sandboxes.pause(id, FILES).await.is_err());

    let (same, resumed) = bed.sandboxes.connect(id, LONG, true).await.unwrap();
    assert!(resumed && Arc::ptr_eq(&same, &sandbox) && runs(&bed, &sandbox));
    assert_eq!((sandbox.pause_mode(), sandbox.boots()), (None, 1));
    assert_eq!(record(&sandbox).get("pause_mode"), None);
    let spec = bed.backend.specs.lock().last().unwrap().clone();
    assert_eq!((spec.id, spec.layer), (id, Layer::Kept));
    assert_eq!(spec.init.access_token.as_deref(), Some(sandbox.envd_token()));
    assert_eq!(spec.init.env_vars.unwrap()["MINE"], "yes");
    // From here on its processes are looked after as those before.
    bed.backend.end_cell(id);
    until(|| sandbox.phase().is_over()).await;
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn one_whose_processes_cannot_be_ended_runs_on() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    bed.backend.failing_shut_downs.store(1, SeqCst);
    assert!(bed.sandboxes.pause(sandbox.id(), FILES).await.is_err());
    assert_eq!((sandbox.phase(), sandbox.pause_mode()), (Phase::Running, None));
    assert!(runs(&bed, &sandbox) && !sandbox.cut().is_cancelled());
    until(|| record(&sandbox).get("pause_mode").is_none()).await;
    bed.backend.end_cell(sandbox.id());
    until(|| sandbox.phase().is_over()).await;
}

#[tokio::test]
async fn one_that_cannot_be_booted_keeps_its_files() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    let id = sandbox.id();
    // With memory, which is given up for it.
    bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
    bed.backend.failing_creates.store(1, SeqCst);
    assert!(bed.sandboxes.connect(id, LONG, false).await.is_err());
    assert_eq!(sandbox.phase(), Phase::Paused);
    assert_eq!(sandbox.pause_mode(), Some(PauseMode::Filesystem));
    assert_eq!(record(&sandbox)["pause_mode"], "filesystem");
    bed.sandboxes.connect(id, LONG, true).await.unwrap();
    assert!(runs(&bed, &sandbox));

    bed.sandboxes.pause(id, FILES).await.unwrap();
    *bed.backend.create_takes.lock() = Duration::from_millis(200);
    let (connected, killed) = tokio::join!(bed.sandboxes.connect(id, LONG, true), async {
        until(|| sandbox.phase() == Phase::Resuming).await;
        bed.sandboxes.kill(id).await
    });
    killed.unwrap();
    assert!(matches!(connected, Err(Error::NotFound(_))));
    bed.until_nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn what_an_envd_that_does_not_answer_had_in_memory_is_not_gone_on_with() {
    let bed = bed(testing::rules());
    let wanted = Wanted { auto_pause: true, auto_resume: true, ..testing::wanted() };
    let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
    let id = sandbox.id();
    bed.backend.mute.store(true, SeqCst);
    for how in [FILES, Pausing { require_healthy: true, ..Pausing::default() }] {
        let refused = bed.sandboxes.pause(id, how).await;
        assert!(matches!(refused, Err(Error::Unresponsive(_))), "{refused:?}");
        assert_eq!(sandbox.phase(), Phase::Running);
    }
    bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
    assert!(sandbox.was_unresponsive());
    let refused = bed.sandboxes.connect(id, LONG, true).await;
    assert!(matches!(refused, Err(Error::OnlyFiles(_))));
    assert_eq!(sandbox.phase(), Phase::Paused);
    assert!(bed.backend.is_frozen(id) && sandbox.was_unresponsive());
    assert!(bed.sandboxes.reach(id).await.is_none());
    // It only had too much to do.
    bed.backend.mute.store(false, SeqCst);
    bed.sandboxes.connect(id, LONG, true).await.unwrap();
    assert_eq!(sandbox.boots(), 0);
    bed.backend.mute.store(true, SeqCst);
    bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
    bed.sandboxes.connect(id, LONG, false).await.unwrap();
    assert!(runs(&bed, &sandbox) && !sandbox.was_unresponsive());
}

#[tokio::test]
async fn a_paused_sandbox_whose_processes_end_goes_on_with_its_files() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    bed.sandboxes.pause(sandbox.id(), Pausing::default()).await.unwrap();
    bed.backend.end_cell(sandbox.id());
    until(|| sandbox.pause_mode() == Some(PauseMode::Filesystem)).await;
    assert_eq!(sandbox.status().reason, Some(Reason::EnvdDied));
    until(|| record(&sandbox)["pause_mode"] == "filesystem").await;
    bed.sandboxes.connect(sandbox.id(), LONG, true).await.unwrap();
    assert!(runs(&bed, &sandbox));
}

#[tokio::test]
async fn what_is_paused_is_flushed_and_then_survives_another_run_of_the_kernel() {
    let bed = bed(testing::rules());
    let [flushed, unflushed, running] =
        [create(&bed).await, create(&bed).await, create(&bed).await];
    bed.sandboxes.pause(flushed.id(), Pausing::default()).await.unwrap();
    until(|| flushed.durable_at().is_some()).await;
    assert!(!record(&flushed)["durable_at"].is_null());
    // What has run since it was flushed is to be flushed again.
    bed.sandboxes.connect(flushed.id(), LONG, true).await.unwrap();
    assert_eq!(flushed.durable_at(), None);
    bed.sandboxes.pause(flushed.id(), Pausing::default()).await.unwrap();
    until(|| flushed.durable_at().is_some()).await;
    bed.backend.failing_flushes.store(1, SeqCst);
    bed.sandboxes.pause(unflushed.id(), Pausing::default()).await.unwrap();
    until(|| bed.backend.failing_flushes.load(SeqCst) == 0).await;

    let reboot = |boot: &str| {
        *bed.backend.boot.lock() = boot.to_owned();
        bed.backend.cells.lock().clear();
    };
    reboot("another");
    let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
    after.adopt_all().await.unwrap();
    let found = after.present(flushed.id()).unwrap();
    assert_eq!((found.phase(), found.ends_at()), (Phase::Paused, flushed.ends_at()));
    assert_eq!(found.pause_mode(), Some(PauseMode::Filesystem));
    assert_eq!(found.between.kept().unwrap().durable_at, flushed.durable_at());
    assert_eq!(found.status().reason, Some(Reason::HostRebooted));
    for gone in [unflushed, running] {
        assert!(after.present(gone.id()).is_err());
        assert_eq!(after.see(gone.id()).unwrap().status.reason, Some(Reason::HostRebooted));
    }
    after.connect(found.id(), LONG, true).await.unwrap();
    assert_eq!(bed.backend.specs.lock().last().unwrap().layer, Layer::Kept);
}

#[tokio::test]
async fn within_one_run_of_the_kernel_nothing_paused_is_lost_and_one_half_booted_is_paused() {
    let bed = bed(testing::rules());
    let [paused, booting] = [create(&bed).await, create(&bed).await];
    bed.sandboxes.pause(booting.id(), FILES).await.unwrap();
    bed.sandboxes.pause(paused.id(), Pausing::default()).await.unwrap();
    for sandbox in [&paused, &booting] {
        until(|| sandbox.durable_at().is_some()).await;
        let mut record = record(sandbox);
        record.as_object_mut().unwrap().remove("durable_at");
        std::fs::write(sandbox.dir().join("sandbox.json"), record.to_string()).unwrap();
    }
    // The gateway died when one was ended, which it has not seen, and the other had been made.
    bed.backend.cells.lock().remove(&paused.id());
    bed.backend.cells.lock().insert(booting.id(), CancellationToken::new());
    let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
    after.adopt_all().await.unwrap();
    for sandbox in [&paused, &booting] {
        let found = after.present(sandbox.id()).unwrap();
        assert_eq!(found.pause_mode(), Some(PauseMode::Filesystem));
        assert!(!runs(&bed, sandbox));
        after.connect(sandbox.id(), LONG, true).await.unwrap();
        assert!(runs(&bed, sandbox));
    }
}

#[tokio::test]
async fn that_processes_were_ended_on_purpose_ends_nothing_else() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    for _ in 0..60 {
        bed.sandboxes.pause(sandbox.id(), FILES).await.unwrap();
        time::sleep(Duration::from_millis(1)).await;
        assert_eq!(sandbox.status().reason, Some(Reason::User));
        bed.sandboxes.connect(sandbox.id(), LONG, true).await.unwrap();
    }
    time::sleep(Duration::from_millis(20)).await;
    assert_eq!(sandbox.phase(), Phase::Running);
}

#[tokio::test(start_paused = true)]
async fn whoever_notices_late_that_processes_died_does_not_end_those_after_them() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    let id = sandbox.id();
    *bed.backend.freeze_takes.lock() = Duration::from_millis(100);
    let connected = async {
        until(|| sandbox.phase() == Phase::Pausing).await;
        let sandboxes = bed.sandboxes.clone();
        let connect = tokio::spawn(async move { sandboxes.connect(id, LONG, false).await });
        time::sleep(Duration::from_millis(20)).await;
        bed.backend.end_cell(id);
        connect.await.unwrap()
    };
    let (paused, connected) = tokio::join!(bed.sandboxes.pause(id, Pausing::default()), connected);
    paused.unwrap();
    assert!(connected.unwrap().1);
    time::sleep(Duration::from_millis(20)).await;
    assert_eq!((sandbox.phase(), sandbox.boots()), (Phase::Running, 1));
    // Those it has now are looked after.
    bed.backend.end_cell(id);
    until(|| sandbox.phase().is_over()).await;
}

#[tokio::test]
async fn one_whose_processes_died_unnoticed_is_booted() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    let id = sandbox.id();
    bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
    // Nobody has come to see to it yet.
    bed.backend.end_cell(id);
    bed.sandboxes.connect(id, LONG, true).await.unwrap();
    time::sleep(Duration::from_millis(20)).await;
    assert_eq!((sandbox.phase(), sandbox.boots()), (Phase::Running, 1));
}

#[tokio::test]
async fn one_whose_processes_die_as_it_goes_on_is_booted() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    let id = sandbox.id();
    bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
    let ended = bed.backend.cells.lock()[&id].clone();
    *bed.backend.watched.lock() = Some(Box::new(move |what, _| {
        if what == "thaw" {
            ended.cancel();
        }
    }));
    assert!(bed.sandboxes.connect(id, LONG, true).await.unwrap().1);
    time::sleep(Duration::from_millis(20)).await;
    assert_eq!((sandbox.phase(), sandbox.boots()), (Phase::Running, 1));
    // Those it has now are looked after.
    bed.backend.end_cell(id);
    until(|| sandbox.phase().is_over()).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_goes_on_slowly_goes_on() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    bed.sandboxes.pause(sandbox.id(), Pausing::default()).await.unwrap();
    bed.backend.mute.store(true, SeqCst);
    assert!(bed.sandboxes.connect(sandbox.id(), LONG, true).await.unwrap().1);
    assert_eq!((sandbox.phase(), sandbox.boots()), (Phase::Running, 0));
}

#[tokio::test(start_paused = true)]
async fn whoever_pauses_what_is_killed_meanwhile_hears_of_it_at_once() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    bed.backend.mute.store(true, SeqCst);
    let began = time::Instant::now();
    let killed = async {
        time::sleep(BUSY / 10).await;
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
    };
    let (paused, ()) = tokio::join!(bed.sandboxes.pause(sandbox.id(), Pausing::default()), killed);
    assert!(matches!(paused, Err(Error::NotFound(_))), "{paused:?}");
    assert!(began.elapsed() < BUSY / 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_envd_that_answers_after_a_while_is_well() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    bed.backend.mute.store(true, SeqCst);
    let busy = async {
        time::sleep(BUSY / 2).await;
        bed.backend.mute.store(false, SeqCst);
    };
    let (paused, ()) = tokio::join!(bed.sandboxes.pause(sandbox.id(), Pausing::default()), busy);
    paused.unwrap();
    assert!(!sandbox.was_unresponsive());
}

#[tokio::test]
async fn what_may_have_run_since_it_was_flushed_is_not_told_as_flushed() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    let id = sandbox.id();
    bed.sandboxes.pause(id, Pausing::default()).await.unwrap();
    until(|| sandbox.durable_at().is_some()).await;
    bed.backend.failing_thaws.store(1, SeqCst);
    bed.backend.failing_flushes.store(1, SeqCst);
    assert!(bed.sandboxes.connect(id, LONG, true).await.is_err());
    assert_eq!((sandbox.phase(), sandbox.durable_at()), (Phase::Paused, None));
    assert!(record(&sandbox).get("durable_at").is_none());
    until(|| bed.backend.failing_flushes.load(SeqCst) == 0).await;
    // And is flushed again, in the end.
    bed.backend.failing_thaws.store(1, SeqCst);
    assert!(bed.sandboxes.connect(id, LONG, true).await.is_err());
    until(|| sandbox.durable_at().is_some()).await;

    let between = Between::default();
    between.keep(Some(Kept::new(PauseMode::Full)));
    let begun = between.marks(|marks| marks.unflushed()).unwrap();
    assert_eq!(begun.1, None);
    between.marks(|marks| marks.stir());
    assert!(
        !between.marks(|marks| marks.files_flushed(begun.0, Utc::now()))
            && !between.marks(|marks| marks.flushed(begun.0))
    );
    let (begun, _) = between.marks(|marks| marks.unflushed()).unwrap();
    let at = Utc::now();
    assert!(
        between.marks(|marks| marks.files_flushed(begun, at))
            && between.marks(|marks| marks.durable_at()).is_none()
    );
    assert_eq!(
        between.marks(|marks| marks.unflushed()),
        Some((begun, Some(at))),
        "its record is still to be"
    );
    assert!(
        between.marks(|marks| marks.flushed(begun))
            && between.marks(|marks| marks.unflushed()).is_none()
    );
    assert_eq!(between.marks(|marks| marks.durable_at()), Some(at));
    between.marks(|marks| marks.stir());
    assert!(
        between.marks(|marks| marks.durable_at()).is_none()
            && between.kept().unwrap().durable_at.is_none()
    );
    let (begun, _) = between.marks(|marks| marks.unflushed()).unwrap();
    assert!(between.marks(|marks| marks.files_flushed(begun, at)));
    between.marks(|marks| marks.not_flushed(begun));
    assert!(!between.marks(|marks| marks.is_of(begun)), "whoever is late does not go on");
    assert!(between.kept().unwrap().durable_at.is_none());
}

#[tokio::test]
async fn what_was_kept_of_a_pause_is_given_up_when_it_is_not_to_be_had_for_long() {
    let between = Between::default();
    let (deadline, now) = (Utc::now(), Utc::now());
    assert!(!between.is_last_try(deadline, now));
    assert!(between.put_off(deadline).is_some_and(|again| again > now));
    assert!(!between.is_last_try(deadline, now + PATIENCE / 2));
    assert!(between.is_last_try(deadline, now + PATIENCE));
    // A renewal begins anew.
    let later = deadline + PATIENCE;
    assert_eq!(between.put_off(later), None);
    assert!(!between.is_last_try(later, later));
}

#[tokio::test]
async fn the_time_of_one_that_is_booted_counts_from_when_it_runs() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    let id = sandbox.id();
    bed.sandboxes.pause(id, FILES).await.unwrap();
    *bed.backend.create_takes.lock() = Duration::from_millis(300);
    bed.sandboxes.connect(id, Duration::from_secs(30), true).await.unwrap();
    let life = sandbox.ends_at().unwrap() - sandbox.status().since;
    assert!((29_950..=30_000).contains(&life.num_milliseconds()), "{life}");
}

#[tokio::test]
async fn nothing_is_left_of_one_that_was_killed_while_it_was_booted() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    let id = sandbox.id();
    bed.sandboxes.pause(id, FILES).await.unwrap();
    *bed.backend.create_takes.lock() = Duration::from_millis(300);
    let killed = async {
        until(|| sandbox.phase() == Phase::Resuming).await;
        bed.sandboxes.kill(id).await.unwrap();
        until(|| bed.left("sandboxes") == 0).await;
        bed.backend.failing_destroys.store(1, SeqCst);
    };
    let (connected, ()) = tokio::join!(bed.sandboxes.connect(id, LONG, true), killed);
    assert!(connected.is_err());
    until(|| bed.backend.failing_destroys.load(SeqCst) == 0).await;
    bed.until_nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_come_to_be_when_it_is_booted_is_ended() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed).await;
    bed.sandboxes.pause(sandbox.id(), FILES).await.unwrap();
    *bed.backend.create_takes.lock() = Duration::from_secs(1_000_000);
    let connected = bed.sandboxes.connect(sandbox.id(), LONG, true).await;
    assert!(matches!(connected, Err(Error::Stuck(..))));
    assert_eq!(sandbox.status().reason, Some(Reason::Stuck));
}
