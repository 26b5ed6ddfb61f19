use std::{collections::BTreeSet, fs, time::Duration};

use super::*;
use crate::sandbox::{
    PauseMode, Pausing, Phase, Reason, SandboxId,
    layers::Kept,
    life::Moment,
    record::Record,
    testing::{self, Bed, bed, until},
};

const LONG: Duration = Duration::from_secs(60);
const RECORD: &str = "sandbox.json";

#[test]
fn a_claim_is_that_of_one_record_until_it_is_withdrawn() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, claim) = (dir.path(), Claim::default());
    let [at, later] = [1000, 2000].map(|millis| DateTime::from_timestamp_millis(millis).unwrap());
    assert!(stands(dir, at).unwrap(), "gateways of before had none");
    claim.withdraw(dir).unwrap();
    assert!(!exists(dir).unwrap(), "nothing was to be withdrawn");
    prepare(dir).unwrap();
    assert!(!stands(dir, at).unwrap());
    assert!(!claim.stake(dir, at, || false).unwrap() && !claim.is_held());
    assert!(!stands(dir, at).unwrap());
    assert!(claim.stake(dir, at, || true).unwrap() && claim.is_held());
    prepare(dir).unwrap();
    assert!(stands(dir, at).unwrap() && !stands(dir, later).unwrap());
    claim.withdraw(dir).unwrap();
    assert!(!claim.is_held() && !stands(dir, at).unwrap());

    claim.stake(dir, later, || true).unwrap();
    assert!(Claim::found(dir, false).is_held());
    withdraw(dir).unwrap();
    assert!(!stands(dir, later).unwrap());
    for torn in ["", "0000000000000000", "00000000000000002000\n0"] {
        fs::write(path(dir), torn).unwrap();
        assert!(!stands(dir, later).unwrap(), "{torn:?}");
    }
    let old = tempfile::tempdir().unwrap();
    let claim = Claim::found(old.path(), true);
    assert!(claim.is_held());
    claim.withdraw(old.path()).unwrap();
    assert!(!stands(old.path(), at).unwrap(), "that of a gateway before is withdrawn too");
    withdraw(Path::new("/nowhere")).unwrap();
}

/// One sandbox's directory, and what of it a power failure may leave: of each file any of what
/// was written since it was last waited for, and of its files on the layer any number of changes.
struct Power {
    home: tempfile::TempDir,
    sandbox: Arc<Sandbox>,
    records: BTreeSet<Option<Vec<u8>>>,
    claims: BTreeSet<Option<Vec<u8>>>,
    layers: BTreeSet<u32>,
    layer: u32,
}

/// What the gateway of another boot makes of it: its files, as they then are, or nothing.
type Found = Option<(PauseMode, u32)>;

impl Power {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let id = SandboxId::random();
        let dir = home.path().join(id.to_string());
        fs::create_dir(&dir).unwrap();
        let sandbox = testing::sandbox_in(id, &dir, "token");
        sandbox.between.settle(Some("this".into()), None);
        let (records, claims) = (BTreeSet::from([None]), BTreeSet::from([None]));
        Self { home, sandbox, records, claims, layers: BTreeSet::from([0]), layer: 0 }
    }

    fn now(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.sandbox.dir().join(name)).ok()
    }

    /// What is written may get there at any time, and in part, unless that was seen to.
    fn wrote(&mut self, whole: bool) {
        let (record, claim) = (self.now(RECORD), self.now(NAME));
        if !whole && self.records.insert(record) {
            self.records.insert(Some(b"{\"version\":".to_vec()));
        } else {
            self.records.insert(self.now(RECORD));
        }
        self.claims.insert(claim);
    }

    fn saved(&mut self) {
        self.sandbox.save().unwrap();
        let whole = self.sandbox.between.kept().is_some_and(|kept| kept.durable_at.is_some());
        self.wrote(whole);
    }

    /// Of what runs.
    fn changed(&mut self) {
        self.layer += 1;
        self.layers.insert(self.layer);
    }

    fn paused(&mut self) {
        self.sandbox.life.make(|moment, now| moment.pause(Reason::User, now)).unwrap();
        self.sandbox.between.keep(Some(Kept::new(PauseMode::Full)));
        self.sandbox.life.make(Moment::stand).unwrap();
        self.saved();
    }

    /// Checks each step, and gives what it comes to be.
    async fn flushed(&mut self) {
        let (stirred, _) = self.sandbox.between.marks(|marks| marks.unflushed()).unwrap();
        self.layers = BTreeSet::from([self.layer]);
        self.check(Found::is_none).await;
        let at = DateTime::from_timestamp_millis(1_000_000 + i64::from(self.layer)).unwrap();
        assert!(self.sandbox.between.marks(|marks| marks.files_flushed(stirred, at)));
        prepare(self.sandbox.dir()).unwrap();
        self.claims = BTreeSet::from([self.now(NAME)]);
        self.saved();
        self.check(Found::is_none).await;
        self.sandbox.sync().unwrap();
        self.records = BTreeSet::from([self.now(RECORD)]);
        self.check(Found::is_none).await;
        let stands = || self.sandbox.between.marks(|marks| marks.is_of(stirred));
        assert!(self.sandbox.claim.stake(self.sandbox.dir(), at, stands).unwrap());
        self.wrote(true);
        let layer = self.layer;
        self.check(|found| found.is_none_or(|found| found.1 == layer)).await;
        self.claims = BTreeSet::from([self.now(NAME)]);
        assert!(self.sandbox.between.marks(|marks| marks.flushed(stirred)));
        assert_eq!(self.sandbox.durable_at(), Some(at));
        self.check(|found| found.is_some_and(|found| found.1 == layer)).await;
    }

    fn withdrawn(&mut self) {
        self.sandbox.claim.withdraw(self.sandbox.dir()).unwrap();
        self.claims = BTreeSet::from([self.now(NAME)]);
    }

    /// Whatever the disk may have now, the next start makes of it what is `right`.
    async fn check(&self, right: impl Fn(&Found) -> bool) {
        for record in &self.records {
            for claim in &self.claims {
                let found = self.start(record.as_deref(), claim.as_deref()).await;
                for layer in &self.layers {
                    let found = found.map(|mode| (mode, *layer));
                    let of = [record, claim]
                        .map(|it| it.as_deref().map(|it| String::from_utf8_lossy(it).into_owned()));
                    assert!(right(&found), "{found:?} of {of:?}");
                }
            }
        }
    }

    async fn start(&self, record: Option<&[u8]>, claim: Option<&[u8]>) -> Option<PauseMode> {
        let host = tempfile::tempdir().unwrap();
        let backend = Arc::new(testing::TestBackend::default());
        *backend.boot.lock() = "another".to_owned();
        let after = testing::sandboxes(host.path(), &backend, testing::rules());
        let dir = host.path().join("sandboxes").join(self.sandbox.id().to_string());
        fs::create_dir(&dir).unwrap();
        for (name, content) in [(RECORD, record), (NAME, claim)] {
            if let Some(content) = content {
                fs::write(dir.join(name), content).unwrap();
            }
        }
        after.adopt_all().await.unwrap();
        let found = after.present(self.sandbox.id()).ok();
        after.0.tasks.close();
        after.0.tasks.wait().await;
        assert_eq!(dir.exists(), found.is_some());
        let why = after.see(self.sandbox.id()).unwrap().status.reason.unwrap();
        let Some(found) = found else {
            assert!([Reason::HostRebooted, Reason::NoRecord].contains(&why), "{why}");
            return None;
        };
        assert_eq!(found.phase(), Phase::Paused);
        assert!(found.durable_at().is_none() && found.claim.is_held());
        found.pause_mode()
    }
}

#[tokio::test]
async fn whatever_a_power_failure_leaves_is_told_as_it_is() {
    for round in 0..3 {
        let mut power = Power::new();
        power.saved();
        power.changed();
        power.check(Found::is_none).await;
        power.paused();
        power.check(Found::is_none).await;
        power.flushed().await;
        // Its processes are lost while it is paused.
        if round == 1 {
            let kept = power.sandbox.between.kept().unwrap();
            let kept = Kept { mode: PauseMode::Filesystem, ..kept };
            Record::new(
                power.sandbox.facts().clone(),
                &power.sandbox.life.now(),
                Some(kept),
                Some("this".into()),
            )
            .write(power.sandbox.dir())
            .unwrap();
            power.wrote(true);
            power.check(|found| found.is_some_and(|found| found.1 == 1)).await;
        }
        // It is resumed: as long as it has not run, it may be the one or the other.
        let resumed = |moment: &mut Moment, now| moment.resume(Reason::User, now, now + LONG);
        power.sandbox.life.make(resumed).unwrap();
        power.sandbox.between.marks(|marks| marks.stir());
        power.saved();
        power.check(|found| found.is_none_or(|found| found.1 == 1)).await;
        power.withdrawn();
        power.changed();
        power.check(Found::is_none).await;
        power.sandbox.life.make(Moment::run).unwrap();
        power.sandbox.between.keep(None);
        // Its timeout is another.
        power.saved();
        power.changed();
        power.check(Found::is_none).await;
        power.paused();
        power.check(Found::is_none).await;
        power.flushed().await;
        // It is killed.
        assert!(power.sandbox.life.end(Reason::User));
        power.withdrawn();
        power.check(Found::is_none).await;
        Record::remove(power.sandbox.dir(), Some((Reason::User, chrono::Utc::now())))
            .await
            .unwrap();
        power.wrote(true);
        power.check(Found::is_none).await;
        drop(power.home);
    }
}

async fn durable(bed: &Bed, how: Pausing) -> Arc<Sandbox> {
    let sandbox = bed.sandboxes.create(testing::wanted(), None).await.unwrap();
    bed.sandboxes.pause(sandbox.id(), how).await.unwrap();
    until(|| sandbox.durable_at().is_some()).await;
    assert!(stands(sandbox.dir(), sandbox.durable_at().unwrap()).unwrap());
    sandbox
}

/// Whether it is claimed that a sandbox is on the disk whenever something of it begins or ends.
fn watch(bed: &Bed) -> Arc<Mutex<Vec<(&'static str, bool)>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let home = bed.dir.path().join("sandboxes");
    *bed.backend.watched.lock() = Some(Box::new({
        let seen = seen.clone();
        move |what, id| {
            let claim = fs::read_to_string(home.join(id.to_string()).join(NAME));
            seen.lock().push((what, claim.is_ok_and(|claim| claim != NOTHING)));
        }
    }));
    seen
}

#[tokio::test]
async fn what_was_claimed_is_withdrawn_before_anything_runs_and_before_an_end_is_told() {
    let bed = bed(testing::rules());
    let files = Pausing { mode: PauseMode::Filesystem, require_healthy: false };
    for (how, begins) in [(Pausing::default(), "thaw"), (files, "create")] {
        let sandbox = durable(&bed, how).await;
        let seen = watch(&bed);
        bed.sandboxes.connect(sandbox.id(), LONG, true).await.unwrap();
        assert!(seen.lock().contains(&(begins, false)), "{:?}", seen.lock());
        assert!(!sandbox.claim.is_held());
        *bed.backend.watched.lock() = None;

        bed.sandboxes.pause(sandbox.id(), how).await.unwrap();
        until(|| sandbox.durable_at().is_some()).await;
        let seen = watch(&bed);
        bed.sandboxes.kill(sandbox.id()).await.unwrap();
        assert!(seen.lock().contains(&("stop", false)), "{:?}", seen.lock());
        *bed.backend.watched.lock() = None;
        bed.until_nothing_is_left().await;
    }
}

#[tokio::test]
async fn a_gateway_that_died_meanwhile_has_its_successor_withdraw_it() {
    let bed = bed(testing::rules());
    let [resumed, ended] =
        [durable(&bed, Pausing::default()).await, durable(&bed, Pausing::default()).await];
    // It was written that the one runs, and the other has ended, and no more.
    resumed.life.make(|moment, now| moment.resume(Reason::User, now, now + LONG)).unwrap();
    resumed.save().unwrap();
    Record::remove(ended.dir(), Some((Reason::User, chrono::Utc::now()))).await.unwrap();
    let seen = watch(&bed);
    let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
    after.adopt_all().await.unwrap();
    assert!(after.running(resumed.id()).is_ok());
    after.0.tasks.close();
    after.0.tasks.wait().await;
    let mut seen = seen.lock().clone();
    seen.sort_unstable();
    assert_eq!(seen, [("stop", false), ("thaw", false)]);
}

#[tokio::test]
async fn what_the_gateway_before_had_claimed_is_told_again_once_that_is_seen_to_be_there() {
    let bed = bed(testing::rules());
    let claimed = durable(&bed, Pausing::default()).await;
    let alone = durable(&bed, Pausing::default()).await;
    let unclaimed = durable(&bed, Pausing::default()).await;
    // Of a gateway that claimed nothing, and of one that died before it did.
    fs::remove_file(path(alone.dir())).unwrap();
    fs::write(path(unclaimed.dir()), NOTHING).unwrap();
    let flushed = bed.backend.flushed.lock().len();
    let after = testing::sandboxes(bed.dir.path(), &bed.backend, testing::rules());
    after.adopt_all().await.unwrap();
    let tidy = after.clone();
    tokio::spawn(async move { tidy.keep_tidy().await });
    for before in [&claimed, &alone, &unclaimed] {
        let found = after.present(before.id()).unwrap();
        until(|| found.durable_at().is_some()).await;
        let same = found.durable_at() == before.durable_at();
        assert_eq!(same, before.id() != unclaimed.id());
        assert!(stands(found.dir(), found.durable_at().unwrap()).unwrap());
        after.connect(found.id(), LONG, true).await.unwrap();
        assert!(!stands(found.dir(), before.durable_at().unwrap()).unwrap());
    }
    assert_eq!(bed.backend.flushed.lock()[flushed..], [unclaimed.id()]);
}

#[tokio::test]
async fn one_that_cannot_be_withdrawn_is_not_resumed() {
    let bed = bed(testing::rules());
    let sandbox = durable(&bed, Pausing::default()).await;
    let claim = path(sandbox.dir());
    fs::remove_file(&claim).unwrap();
    fs::create_dir(&claim).unwrap();
    let resumed = bed.sandboxes.connect(sandbox.id(), LONG, true).await;
    assert!(matches!(resumed, Err(Error::Io { .. })));
    assert!(bed.backend.is_frozen(sandbox.id()));
    assert_eq!((sandbox.phase(), sandbox.durable_at()), (Phase::Paused, None));
    fs::remove_dir(&claim).unwrap();
    bed.sandboxes.connect(sandbox.id(), LONG, true).await.unwrap();
}
