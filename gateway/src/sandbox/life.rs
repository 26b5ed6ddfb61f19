//! Where a sandbox stands, and the one place that decides where it goes.

use chrono::{DateTime, SubsecRound, Utc};
use parking_lot::Mutex;

/// What a sandbox is at; see the diagram of this module's parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Running,
    /// Its processes are being stopped where they are.
    Pausing,
    Paused,
    /// They are about to go on.
    Resuming,
    Ended,
}

/// What can happen to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Somebody wants it to stand still.
    Pause,
    /// Nothing of it runs.
    Stand,
    /// Somebody wants it to run.
    Resume,
    /// It runs.
    Run,
    End,
}

impl Phase {
    /// The table of all moves; what is not in it does not happen.
    fn after(self, made: Move) -> Option<Self> {
        match (self, made) {
            (Self::Running, Move::Pause) => Some(Self::Pausing),
            (Self::Pausing | Self::Resuming, Move::Stand) => Some(Self::Paused),
            (Self::Paused, Move::Resume) => Some(Self::Resuming),
            (Self::Pausing | Self::Resuming, Move::Run) => Some(Self::Running),
            (Self::Ended, _) => None,
            (_, Move::End) => Some(Self::Ended),
            _ => None,
        }
    }
}

/// Everything of a life that is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) phase: Phase,
    /// When a running sandbox ends or is paused by itself; of one that stands still, when it would
    /// have.
    pub(super) deadline: DateTime<Utc>,
    /// From when the longest life counts: its start, or when it was last resumed.
    pub(super) runs_since: DateTime<Utc>,
    pub(super) paused_at: Option<DateTime<Utc>>,
}

/// A move that the table has not: what the sandbox is at instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused(pub(super) Phase);

/// Of a renewal, the sweeper, a pause and a kill that race, each finds what the one before made.
#[derive(Debug)]
pub(super) struct Life(Mutex<Moment>);

impl Life {
    pub(super) fn new(deadline: DateTime<Utc>, runs_since: DateTime<Utc>) -> Self {
        Self::at(Moment { phase: Phase::Running, deadline, runs_since, paused_at: None })
    }

    pub(super) fn at(moment: Moment) -> Self {
        Self(Mutex::new(Moment { deadline: whole(moment.deadline), ..moment }))
    }

    pub(super) fn now(&self) -> Moment {
        *self.0.lock()
    }

    pub(super) fn phase(&self) -> Phase {
        self.now().phase
    }

    pub(super) fn ended(&self) -> bool {
        self.phase() == Phase::Ended
    }

    /// When the sweeper is to look.
    pub(super) fn due(&self) -> Option<DateTime<Utc>> {
        let now = self.now();
        (now.phase == Phase::Running).then_some(now.deadline)
    }

    /// Sets what `next` makes of the present deadline and of when it began to run.
    pub(super) fn renew(
        &self,
        next: impl FnOnce(&Moment) -> DateTime<Utc>,
    ) -> Result<DateTime<Utc>, Refused> {
        let mut moment = self.0.lock();
        if moment.phase != Phase::Running {
            return Err(Refused(moment.phase));
        }
        moment.deadline = whole(next(&moment));
        Ok(moment.deadline)
    }

    pub(super) fn make(&self, made: Move) -> Result<(), Refused> {
        go(&mut self.0.lock(), made)
    }

    /// Has one whose time is over make that move; `false` when it is not, or does not run.
    pub(super) fn expire(&self, now: DateTime<Utc>, made: Move) -> bool {
        let mut moment = self.0.lock();
        let due = moment.phase == Phase::Running && moment.deadline <= whole(now);
        due && go(&mut moment, made).is_ok()
    }

    /// Ends it from wherever it is; `false` when someone else did.
    pub(super) fn end(&self) -> bool {
        self.make(Move::End).is_ok()
    }

    /// Begins to resume it, for a life that counts from now.
    pub(super) fn resume(
        &self,
        now: DateTime<Utc>,
        deadline: DateTime<Utc>,
    ) -> Result<(), Refused> {
        let mut moment = self.0.lock();
        go(&mut moment, Move::Resume)?;
        moment.runs_since = now;
        moment.deadline = whole(deadline);
        Ok(())
    }
}

fn go(moment: &mut Moment, made: Move) -> Result<(), Refused> {
    moment.phase = moment.phase.after(made).ok_or(Refused(moment.phase))?;
    match moment.phase {
        // One that could not be resumed is paused since it was.
        Phase::Paused => drop(moment.paused_at.get_or_insert(whole(Utc::now()))),
        Phase::Running => moment.paused_at = None,
        Phase::Pausing | Phase::Resuming | Phase::Ended => {}
    }
    Ok(())
}

/// Instants are compared, told and written down in milliseconds.
fn whole(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(3)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const MOVES: [Move; 5] = [Move::Pause, Move::Stand, Move::Resume, Move::Run, Move::End];

    fn from_now(millis: i64) -> DateTime<Utc> {
        Utc::now() + chrono::Duration::milliseconds(millis)
    }

    fn life(millis: i64) -> Life {
        Life::new(from_now(millis), Utc::now())
    }

    #[test]
    fn whatever_happens_nobody_gets_stuck_and_the_end_is_the_end() {
        let mut seen = HashSet::from([Phase::Running]);
        let mut new = vec![Phase::Running];
        while let Some(phase) = new.pop() {
            let next: Vec<Phase> = MOVES.iter().filter_map(|made| phase.after(*made)).collect();
            // DELETE wins from everywhere.
            assert_eq!(phase.after(Move::End).is_some(), phase != Phase::Ended, "{phase:?}");
            assert_eq!(next.is_empty(), phase == Phase::Ended, "{phase:?}");
            // What is under way comes to an end both ways.
            if matches!(phase, Phase::Pausing | Phase::Resuming) {
                assert_eq!(phase.after(Move::Stand), Some(Phase::Paused));
                assert_eq!(phase.after(Move::Run), Some(Phase::Running));
            }
            new.extend(next.into_iter().filter(|phase| seen.insert(*phase)));
        }
        assert_eq!(seen.len(), 5, "{seen:?}");
    }

    #[test]
    fn of_a_renewal_and_an_expiry_that_race_exactly_one_wins() {
        for made in [Move::End, Move::Pause] {
            for _ in 0..500 {
                let life = life(-1);
                let later = from_now(60_000);
                let (renewed, expired) = std::thread::scope(|scope| {
                    let renewal = scope.spawn(|| life.renew(|now| now.deadline.max(later)));
                    let expiry = scope.spawn(|| life.expire(Utc::now(), made));
                    (renewal.join().unwrap(), expiry.join().unwrap())
                });
                assert_ne!(renewed.is_ok(), expired);
                assert_eq!(life.phase() == Phase::Running, !expired);
            }
        }
    }

    #[test]
    fn only_one_of_many_ends_a_sandbox() {
        let life = life(-1);
        let now = Utc::now();
        let ends = [life.expire(now, Move::End), life.end(), life.expire(now, Move::End)];
        assert_eq!(ends, [true, false, false]);
        assert_eq!(life.renew(|now| now.deadline), Err(Refused(Phase::Ended)));
    }

    #[test]
    fn time_stands_still_for_what_is_paused() {
        let life = life(0);
        life.make(Move::Pause).unwrap();
        assert!(!life.expire(from_now(1000), Move::End) && life.due().is_none());
        assert_eq!(life.renew(|now| now.deadline), Err(Refused(Phase::Pausing)));
        life.make(Move::Stand).unwrap();
        let paused_at = life.now().paused_at.unwrap();
        life.resume(Utc::now(), from_now(5000)).unwrap();
        // It did not work: it is paused since it was.
        life.make(Move::Stand).unwrap();
        assert_eq!(life.now().paused_at, Some(paused_at));
        life.resume(Utc::now(), from_now(5000)).unwrap();
        life.make(Move::Run).unwrap();
        assert_eq!(life.now().paused_at, None);
        assert!(life.due().unwrap() > from_now(4000));
    }
}
