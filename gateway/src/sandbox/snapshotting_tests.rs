use std::sync::atomic::Ordering::SeqCst;

use super::*;
use crate::sandbox::{
    Owner, Pausing, Rules, Wanted,
    testing::{self, Bed, bed},
};

const SHORT: Duration = Duration::from_secs(60);

fn named(name: &str, tag: &str) -> Option<Named> {
    Some(Named { name: name.into(), tag: tag.into() })
}

async fn until(what: impl Fn() -> bool) {
    let waited = async {
        while !what() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(30), waited).await.expect("it never comes");
}

async fn create(bed: &Bed, template: &str) -> Result<Arc<Sandbox>, Error> {
    let wanted = Wanted { template: template.into(), ..testing::wanted() };
    bed.sandboxes.create(wanted, None).await
}

#[tokio::test]
async fn where_the_disk_is_to_be_left_alone_nothing_is_copied() {
    let bed = bed(Rules { disk_headroom: u64::MAX, ..testing::rules() });
    let source = create(&bed, "base").await.unwrap();
    bed.backend.failing_copies.store(1, SeqCst);
    let refused = bed.sandboxes.snapshot(source.id(), None, &Quota::default()).await.unwrap_err();
    assert!(refused.reason() == Reason::Disk, "{refused}");
    assert!(refused.to_string().contains("MiB are kept so"), "{refused}");
    let owner = Owner::default();
    let forks = bed.sandboxes.fork(owner, source.id(), 1, SHORT).await;
    assert!(matches!(forks, Err(refused) if refused.reason() == Reason::Disk));
    assert_eq!(bed.backend.failing_copies.load(SeqCst), 1, "it was not tried");
    assert_eq!(source.phase(), Phase::Running);
}

#[test]
fn where_few_more_files_can_be_made_nothing_is_copied() {
    for enough in [None, Some((50, 1000)), Some((0, 0))] {
        assert_eq!(enough_files(enough), Ok(()));
    }
    let few = enough_files(Some((49, 1000))).unwrap_err();
    assert_eq!(few, "49 of 1000 files can still be made, and 50 are kept so");
}

#[tokio::test]
async fn a_tenant_has_no_more_snapshots_than_it_may() {
    let bed = bed(testing::rules());
    let source = create(&bed, "base").await.unwrap();
    let quota = Quota { max_snapshots: Some(2), ..Quota::default() };
    let make = async |name: Option<Named>| bed.sandboxes.snapshot(source.id(), name, &quota).await;
    make(named("first", "default")).await.unwrap();
    // Those that are being made count.
    *bed.backend.copy_takes.lock() = Duration::from_millis(50);
    let other = create(&bed, "base").await.unwrap();
    let (made, refused) =
        tokio::join!(make(None), bed.sandboxes.snapshot(other.id(), None, &quota));
    assert!(made.is_ok());
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Error::TooManySnapshots { most: 2, .. }), "{refused}");
    // The same again takes no place, and one that is gone neither.
    make(named("first", "default")).await.unwrap();
    assert!(make(named("second", "default")).await.is_err());
    bed.sandboxes.delete_snapshot(&Tenant::default(), "first", None).await.unwrap();
    make(named("second", "default")).await.unwrap();
    assert!(make(None).await.is_err());
    // Neither does one that could not be made.
    bed.sandboxes.delete_snapshot(&Tenant::default(), "second", None).await.unwrap();
    bed.backend.failing_copies.store(1, SeqCst);
    assert!(matches!(make(None).await, Err(Error::Backend(_))));
    make(None).await.unwrap();
}

fn copies(bed: &Bed) -> usize {
    std::fs::read_dir(bed.dir.path().join("snapshots")).unwrap().count()
}

#[tokio::test]
async fn a_sandbox_is_made_from_a_snapshot_that_outlives_what_it_was_made_of() {
    let bed = bed(testing::rules());
    let source = create(&bed, "base").await.unwrap();
    let snapshot = bed.sandboxes.snapshot(source.id(), None, &Quota::default()).await.unwrap();
    assert_eq!(snapshot.reference(), format!("{}:default", snapshot.key));
    assert!(!snapshot.named && snapshot.of == source.id());
    bed.sandboxes.kill(source.id()).await.unwrap();

    let made = create(&bed, &snapshot.key.to_string()).await.unwrap();
    let layers = &made.facts().template.layers;
    assert_eq!(layers[1..], source.facts().template.layers);
    assert_eq!(std::fs::read_to_string(layers[0].join("from")).unwrap(), source.id().to_string());
    assert_eq!(bed.backend.specs.lock().last().unwrap().layer, backend::Layer::Fresh);

    // While there are sandboxes of it, it stays.
    let refused = bed.sandboxes.delete_snapshot(&Tenant::default(), &snapshot.name, None).await;
    assert!(matches!(refused, Err(Error::SnapshotInUse(_, 1))), "{refused:?}");
    let above =
        bed.sandboxes.snapshot(made.id(), named("above", "v1"), &Quota::default()).await.unwrap();
    bed.sandboxes.kill(made.id()).await.unwrap();
    assert!(
        bed.sandboxes
            .delete_snapshot(&Tenant::default(), &snapshot.name, Some("default"))
            .await
            .unwrap()
    );
    assert!(
        !bed.sandboxes.delete_snapshot(&Tenant::default(), &snapshot.name, None).await.unwrap()
    );
    assert!(create(&bed, &snapshot.name).await.is_err());
    // The other lies over it.
    let made = create(&bed, "above:v1").await.unwrap();
    assert_eq!(made.facts().template.layers.len(), 3);
    assert_eq!(copies(&bed), 2);
    bed.sandboxes.kill(made.id()).await.unwrap();
    assert!(bed.sandboxes.delete_snapshot(&Tenant::default(), &above.name, None).await.unwrap());
    drop((made, above, snapshot));
    until(|| copies(&bed) == 0).await;
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_sandbox_that_stood_still_for_over_a_second_is_told_of_that() {
    let bed = bed(testing::rules());
    let source = create(&bed, "base").await.unwrap();
    for (still, level) in [(40, Level::Info), (1000, Level::Info), (1001, Level::Warn)] {
        *bed.backend.copies_stand_still.lock() = Duration::from_millis(still);
        bed.sandboxes.snapshot(source.id(), None, &Quota::default()).await.unwrap();
        let log = bed.sandboxes.log(source.id()).await.unwrap();
        let told = log.iter().rev().find(|entry| entry.message.contains("copied")).unwrap();
        assert_eq!(told.level, level);
        assert!(told.message.ends_with(&format!(" {still} ms")), "{}", told.message);
    }
}

#[tokio::test]
async fn the_same_name_again_is_another_snapshot_and_what_the_one_before_was_for_keeps_it() {
    let bed = bed(testing::rules());
    let source = create(&bed, "base").await.unwrap();
    let first = bed
        .sandboxes
        .snapshot(source.id(), named("mine", "default"), &Quota::default())
        .await
        .unwrap();
    let of_first = create(&bed, "mine").await.unwrap();
    let second = bed
        .sandboxes
        .snapshot(source.id(), named("mine", "default"), &Quota::default())
        .await
        .unwrap();
    assert_ne!(first.key, second.key);
    assert_eq!(bed.sandboxes.snapshots(), std::slice::from_ref(&second));
    let of_second = create(&bed, "mine").await.unwrap();
    let top = |sandbox: &Sandbox| sandbox.facts().template.layers[0].clone();
    assert!(top(&of_first) != top(&of_second) && top(&of_first).exists());
    bed.sandboxes.kill(of_first.id()).await.unwrap();
    let gone = top(&of_first);
    drop(of_first);
    until(|| !gone.exists()).await;
    assert!(top(&of_second).exists());
    let taken =
        bed.sandboxes.snapshot(source.id(), named("base", "default"), &Quota::default()).await;
    assert!(matches!(taken, Err(Error::NameTaken(_))), "{taken:?}");
}

#[tokio::test]
async fn forks_share_one_copy_that_goes_with_the_last_of_them() {
    let bed = bed(testing::rules());
    let mut wanted = testing::wanted();
    wanted.env_vars.insert("MINE".into(), "yes".into());
    let source = bed.sandboxes.create(wanted, None).await.unwrap();
    let forks = bed.sandboxes.fork(Owner::default(), source.id(), 3, SHORT).await.unwrap();
    let forks: Vec<_> = forks.into_iter().map(Result::unwrap).collect();
    assert!(bed.sandboxes.snapshots().is_empty());
    for fork in &forks {
        assert_ne!((fork.id(), fork.envd_token()), (source.id(), source.envd_token()));
        assert_eq!(fork.facts().env_vars, source.facts().env_vars);
        assert_eq!(fork.facts().template.layers, forks[0].facts().template.layers);
    }
    let ids: Vec<SandboxId> = forks.iter().map(|fork| fork.id()).collect();
    drop(forks);
    for id in ids {
        assert_eq!(copies(&bed), 1);
        bed.sandboxes.kill(id).await.unwrap();
    }
    until(|| copies(&bed) == 0).await;

    // Those there is no room for say so, the others are made.
    let most = bed.sandboxes.most();
    let forks = bed.sandboxes.fork(Owner::default(), source.id(), most, SHORT).await.unwrap();
    let full = |fork: &&Result<_, Error>| matches!(fork, Err(Error::Full(_)));
    assert_eq!((forks.len(), forks.iter().filter(full).count()), (most, 1));
}

#[tokio::test]
async fn nobody_pauses_what_is_being_copied_but_its_deadline_and_a_kill_cut_in() {
    let bed = bed(testing::rules());
    let wanted = Wanted { auto_pause: true, ..testing::wanted() };
    let sandbox = bed.sandboxes.create(wanted, None).await.unwrap();
    let id = sandbox.id();
    *bed.backend.copy_takes.lock() = Duration::from_secs(20);
    let quota = Quota::default();
    let (copied, ()) = tokio::join!(bed.sandboxes.snapshot(id, None, &quota), async {
        until(|| sandbox.between.is_being_copied()).await;
        let refused = bed.sandboxes.pause(id, Pausing::default()).await;
        assert!(matches!(refused, Err(Error::BeingCopied(_))), "{refused:?}");
        bed.sandboxes.set_timeout(id, Duration::ZERO).await.unwrap();
    });
    assert!(copied.is_err());
    until(|| sandbox.phase() == Phase::Paused).await;
    let refused = bed.sandboxes.snapshot(id, None, &Quota::default()).await;
    assert!(matches!(refused, Err(Error::NotNow(..))), "{refused:?}");
    bed.sandboxes.connect(id, SHORT, true).await.unwrap();
    let (copied, killed) =
        tokio::join!(bed.sandboxes.fork(Owner::default(), id, 1, SHORT), async {
            until(|| sandbox.between.is_being_copied()).await;
            bed.sandboxes.kill(id).await
        });
    killed.unwrap();
    assert!(matches!(copied, Err(Error::NotFound(_))), "not broken off");
    until(|| copies(&bed) == 0).await;
    bed.until_nothing_is_left().await;
}

#[tokio::test]
async fn a_copy_that_fails_leaves_nothing_and_the_sandbox_runs() {
    let bed = bed(testing::rules());
    let sandbox = create(&bed, "base").await.unwrap();
    bed.backend.failing_copies.store(1, SeqCst);
    assert!(
        bed.sandboxes
            .snapshot(sandbox.id(), named("mine", "default"), &Quota::default())
            .await
            .is_err()
    );
    assert_eq!(sandbox.phase(), Phase::Running);
    assert!(!bed.backend.is_frozen(sandbox.id()) && bed.sandboxes.snapshots().is_empty());
    until(|| copies(&bed) == 0).await;
}

#[tokio::test]
async fn the_next_gateway_finds_snapshots_forks_and_nothing_half_made() {
    let bed = bed(testing::rules());
    let source = create(&bed, "base").await.unwrap();
    bed.backend.failing_flushes.store(1, SeqCst);
    let unflushed = bed
        .sandboxes
        .snapshot(source.id(), named("unflushed", "x"), &Quota::default())
        .await
        .unwrap();
    until(|| bed.backend.failing_flushes.load(SeqCst) == 0).await;
    let kept =
        bed.sandboxes.snapshot(source.id(), named("kept", "x"), &Quota::default()).await.unwrap();
    let record = bed.dir.path().join(format!("snapshots/{}/snapshot.json", kept.key));
    until(|| std::fs::read_to_string(&record).unwrap().contains("\"durable\":true")).await;
    let forks = bed.sandboxes.fork(Owner::default(), source.id(), 1, SHORT).await.unwrap();
    let fork = forks[0].as_ref().unwrap();
    let half_made = bed.dir.path().join("snapshots").join(SandboxId::random().to_string());
    std::fs::create_dir(&half_made).unwrap();

    let next = || testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
    let after = next();
    let tidy = after.clone();
    let tidy = tokio::spawn(async move { tidy.keep_tidy().await });
    after.adopt_all().await.unwrap();
    let names =
        |of: &Sandboxes| of.snapshots().iter().map(|it| it.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&after), ["kept", "unflushed"]);
    until(|| !half_made.exists()).await;
    assert!(fork.facts().template.layers[0].exists());
    tidy.abort();

    // Another run of the kernel, before what was not on the disk is.
    let record = bed.dir.path().join(format!("snapshots/{}/snapshot.json", unflushed.key));
    until(|| std::fs::read_to_string(&record).unwrap().contains("\"durable\":true")).await;
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::write(&record, text.replace("\"durable\":true", "\"durable\":false")).unwrap();
    *bed.backend.boot.lock() = "another".into();
    let after = next();
    after.adopt_all().await.unwrap();
    assert_eq!(names(&after), ["kept"]);
    let used = crate::sandbox::layers_in_use(bed.dir.path()).unwrap();
    assert!(used.contains(&kept.template.layers));
}

#[tokio::test]
async fn of_two_of_one_name_that_a_killed_gateway_left_the_older_is_not_there_again() {
    let bed = bed(testing::rules());
    let source = create(&bed, "base").await.unwrap();
    let first =
        bed.sandboxes.snapshot(source.id(), named("mine", "x"), &Quota::default()).await.unwrap();
    let _holds_it = create(&bed, "mine:x").await.unwrap();
    let record = bed.dir.path().join(format!("snapshots/{}/snapshot.json", first.key));
    let text = std::fs::read(&record).unwrap();
    let second =
        bed.sandboxes.snapshot(source.id(), named("mine", "x"), &Quota::default()).await.unwrap();
    std::fs::write(&record, text).unwrap();

    let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
    after.adopt_all().await.unwrap();
    let keys: Vec<_> = after.snapshots().iter().map(|it| it.key).collect();
    assert_eq!(keys, [second.key]);
    assert!(!record.exists());
}
