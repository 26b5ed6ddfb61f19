//! Where a sandbox stands, and the one place that decides where it goes.

use std::sync::{OnceLock, atomic::AtomicBool};

use chrono::{DateTime, SubsecRound, Utc};
use parking_lot::Mutex;
use serde::Serialize;

use super::{Reason, journal::Journal, order::Shown};

/// What a sandbox is at; see the diagram of this module's parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[schema(as = SandboxState, description = "What it is at.")]
pub enum Phase {
    /// It is being made; nobody sees it.
    Pending,
    Running,
    /// Its processes are being stopped where they are.
    Pausing,
    Paused,
    /// They are about to go on.
    Resuming,
    /// Its processes are being ended; to clients it is gone.
    Stopping,
    /// It ended as somebody wanted, and nothing of it runs.
    Terminated,
    /// It ended otherwise, or could not be ended in time.
    Failed,
}

impl Phase {
    /// Whether clients can do something with it.
    pub fn is_present(self) -> bool {
        matches!(self, Self::Running | Self::Pausing | Self::Paused | Self::Resuming)
    }

    /// Whether it is on its way to another, in a time that is bounded.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Pending | Self::Pausing | Self::Resuming | Self::Stopping)
    }

    /// Whether it has ended, or is about to.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Stopping | Self::Terminated | Self::Failed)
    }

    /// As it is told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Pausing => "Pausing",
            Self::Paused => "Paused",
            Self::Resuming => "Resuming",
            Self::Stopping => "Stopping",
            Self::Terminated => "Terminated",
            Self::Failed => "Failed",
        }
    }

    fn after(self, made: Move) -> Option<Self> {
        TABLE.iter().find(|(from, with, _)| (*from, *with) == (self, made)).map(|row| row.2)
    }
}

/// What can happen to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Move {
    /// It is there.
    Begin,
    /// Somebody wants it to stand still.
    Pause,
    /// Nothing of it runs.
    Stand,
    /// Somebody wants it to run.
    Resume,
    /// It runs.
    Run,
    /// Somebody wants it to end, or it has.
    Stop,
    /// Nothing of it runs any more.
    Gone,
    /// Neither a wish of anybody's nor done in time.
    Fail,
}

/// All moves; what is not among them does not happen.
const TABLE: [(Phase, Move, Phase); 14] = [
    (Phase::Pending, Move::Begin, Phase::Running),
    (Phase::Running, Move::Pause, Phase::Pausing),
    (Phase::Pausing, Move::Stand, Phase::Paused),
    (Phase::Pausing, Move::Run, Phase::Running),
    (Phase::Paused, Move::Resume, Phase::Resuming),
    (Phase::Resuming, Move::Run, Phase::Running),
    (Phase::Resuming, Move::Stand, Phase::Paused),
    (Phase::Pending, Move::Stop, Phase::Stopping),
    (Phase::Running, Move::Stop, Phase::Stopping),
    (Phase::Pausing, Move::Stop, Phase::Stopping),
    (Phase::Paused, Move::Stop, Phase::Stopping),
    (Phase::Resuming, Move::Stop, Phase::Stopping),
    (Phase::Stopping, Move::Gone, Phase::Terminated),
    (Phase::Stopping, Move::Fail, Phase::Failed),
];

/// Since when it stands still, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pause {
    pub(super) at: DateTime<Utc>,
    pub(super) reason: Reason,
}

/// All there is to know of a life at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Moment {
    pub(super) phase: Phase,
    /// Why it is in that phase; `None` when it has simply begun.
    pub(super) reason: Option<Reason>,
    /// From when it is.
    pub(super) since: DateTime<Utc>,
    /// When a running sandbox ends or is paused by itself; of one that stands still, when it would
    /// have.
    pub(super) deadline: DateTime<Utc>,
    /// From when the longest life counts: its start, or when it was last resumed.
    pub(super) runs_since: DateTime<Utc>,
    pub(super) paused: Option<Pause>,
    /// For how long (milliseconds) it stood still between its start and `runs_since`. While it is
    /// paused `runs_since` may be that of a resume that failed.
    pub(super) stood: u64,
}

/// What is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub phase: Phase,
    pub reason: Option<Reason>,
    /// When it came to be in that phase.
    pub since: DateTime<Utc>,
}

/// A move that the table has not: what the sandbox is at instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) Phase);

impl Moment {
    pub(super) fn pending(now: DateTime<Utc>) -> Self {
        let now = whole(now);
        Self {
            phase: Phase::Pending,
            reason: None,
            since: now,
            deadline: now,
            runs_since: now,
            paused: None,
            stood: 0,
        }
    }

    fn go(
        &mut self,
        made: Move,
        reason: Option<Reason>,
        now: DateTime<Utc>,
    ) -> Result<(), Refused> {
        self.phase = self.phase.after(made).ok_or(Refused(self.phase))?;
        self.since = whole(now);
        self.reason = reason;
        Ok(())
    }

    /// It is there, for a life that began and ends as was [planned](Self::plan).
    pub(super) fn begin(&mut self, now: DateTime<Utc>) -> Result<(), Refused> {
        self.go(Move::Begin, None, now)
    }

    /// When one that is being made will have begun, and will end.
    pub(super) fn plan(&mut self, start: DateTime<Utc>, deadline: DateTime<Utc>) {
        self.runs_since = whole(start);
        self.deadline = whole(deadline);
    }

    pub(super) fn pause(&mut self, reason: Reason, now: DateTime<Utc>) -> Result<(), Refused> {
        self.go(Move::Pause, Some(reason), now)
    }

    /// One that could not be resumed stands still since it did, for the reason it had then.
    pub(super) fn stand(&mut self, now: DateTime<Utc>) -> Result<(), Refused> {
        let reason = self.reason.unwrap_or(Reason::User);
        self.go(Move::Stand, None, now)?;
        // No earlier than it ran, though the clock was set back.
        let at = whole(now).max(self.runs_since);
        let pause = self.paused.get_or_insert(Pause { at, reason });
        self.reason = Some(pause.reason);
        Ok(())
    }

    /// Begins to resume it, for a life that counts from now.
    pub(super) fn resume(
        &mut self,
        reason: Reason,
        now: DateTime<Utc>,
        deadline: DateTime<Utc>,
    ) -> Result<(), Refused> {
        self.go(Move::Resume, Some(reason), now)?;
        self.runs_since = whole(now);
        self.deadline = whole(deadline);
        Ok(())
    }

    /// One that was resumed runs for the reason it was; one that could not be paused, for none.
    pub(super) fn run(&mut self, now: DateTime<Utc>) -> Result<(), Refused> {
        let reason = self.paused.and(self.reason);
        self.go(Move::Run, reason, now)?;
        self.stood = self.stood_by_now();
        self.paused = None;
        Ok(())
    }

    /// As `stood`, of one that is about to run since `runs_since`. That is before it was paused
    /// where it could not be.
    pub(super) fn stood_by_now(&self) -> u64 {
        let last = self.paused.map_or(0, |pause| millis_between(pause.at, self.runs_since));
        self.stood.saturating_add(last)
    }

    /// One that was written down as running, and that the gateway which found it cannot let go on:
    /// nothing is to be sent to it, and who connects tries again.
    pub(super) fn cannot_go_on(&mut self, now: DateTime<Utc>) {
        if self.phase == Phase::Running {
            let reason = Reason::PauseFailed;
            self.phase = Phase::Paused;
            self.since = whole(now);
            self.reason = Some(reason);
            self.paused = Some(Pause { at: self.since, reason });
        }
    }

    /// Ends it from wherever it is.
    pub(super) fn end(&mut self, reason: Reason, now: DateTime<Utc>) -> Result<(), Refused> {
        self.go(Move::Stop, Some(reason), now)
    }

    /// Nothing of it runs any more.
    pub(super) fn gone(&mut self, now: DateTime<Utc>) -> Result<(), Refused> {
        let failed = self.reason.is_some_and(Reason::fails);
        self.go(if failed { Move::Fail } else { Move::Gone }, self.reason, now)
    }

    /// Something of it is left though it should long be gone.
    pub(super) fn fail(&mut self, reason: Reason, now: DateTime<Utc>) -> Result<(), Refused> {
        self.go(Move::Fail, Some(reason), now)
    }

    /// Whether its time is over.
    pub(super) fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.phase == Phase::Running && self.deadline <= whole(now)
    }

    pub(super) fn renew(&mut self, deadline: DateTime<Utc>) -> Result<(), Refused> {
        if self.phase != Phase::Running {
            return Err(Refused(self.phase));
        }
        self.deadline = whole(deadline);
        Ok(())
    }

    pub(super) fn status(&self) -> Status {
        Status { phase: self.phase, reason: self.reason, since: self.since }
    }
}

/// What becomes of one whose time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    End,
    Pause,
}

/// Of a renewal, the sweeper, a pause and a kill that race, each finds what the one before made.
#[derive(Debug)]
pub(super) struct Life {
    moment: Mutex<Moment>,
    journal: Journal,
    /// Once it can be seen.
    shown: OnceLock<Shown>,
    /// Whether it was told that it stands as it does, if it does; changed with the moment.
    told: AtomicBool,
}

impl Life {
    /// Of one that is being made.
    pub(super) fn pending() -> Self {
        Self::at(Moment::pending(Utc::now()))
    }

    /// Of one that runs.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn new(deadline: DateTime<Utc>, runs_since: DateTime<Utc>) -> Self {
        let mut moment = Moment::pending(runs_since);
        moment.plan(runs_since, deadline);
        moment.phase = Phase::Running;
        Self::at(moment)
    }

    pub(super) fn at(moment: Moment) -> Self {
        // What could not be put as it was written nobody has been told of.
        let told = moment.phase == Phase::Paused && moment.reason != Some(Reason::PauseFailed);
        Self {
            moment: Mutex::new(moment),
            journal: Journal::default(),
            shown: OnceLock::new(),
            told: AtomicBool::new(told),
        }
    }

    /// Looks at the moment while nobody makes a move.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Moment, &AtomicBool) -> T) -> T {
        look(&self.moment.lock(), &self.told)
    }

    pub(super) fn now(&self) -> Moment {
        *self.moment.lock()
    }

    pub(super) fn phase(&self) -> Phase {
        self.now().phase
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase().is_over()
    }

    /// Makes a move with what the one before left.
    pub(super) fn make(
        &self,
        made: impl FnOnce(&mut Moment, DateTime<Utc>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        self.make_telling(made, |_, _| {})
    }

    /// Makes one, and tells of it before anybody makes another.
    pub(super) fn make_telling(
        &self,
        made: impl FnOnce(&mut Moment, DateTime<Utc>) -> Result<(), Refused>,
        tell: impl FnOnce(&Moment, &AtomicBool),
    ) -> Result<(), Refused> {
        let mut moment = self.moment.lock();
        let before = moment.phase;
        made(&mut moment, Utc::now())?;
        if moment.phase != before {
            self.journal.moved(before, &moment.status());
            if let Some(shown) = self.shown.get() {
                shown.moved(before, moment.phase);
            }
        }
        tell(&moment, &self.told);
        Ok(())
    }

    /// Has it shown where its phase says, from now on.
    pub(super) fn show_in(&self, shown: Shown) {
        let moment = self.moment.lock();
        let shown = self.shown.get_or_init(|| shown);
        shown.moved(Phase::Pending, moment.phase);
    }

    /// When the sweeper is to look.
    pub(super) fn due(&self) -> Option<DateTime<Utc>> {
        let now = self.now();
        (now.phase == Phase::Running).then_some(now.deadline)
    }

    pub(super) fn plan(&self, start: DateTime<Utc>, deadline: DateTime<Utc>) {
        self.moment.lock().plan(start, deadline);
    }

    /// Sets what `next` makes of the present deadline and of when it began to run.
    pub(super) fn renew(
        &self,
        next: impl FnOnce(&Moment) -> DateTime<Utc>,
    ) -> Result<DateTime<Utc>, Refused> {
        let mut moment = self.moment.lock();
        let deadline = next(&moment);
        moment.renew(deadline)?;
        Ok(moment.deadline)
    }

    /// Has one whose time is over meet its fate; `false` when it is not, or does not run.
    pub(super) fn expire(&self, now: DateTime<Utc>, fate: Fate) -> bool {
        let expired = self.make(|moment, _| {
            if !moment.is_due(now) {
                return Err(Refused(moment.phase));
            }
            match fate {
                Fate::End => moment.end(Reason::Deadline, now),
                Fate::Pause => moment.pause(Reason::Deadline, now),
            }
        });
        expired.is_ok()
    }

    /// What has happened to it.
    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Ends it from wherever it is; `false` when someone else did.
    pub(super) fn end(&self, reason: Reason) -> bool {
        self.make(|moment, now| moment.end(reason, now)).is_ok()
    }
}

/// From one instant to a later one; nothing where the clock was set back between.
pub(super) fn millis_between(from: DateTime<Utc>, to: DateTime<Utc>) -> u64 {
    u64::try_from((to - from).num_milliseconds()).unwrap_or_default()
}

/// Instants are compared, told and written down in milliseconds.
pub(super) fn whole(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(3)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const MOVES: [Move; 8] = [
        Move::Begin,
        Move::Pause,
        Move::Stand,
        Move::Resume,
        Move::Run,
        Move::Stop,
        Move::Gone,
        Move::Fail,
    ];

    fn from_now(millis: i64) -> DateTime<Utc> {
        Utc::now() + chrono::Duration::milliseconds(millis)
    }

    fn life(millis: i64) -> Life {
        Life::new(from_now(millis), Utc::now())
    }

    #[test]
    fn whatever_happens_nobody_gets_stuck_and_the_end_is_the_end() {
        let mut seen = HashSet::from([Phase::Pending]);
        let mut new = vec![Phase::Pending];
        while let Some(phase) = new.pop() {
            let next: Vec<Phase> = MOVES.iter().filter_map(|made| phase.after(*made)).collect();
            // DELETE wins from everywhere.
            assert_eq!(phase.after(Move::Stop).is_some(), !phase.is_over(), "{phase:?}");
            let end = matches!(phase, Phase::Terminated | Phase::Failed);
            assert_eq!(next.is_empty(), end, "{phase:?}");
            // What is under way comes to an end both ways.
            if matches!(phase, Phase::Pausing | Phase::Resuming) {
                assert_eq!(phase.after(Move::Stand), Some(Phase::Paused));
                assert_eq!(phase.after(Move::Run), Some(Phase::Running));
            }
            new.extend(next.into_iter().filter(|phase| seen.insert(*phase)));
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }

    #[test]
    fn no_two_rows_say_what_one_move_makes_of_one_phase() {
        let rows: HashSet<_> = TABLE.iter().map(|(from, made, _)| (from, made)).collect();
        assert_eq!(rows.len(), TABLE.len());
    }

    #[test]
    fn of_a_renewal_and_an_expiry_that_race_exactly_one_wins() {
        for fate in [Fate::End, Fate::Pause] {
            for _ in 0..500 {
                let life = life(-1);
                let later = from_now(60_000);
                let (renewed, expired) = std::thread::scope(|scope| {
                    let renewal = scope.spawn(|| life.renew(|now| now.deadline.max(later)));
                    let expiry = scope.spawn(|| life.expire(Utc::now(), fate));
                    (renewal.join().unwrap(), expiry.join().unwrap())
                });
                assert_ne!(renewed.is_ok(), expired);
                assert_eq!(life.phase() == Phase::Running, !expired);
            }
        }
    }

    #[test]
    fn only_one_of_many_ends_a_sandbox_and_its_reason_stays() {
        let life = life(-1);
        let now = Utc::now();
        let ends = [life.expire(now, Fate::End), life.end(Reason::User)];
        assert_eq!(ends, [true, false]);
        assert_eq!(life.renew(|now| now.deadline), Err(Refused(Phase::Stopping)));
        life.make(Moment::gone).unwrap();
        let status = life.now().status();
        assert_eq!((status.phase, status.reason), (Phase::Terminated, Some(Reason::Deadline)));
    }

    #[test]
    fn who_ended_as_nobody_wanted_has_failed() {
        for reason in Reason::ALL.into_iter().filter(|reason| reason.ends()) {
            let life = life(1000);
            assert!(life.end(reason));
            life.make(Moment::gone).unwrap();
            assert_eq!(life.phase() == Phase::Failed, reason.fails(), "{reason}");
            assert_eq!(life.now().reason, Some(reason));
        }
    }

    #[test]
    fn time_stands_still_for_what_is_paused() {
        let life = life(0);
        life.make(|moment, now| moment.pause(Reason::User, now)).unwrap();
        assert!(!life.expire(from_now(1000), Fate::End) && life.due().is_none());
        assert_eq!(life.renew(|now| now.deadline), Err(Refused(Phase::Pausing)));
        life.make(Moment::stand).unwrap();
        let paused = life.now().paused.unwrap();
        assert_eq!((life.now().reason, paused.reason), (Some(Reason::User), Reason::User));
        let resume = |moment: &mut Moment, now| moment.resume(Reason::Traffic, now, from_now(5000));
        life.make(resume).unwrap();
        // It did not work: it is paused since it was.
        life.make(Moment::stand).unwrap();
        assert_eq!((life.now().paused, life.now().reason), (Some(paused), Some(Reason::User)));
        life.make(resume).unwrap();
        life.make(Moment::run).unwrap();
        assert_eq!((life.now().paused, life.now().reason), (None, Some(Reason::Traffic)));
        assert!(life.due().unwrap() > from_now(4000));
        life.make(|moment, now| moment.pause(Reason::Idle, now)).unwrap();
        life.make(Moment::run).unwrap();
        assert_eq!(life.now().reason, None, "it could not be paused");
    }
}
