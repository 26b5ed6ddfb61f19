//! Every order in which what happens to one sandbox can happen, tried out.
//!
//! What is explored is the code that ships: [`Moment`] with its table, and what [`Record`] makes of
//! it. Around it stands a model of the rest: the kernel, which has the processes or not, frozen or
//! not; the disk, which has a record or not, and what a power failure would leave of it; and those
//! who pause, resume, boot, copy, flush, renew, sweep, kill and notice that processes died, each
//! taken apart into the steps between which another may come. Each step of the kernel's or the
//! disk's may fail, and the gateway may be killed between any two and start anew. In each world it
//! is looked at what would be there if the power failed now.

mod copies;
mod platter;
mod restart;
mod tasks;

use self::{
    copies::CopyStep,
    platter::{FlushStep, Platter},
};

use std::{
    collections::{HashSet, VecDeque},
    sync::LazyLock,
};

use chrono::{DateTime, Utc};

use super::{
    Facts, Phase, Reason,
    layers::{Kept, PauseMode},
    life::Moment,
    marks::Marks,
    record::Record,
    testing,
};

/// What is done to the sandbox, and how far that has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    /// For a client, or because its time is over.
    Pause(PauseStep, Reason),
    Resume(ResumeStep),
    /// The processes of that run have ended, and nobody wanted them to.
    Died(DiedStep, u8),
    Renew,
    /// The record of a renewal.
    Write(WriteStep),
    Kill,
    /// After the one move that ended it.
    Remove(RemoveStep),
    Flush(FlushStep),
    Copy(CopyStep),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum PauseStep {
    Begin {
        files: bool,
    },
    Freeze,
    Write(WriteStep),
    /// Of one of which nothing but its files is kept.
    ShutDown,
    /// The record could not be written.
    Stir,
    Withdraw,
    Thaw,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ResumeStep {
    Begin,
    Stir,
    Write(WriteStep),
    Withdraw,
    Thaw,
    /// It runs; whether its envd does is asked.
    Greet,
    Freeze,
    WriteBack(WriteStep),
    /// Instead of the two before: it is booted.
    ShutDown,
    WriteFiles(WriteStep),
    WithdrawFiles,
    Create,
    WriteRunning(WriteStep),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum DiedStep {
    Notice,
    Wait,
    Write(WriteStep),
}

/// The state is read, and then written, with nobody else doing so in between.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum WriteStep {
    Read,
    Put(Written),
}

/// What a gateway that starts would read.
type Written = (Moment, Option<Kept>);

impl Task {
    /// What it is about to write.
    fn written(&mut self) -> Option<&mut Written> {
        let (Self::Pause(PauseStep::Write(step), _)
        | Self::Resume(
            ResumeStep::Write(step)
            | ResumeStep::WriteBack(step)
            | ResumeStep::WriteFiles(step)
            | ResumeStep::WriteRunning(step),
        )
        | Self::Died(DiedStep::Write(step), _)
        | Self::Write(step)
        | Self::Flush(FlushStep::Record(_, step))) = self
        else {
            return None;
        };
        match step {
            WriteStep::Read => None,
            WriteStep::Put(written) => Some(written),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RemoveStep {
    AwaitLastWrite,
    Withdraw,
    Record,
    Stop,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: i64,
    moment: Moment,
    disk: Option<Written>,
    marks: Marks,
    platter: Platter,
    lives: bool,
    /// Which of its runs that is, and whether that was ended on purpose.
    run: u8,
    off: bool,
    frozen: bool,
    tasks: Vec<Task>,
    /// Somebody holds the turn.
    turn: bool,
    /// To copy its files.
    copied: bool,
    saving: bool,
    /// Of the last renewal or resume that this gateway keeps to.
    promised: DateTime<Utc>,
    /// Of the last renewal or resume that a client was told of: it holds for the next gateway too.
    told: DateTime<Utc>,
    /// Nothing of it runs any more.
    over: bool,
    /// What may still come.
    wishes: Vec<Wish>,
    faults: u8,
    crashes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Wish {
    Pause,
    PauseFiles,
    Resume,
    Renew,
    Kill,
    Die,
    /// Nobody uses it.
    Idle,
    Copy,
}

const START: i64 = 1_700_000_000;
/// Seconds.
const FIRST_TIMEOUT: i64 = 2;
const TIMEOUT: i64 = 2;
const LAST: i64 = 3;

static FACTS: LazyLock<Facts> = LazyLock::new(|| Facts { started_at: time(0), ..testing::facts() });

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(START + seconds, 0).unwrap()
}

impl World {
    fn new(wishes: &[Wish], faults: u8, crashes: u8, flushes: u8) -> Self {
        let mut moment = Moment::pending(time(0));
        moment.plan(time(0), time(FIRST_TIMEOUT));
        moment.begin(time(0)).unwrap();
        Self {
            now: 0,
            moment,
            disk: Some((moment, None)),
            marks: Marks::default(),
            platter: Platter::new(flushes),
            lives: true,
            run: 0,
            off: false,
            frozen: false,
            tasks: Vec::new(),
            turn: false,
            copied: false,
            saving: false,
            promised: moment.deadline,
            told: moment.deadline,
            over: false,
            wishes: wishes.to_vec(),
            faults,
            crashes,
        }
    }

    /// Nothing but its files is kept.
    fn has_files_alone(&self) -> bool {
        self.marks.kept().is_some_and(|kept| kept.mode == PauseMode::Filesystem)
    }

    fn time(&self) -> DateTime<Utc> {
        time(self.now)
    }

    /// Without what is only told, so that what differs in nothing else is looked at once.
    fn bare(mut self) -> Self {
        for moment in [Some(&mut self.moment), self.disk.as_mut().map(|disk| &mut disk.0)]
            .into_iter()
            .flatten()
        {
            (moment.since, moment.runs_since, moment.stood) = (time(0), time(0), 0);
            if let Some(pause) = &mut moment.paused {
                pause.at = time(0);
            }
        }
        self.wishes.sort_unstable();
        self.forget_counts();
        self
    }

    /// Every world that one step makes of this one.
    fn next(&self, auto_pause: bool) -> Vec<Self> {
        let mut next = Vec::new();
        for at in 0..self.tasks.len() {
            let mut world = self.clone();
            let task = world.tasks.remove(at);
            world.step(task, &mut next);
        }
        for at in 0..self.wishes.len() {
            let mut world = self.clone();
            let wish = world.wishes.remove(at);
            world.grant(wish);
            next.push(world);
        }
        if self.moment.is_due(self.time()) && !self.is_watched() {
            next.push(self.swept(auto_pause));
        }
        if self.now < LAST {
            next.push(Self { now: self.now + 1, ..self.clone() });
        }
        if self.crashes > 0 {
            self.restarted(auto_pause, &mut next);
        }
        next
    }

    /// Somebody is about to pause it for its deadline: the sweeper has taken it off its queue.
    fn is_watched(&self) -> bool {
        let paused = Task::Pause(PauseStep::Begin { files: false }, Reason::Deadline);
        self.tasks.contains(&paused)
    }

    fn swept(&self, auto_pause: bool) -> Self {
        let mut world = self.clone();
        if auto_pause {
            let begin = PauseStep::Begin { files: false };
            world.tasks.push(Task::Pause(begin, Reason::Deadline));
        } else {
            world.end(Reason::Deadline);
        }
        world
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Pause | Wish::PauseFiles => {
                let begin = PauseStep::Begin { files: wish == Wish::PauseFiles };
                self.tasks.push(Task::Pause(begin, Reason::User));
            }
            Wish::Idle => {
                self.tasks.push(Task::Pause(PauseStep::Begin { files: false }, Reason::Idle));
            }
            Wish::Copy => self.tasks.push(Task::Copy(CopyStep::Begin)),
            Wish::Resume => self.tasks.push(Task::Resume(ResumeStep::Begin)),
            Wish::Renew => self.tasks.push(Task::Renew),
            Wish::Kill => self.tasks.push(Task::Kill),
            Wish::Die if self.lives => {
                self.lives = false;
                self.frozen = false;
                self.tasks.push(Task::Died(DiedStep::Notice, self.run));
            }
            Wish::Die => {}
        }
    }

    /// Of many who want that, one moves it, and removes it.
    fn end(&mut self, reason: Reason) {
        if reason == Reason::Deadline {
            assert!(self.promised <= self.time(), "ended before its time: {self:?}");
        }
        if self.moment.end(reason, self.time()).is_ok() {
            self.tasks.push(Task::Remove(RemoveStep::AwaitLastWrite));
        }
    }

    fn with(mut self, task: Task) -> Self {
        self.tasks.push(task);
        self
    }

    fn turn_over(mut self) -> Self {
        self.turn = false;
        self
    }

    fn step(self, task: Task, next: &mut Vec<Self>) {
        match task {
            // A client is told so.
            Task::Pause(PauseStep::Begin { .. }, Reason::User) if self.copied => next.push(self),
            Task::Pause(PauseStep::Begin { .. }, _)
            | Task::Resume(ResumeStep::Begin)
            | Task::Copy(CopyStep::Begin)
            | Task::Died(DiedStep::Wait, _)
                if self.turn => {}
            Task::Died(step, run) => self.died(step, run, next),
            Task::Pause(step, reason) => self.pause(step, reason, next),
            Task::Resume(step) => self.resume(step, next),
            Task::Renew => next.push(self.renewed()),
            Task::Write(step) => self.write(step, next, Task::Write, |mut world, worked| {
                if worked && !world.moment.phase.is_over() {
                    let written = world.disk.as_ref().expect("it was written").0.deadline;
                    world.told = world.told.max(written);
                }
                world
            }),
            Task::Kill => next.push(self.killed()),
            Task::Remove(step) => self.remove(step, next),
            Task::Flush(step) => self.flush(step, next),
            Task::Copy(step) => self.copy(step, next),
        }
    }

    fn renewed(mut self) -> Self {
        let deadline = time(self.now + TIMEOUT);
        if self.moment.renew(deadline).is_err() {
            return self;
        }
        self.promised = deadline;
        self.with(Task::Write(WriteStep::Read))
    }

    fn killed(mut self) -> Self {
        self.end(Reason::User);
        self
    }

    fn write(
        mut self,
        step: WriteStep,
        next: &mut Vec<Self>,
        again: impl Fn(WriteStep) -> Task,
        then: impl Fn(Self, bool) -> Self,
    ) {
        match step {
            WriteStep::Read if self.saving => {}
            WriteStep::Read if self.moment.phase.is_over() => next.push(then(self, true)),
            WriteStep::Read => {
                self.saving = true;
                let kept = self.marks.kept().cloned();
                let record = Record::new(FACTS.clone(), &self.moment, kept, None);
                let written = (record.moment(), record.kept());
                next.push(self.with(again(WriteStep::Put(written))));
            }
            WriteStep::Put(written) => self.tried(next, |mut world, worked| {
                world.saving = false;
                if worked {
                    world.put(Some(written.clone()));
                }
                then(world, worked)
            }),
        }
    }

    fn remove(mut self, step: RemoveStep, next: &mut Vec<Self>) {
        match step {
            RemoveStep::AwaitLastWrite if self.saving => {}
            RemoveStep::AwaitLastWrite => {
                next.push(self.with(Task::Remove(RemoveStep::Withdraw)));
            }
            RemoveStep::Withdraw => self.withdraw(next, Task::Remove(step), |mut world, worked| {
                world.platter.unclaimed |= worked;
                world.with(Task::Remove(RemoveStep::Record))
            }),
            RemoveStep::Record => {
                self.put(None);
                next.push(self.with(Task::Remove(RemoveStep::Stop)));
            }
            RemoveStep::Stop => {
                self.lives = false;
                self.frozen = false;
                self.over = true;
                let now = self.time();
                self.moment.gone(now).expect("who ends it is alone");
                next.push(self);
            }
        }
    }

    /// A step works, or fails where there are faults left.
    fn tried(self, next: &mut Vec<Self>, then: impl Fn(Self, bool) -> Self) {
        if self.faults > 0 {
            next.push(then(Self { faults: self.faults - 1, ..self.clone() }, false));
        }
        next.push(then(self, true));
    }

    fn check(&self) {
        let over = matches!(self.moment.phase, Phase::Terminated | Phase::Failed);
        assert_eq!(self.over, over, "{self:?}");
        // DELETE wins from everywhere.
        let ended = self.moment.clone().end(Reason::User, self.time());
        assert_eq!(ended.is_ok(), !self.moment.phase.is_over(), "{self:?}");
        let runs = self.lives && !self.frozen;
        match self.moment.phase {
            // It was told so before its processes are ended, by whoever is about to.
            Phase::Paused if self.has_files_alone() => {
                let ends = |task: &Task| matches!(task, Task::Pause(..) | Task::Died(..));
                assert!(!runs || self.tasks.iter().any(ends), "{self:?}");
            }
            Phase::Paused => assert!(!runs, "paused, and runs: {self:?}"),
            Phase::Running => assert!(!self.frozen || self.copied, "{self:?}"),
            _ => {}
        }
        self.check_power_failure();
        if self.tasks.is_empty() {
            self.check_at_rest();
        }
    }

    /// What holds whenever nobody is about to do anything.
    fn check_at_rest(&self) {
        assert!(!self.turn && !self.saving && !self.copied, "held by nobody: {self:?}");
        match self.moment.phase {
            Phase::Running => assert!(self.lives && !self.frozen, "{self:?}"),
            // Nothing of it runs, whatever went wrong.
            Phase::Paused if self.has_files_alone() => assert!(!self.lives, "{self:?}"),
            Phase::Paused => assert!(self.lives && self.frozen, "{self:?}"),
            Phase::Terminated | Phase::Failed => {
                assert!(!self.lives && self.disk.is_none(), "{self:?}");
                return;
            }
            _ => panic!("stuck: {self:?}"),
        }
        if self.platter.keeps_up() {
            let paused = self.moment.phase == Phase::Paused;
            assert_eq!(self.marks.durable_at().is_some(), paused, "not flushed: {self:?}");
        }
    }
}

/// All worlds that come of `first`, checked; how many there are.
fn explore(first: World, auto_pause: bool) -> usize {
    let first = first.bare();
    let mut seen = HashSet::from([first.clone()]);
    let mut new = VecDeque::from([first]);
    while let Some(world) = new.pop_front() {
        world.check();
        let next = world.next(auto_pause);
        let moves = !world.tasks.is_empty();
        // Time, and whatever else comes from outside, helps nobody on.
        let mut alone = world.clone();
        (alone.wishes, alone.crashes, alone.now) = (Vec::new(), 0, LAST);
        assert!(!moves || !alone.next(auto_pause).is_empty(), "nobody can go on: {world:?}");
        for next in next.into_iter().map(World::bare) {
            if seen.insert(next.clone()) {
                new.push_back(next);
            }
        }
    }
    seen.len()
}

#[test]
fn in_whatever_order_things_happen_nobody_is_stuck_lost_or_ended_too_early() {
    use Wish::{Copy, Die, Idle, Kill, Pause, PauseFiles, Renew, Resume};
    for (wishes, faults, crashes, flushes) in [
        (&[Pause, Resume, Kill][..], 1, 1, 0),
        (&[Pause, Resume, Renew][..], 1, 1, 0),
        (&[Pause, Resume, Die][..], 1, 1, 0),
        (&[PauseFiles, Resume, Die][..], 1, 1, 0),
        (&[Pause, Pause, Resume, Resume][..], 1, 0, 0),
        (&[Idle, Resume][..], 1, 1, 0),
        (&[Copy, Pause, Resume][..], 1, 1, 0),
        (&[Copy, Idle, Kill][..], 1, 0, 0),
        (&[Pause, Resume][..], 1, 0, 1),
        (&[PauseFiles, Resume][..], 0, 0, 2),
        (&[Pause, Kill][..], 1, 0, 2),
        // Who flushes it may come as late as the next pause.
        (&[Pause, Resume, Pause][..], 1, 0, 1),
        (&[Pause, Resume, PauseFiles][..], 0, 0, 1),
    ] {
        tell(wishes, faults, crashes, flushes, false);
    }
    // By the sweeper, too.
    for (wishes, faults, crashes, flushes) in [
        (&[Pause, Resume][..], 2, 1, 0),
        (&[Pause, Kill][..], 1, 1, 0),
        (&[Idle, Resume][..], 1, 0, 0),
        (&[Copy, Idle][..], 1, 1, 0),
        (&[Resume][..], 0, 1, 2),
        (&[Resume][..], 1, 0, 2),
    ] {
        tell(wishes, faults, crashes, flushes, true);
    }
}

fn tell(wishes: &[Wish], faults: u8, crashes: u8, flushes: u8, auto_pause: bool) {
    let began = std::time::Instant::now();
    let count = explore(World::new(wishes, faults, crashes, flushes), auto_pause);
    let took = began.elapsed();
    println!(
        "{wishes:?}, {faults} faults, {crashes} restarts, {flushes} flushes: {count} worlds, {took:.1?}"
    );
    assert!(count > 500, "{count}");
}

#[test]
#[ignore = "takes minutes: to be run by hand when the lifecycle changes"]
fn nor_when_more_happens() {
    use Wish::{Copy, Die, Idle, Kill, Pause, PauseFiles, Renew, Resume};
    for auto_pause in [false, true] {
        for (wishes, faults, crashes, flushes) in [
            (&[Pause, Resume, Renew, Kill][..], 1, 1, 0),
            (&[Pause, Resume, Pause, Resume][..], 1, 1, 0),
            (&[Pause, Resume, Renew, Renew][..], 2, 1, 0),
            (&[Pause, Resume, Die, Kill][..], 1, 1, 0),
            (&[Pause, Resume][..], 3, 2, 0),
            (&[Copy, Pause, Resume, Kill][..], 1, 1, 0),
            (&[Copy, Copy, Idle, Resume][..], 1, 1, 0),
            (&[Copy, Pause, Resume, Die][..], 1, 1, 0),
            (&[Pause, Resume, Pause][..], 1, 0, 3),
            (&[Pause, Resume, PauseFiles][..], 1, 0, 3),
            (&[PauseFiles, Resume, Kill][..], 1, 1, 2),
            (&[Pause, Resume, Kill][..], 1, 1, 2),
            (&[Pause, Resume, Die][..], 1, 1, 2),
        ] {
            tell(wishes, faults, crashes, flushes, auto_pause);
        }
    }
}
