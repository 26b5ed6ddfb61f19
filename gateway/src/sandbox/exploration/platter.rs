//! What of a sandbox is on the disk for good: how it gets there, how that is taken back, and what a
//! power failure would leave.

use chrono::{DateTime, Utc};

use super::{Task, World, WriteStep, Written, time};
use crate::sandbox::Phase;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum FlushStep {
    Begin,
    /// The files, of which nothing has run since it began.
    Files {
        of: u64,
        still: bool,
    },
    Record(u64, WriteStep),
    SyncRecord(u64),
    Stake(u64),
    SyncStake(u64),
}

/// Records and claims are told by since when they say that it is on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Platter {
    /// Any of which a power failure may leave.
    records: Vec<Option<DateTime<Utc>>>,
    claims: Vec<Option<DateTime<Utc>>>,
    /// As the next gateway would read it.
    pub(super) claim: Option<DateTime<Utc>>,
    /// There may be one.
    held: bool,
    /// Somebody takes it back.
    withdrawing: bool,
    /// It was taken back before the record went.
    pub(super) unclaimed: bool,
    /// Somebody flushes it.
    flushing: bool,
    /// All that it has written is there.
    whole: bool,
    /// So often its files were flushed since the first that is still told of.
    rounds: i64,
    /// So often the disk finds the time to flush it.
    flushes: u8,
}

impl Platter {
    pub(super) fn new(flushes: u8) -> Self {
        Self {
            flushes,
            records: vec![None],
            claims: vec![None],
            claim: None,
            held: false,
            withdrawing: false,
            unclaimed: false,
            flushing: false,
            whole: false,
            rounds: 0,
        }
    }

    /// Whatever there was to flush has been.
    pub(super) fn keeps_up(&self) -> bool {
        self.flushes > 0
    }

    /// The gateway that was is gone. The next one takes it that there is a claim.
    pub(super) fn nobody_is_at_it(&mut self) {
        (self.withdrawing, self.flushing, self.held) = (false, false, true);
    }
}

fn add<T: Ord + Copy>(to: &mut Vec<T>, one: T) {
    if !to.contains(&one) {
        to.push(one);
        to.sort_unstable();
    }
}

fn says(written: Option<&Written>) -> Option<DateTime<Utc>> {
    let (moment, kept) = written?;
    kept.as_ref().filter(|_| moment.phase == Phase::Paused)?.durable_at
}

impl World {
    /// A record in the place of the one before, or none.
    pub(super) fn put(&mut self, written: Option<Written>) {
        add(&mut self.platter.records, says(written.as_ref()));
        self.disk = written;
    }

    /// Its processes go on.
    pub(super) fn runs(&mut self) {
        self.platter.whole = false;
        for task in &mut self.tasks {
            if let Task::Flush(FlushStep::Files { still, .. }) = task {
                *still = false;
            }
        }
    }

    pub(super) fn is_withdrawn(&mut self) {
        self.platter.claim = None;
        self.platter.claims = vec![None];
        self.platter.held = false;
    }

    /// Once there is no claim any more, or that failed. In two steps, of which `again` is the second.
    pub(super) fn withdraw(
        mut self,
        next: &mut Vec<Self>,
        again: Task,
        then: impl Fn(Self, bool) -> Self,
    ) {
        if !self.platter.held {
            return next.push(then(self, true));
        }
        if !self.platter.withdrawing {
            self.platter.withdrawing = true;
            self.platter.claim = None;
            add(&mut self.platter.claims, None);
            return next.push(self.with(again));
        }
        self.tried(next, |mut world, worked| {
            world.platter.withdrawing = false;
            if worked {
                world.is_withdrawn();
            }
            then(world, worked)
        });
    }

    pub(super) fn flush_soon(&mut self) {
        let begin = Task::Flush(FlushStep::Begin);
        if self.platter.flushes > 0 && !self.tasks.contains(&begin) {
            self.platter.flushes -= 1;
            self.tasks.push(begin);
        }
    }

    pub(super) fn flush(mut self, step: FlushStep, next: &mut Vec<Self>) {
        match step {
            FlushStep::Begin if self.platter.flushing => {}
            FlushStep::Begin => {
                let Some((of, found)) = self.marks.unflushed() else { return next.push(self) };
                if self.moment.phase != Phase::Paused {
                    return next.push(self);
                }
                self.platter.flushing = true;
                let step = match found {
                    Some(_) => FlushStep::Stake(of),
                    None => FlushStep::Files { of, still: !self.lives || self.frozen },
                };
                next.push(self.with(Task::Flush(step)));
            }
            FlushStep::Files { of, still } => self.tried(next, |mut world, worked| {
                if !worked {
                    return world.flush_again(of);
                }
                world.platter.whole |= still;
                world.platter.rounds += 1;
                let at = time(world.platter.rounds);
                match world.marks.files_flushed(of, at) {
                    true => world.with(Task::Flush(FlushStep::Record(of, WriteStep::Read))),
                    false => world.has_flushed(),
                }
            }),
            FlushStep::Record(of, step) => {
                let again = |step| Task::Flush(FlushStep::Record(of, step));
                self.write(step, next, again, |world, worked| match worked {
                    true => world.with(Task::Flush(FlushStep::SyncRecord(of))),
                    false => world.flush_again(of),
                });
            }
            FlushStep::SyncRecord(of) => self.tried(next, |mut world, worked| {
                if !worked || world.disk.is_none() {
                    return world.flush_again(of);
                }
                world.platter.records = vec![says(world.disk.as_ref())];
                world.with(Task::Flush(FlushStep::Stake(of)))
            }),
            FlushStep::Stake(_) if self.platter.withdrawing => {}
            FlushStep::Stake(of) => {
                if !self.marks.is_of(of) || self.moment.phase.is_over() {
                    return next.push(self.has_flushed());
                }
                let at = self.marks.kept().and_then(|kept| kept.durable_at);
                self.platter.held = true;
                self.platter.claim = at;
                add(&mut self.platter.claims, at);
                next.push(self.with(Task::Flush(FlushStep::SyncStake(of))));
            }
            FlushStep::SyncStake(of) => self.tried(next, |mut world, worked| {
                if !worked {
                    return world.flush_again(of);
                }
                world.platter.claims = vec![world.platter.claim];
                world.marks.flushed(of);
                world.has_flushed()
            }),
        }
    }

    /// It failed; unless it is over by now, that is tried again.
    fn flush_again(mut self, of: u64) -> Self {
        if !self.moment.phase.is_over() {
            self.marks.not_flushed(of);
            self.flush_soon();
        }
        self.has_flushed()
    }

    fn has_flushed(mut self) -> Self {
        self.platter.flushing = false;
        self
    }

    /// So that worlds which differ only in how often something was counted are one.
    pub(super) fn forget_counts(&mut self) {
        let current = |of: u64| self.marks.is_of(of);
        let mut tasks = self.tasks.clone();
        for task in &mut tasks {
            if let Task::Flush(
                FlushStep::Files { of, .. }
                | FlushStep::Record(of, _)
                | FlushStep::SyncRecord(of)
                | FlushStep::Stake(of)
                | FlushStep::SyncStake(of),
            ) = task
            {
                *of = u64::from(current(*of));
            }
        }
        self.tasks = tasks;
        self.marks.recount();
        self.recount_rounds();
    }

    /// Rounds that nothing tells of any more are not counted.
    fn recount_rounds(&mut self) {
        let mut told = Vec::new();
        self.rounds_told(&mut |at| told.push(*at));
        told.sort_unstable();
        told.dedup();
        let rank = |at: DateTime<Utc>| told.iter().position(|one| *one == at).unwrap_or_default();
        self.rounds_told(&mut |at| *at = time(rank(*at) as i64 + 1));
        self.platter.rounds = told.len() as i64;
        self.platter.records.sort_unstable();
        self.platter.claims.sort_unstable();
    }

    fn rounds_told(&mut self, each: &mut dyn FnMut(&mut DateTime<Utc>)) {
        let platter = &mut self.platter;
        platter.records.iter_mut().chain(&mut platter.claims).flatten().for_each(&mut *each);
        platter.claim.iter_mut().for_each(&mut *each);
        self.marks.change(|kept| kept.durable_at.iter_mut().for_each(&mut *each));
        let mut written: Vec<&mut Written> = self.disk.iter_mut().collect();
        written.extend(self.tasks.iter_mut().filter_map(Task::written));
        for (_, kept) in written {
            kept.iter_mut().filter_map(|kept| kept.durable_at.as_mut()).for_each(&mut *each);
        }
    }

    /// Whatever a power failure leaves: what is gone on with has its files whole, and is neither
    /// one that has run since nor one whose client was told that it has ended; and who was told
    /// that a paused sandbox is on the disk finds it.
    pub(super) fn check_power_failure(&self) {
        let told = self.moment.phase == Phase::Paused && self.marks.durable_at().is_some();
        for record in &self.platter.records {
            for claim in &self.platter.claims {
                let goes_on = record.is_some() && record == claim;
                assert!(goes_on || !told, "lost with the power: {self:?}");
                assert!(!goes_on || self.platter.whole, "its files are not whole: {self:?}");
                let ended = self.over && self.platter.unclaimed;
                assert!(!goes_on || !ended, "back with the power: {self:?}");
            }
        }
    }
}
