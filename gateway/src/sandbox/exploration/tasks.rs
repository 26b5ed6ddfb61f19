//! How pausing, resuming and noticing a death go on, step by step.

use super::{
    DiedStep, LAST, PauseStep, ResumeStep, TIMEOUT, Task, World, WriteStep, Written, time,
};
use crate::sandbox::{
    Phase, Reason,
    layers::{Kept, PauseMode},
    life::Moment,
};

impl World {
    pub(super) fn pause(mut self, step: PauseStep, reason: Reason, next: &mut Vec<Self>) {
        let now = self.time();
        match step {
            PauseStep::Begin { files } => {
                self.turn = true;
                let wanted = match reason {
                    Reason::Deadline => self.moment.is_due(now),
                    // Its deadline is for others.
                    Reason::Idle => !self.moment.is_due(now),
                    _ => true,
                };
                if !wanted || self.moment.pause(reason, now).is_err() {
                    return next.push(self.turn_over());
                }
                match files {
                    true => self.marks.keep_files(Kept::new(PauseMode::Filesystem)),
                    false => self.marks.keep(Some(Kept::new(PauseMode::Full))),
                }
                if !files {
                    return next.push(self.with(Task::Pause(PauseStep::Freeze, reason)));
                }
                self.moment.stand(now).expect("it is pausing");
                next.push(self.with(Task::Pause(PauseStep::Write(WriteStep::Read), reason)));
            }
            PauseStep::Freeze => self.tried(next, |mut world, worked| {
                world.frozen = worked && world.lives;
                if !worked {
                    // It runs on, or has ended.
                    if world.moment.run(now).is_ok() {
                        world.marks.keep(None);
                    }
                    world.unpaused(reason);
                    return world.turn_over();
                }
                if world.moment.stand(now).is_err() {
                    return world.turn_over();
                }
                world.with(Task::Pause(PauseStep::Write(WriteStep::Read), reason))
            }),
            PauseStep::Write(step) => {
                let again = |step| Task::Pause(PauseStep::Write(step), reason);
                self.write(step, next, again, |mut world, worked| {
                    if worked {
                        // Who is told so finds it so, whatever becomes of this gateway.
                        let stands = |(moment, _): &Written| moment.phase == Phase::Paused;
                        assert!(
                            world.moment.phase.is_over() || world.disk.as_ref().is_some_and(stands)
                        );
                        if world.has_files_alone() {
                            world.off = true;
                            return world.with(Task::Pause(PauseStep::ShutDown, reason));
                        }
                        world.flush_soon();
                        return world.turn_over();
                    }
                    let Moment { runs_since, deadline, .. } = world.moment;
                    let resumed = world.moment.resume(Reason::PauseFailed, runs_since, deadline);
                    if resumed.is_err() {
                        return world.turn_over();
                    }
                    world.with(Task::Pause(PauseStep::Stir, reason))
                });
            }
            PauseStep::ShutDown => self.tried(next, |mut world, worked| {
                let lived = world.lives;
                if worked || !lived {
                    world.shut_down();
                    world.marks.has_ended();
                    world.flush_soon();
                    return world.turn_over();
                }
                world.off = false;
                let Moment { runs_since, deadline, .. } = world.moment;
                match world.moment.resume(Reason::PauseFailed, runs_since, deadline) {
                    Ok(()) => world.with(Task::Pause(PauseStep::Stir, reason)),
                    Err(_) => world.turn_over(),
                }
            }),
            PauseStep::Stir => {
                self.marks.stir();
                next.push(self.with(Task::Pause(PauseStep::Withdraw, reason)));
            }
            PauseStep::Withdraw => {
                let again = Task::Pause(step, reason);
                self.withdraw(next, again, |world, worked| match worked {
                    true => world.with(Task::Pause(PauseStep::Thaw, reason)),
                    false => world.left_paused(),
                });
            }
            PauseStep::Thaw => self.tried(next, |mut world, worked| {
                if !worked {
                    return world.left_paused();
                }
                world.frozen = false;
                world.runs();
                if world.moment.run(now).is_ok() {
                    world.marks.keep(None);
                    // The next gateway would read it otherwise as it was.
                    world.tasks.push(Task::Write(WriteStep::Read));
                }
                world.unpaused(reason);
                world.turn_over()
            }),
        }
    }

    /// It could neither be paused nor let go on.
    fn left_paused(mut self) -> Self {
        if self.has_files_alone() {
            self.end(Reason::Stuck);
            return self.turn_over();
        }
        self.stands()
    }

    /// It should have been paused at its deadline: that is tried again for a while.
    fn unpaused(&mut self, reason: Reason) {
        if reason == Reason::Deadline && self.now == LAST {
            self.end(Reason::PauseFailed);
        }
    }

    pub(super) fn resume(mut self, step: ResumeStep, next: &mut Vec<Self>) {
        let now = self.time();
        match step {
            ResumeStep::Begin => {
                self.turn = true;
                if self.moment.resume(Reason::User, now, time(self.now + TIMEOUT)).is_err() {
                    return next.push(self.turn_over());
                }
                next.push(self.with(Task::Resume(ResumeStep::Stir)));
            }
            ResumeStep::Stir => {
                self.marks.stir();
                if self.has_files_alone() || !self.lives {
                    return next.push(self.boots());
                }
                next.push(self.with(Task::Resume(ResumeStep::Write(WriteStep::Read))));
            }
            ResumeStep::Write(step) => {
                let again = |step| Task::Resume(ResumeStep::Write(step));
                self.write(step, next, again, |world, worked| {
                    let withdraw = Task::Resume(ResumeStep::Withdraw);
                    if worked { world.with(withdraw) } else { world.stands() }
                });
            }
            ResumeStep::Withdraw => {
                self.withdraw(next, Task::Resume(step), |world, worked| match worked {
                    true => world.with(Task::Resume(ResumeStep::Thaw)),
                    false => world.stands(),
                });
            }
            ResumeStep::Thaw => self.tried(next, |mut world, worked| {
                if !worked {
                    return world.stands();
                }
                world.frozen = false;
                world.runs();
                world.with(Task::Resume(ResumeStep::Greet))
            }),
            // It may have died meanwhile.
            ResumeStep::Greet if !self.lives => next.push(self.boots()),
            ResumeStep::Greet => {
                if self.moment.run(now).is_ok() {
                    self.marks.keep(None);
                    self.promised = self.moment.deadline;
                    let runs = |(moment, _): &Written| moment.phase == Phase::Running;
                    assert!(self.disk.as_ref().is_some_and(runs), "{self:?}");
                    self.told = self.promised;
                }
                next.push(self.turn_over());
            }
            ResumeStep::Freeze => self.tried(next, |mut world, worked| {
                if !worked {
                    world.end(Reason::Stuck);
                    return world.turn_over();
                }
                world.frozen = world.lives;
                if world.moment.stand(now).is_err() {
                    return world.turn_over();
                }
                world.with(Task::Resume(ResumeStep::WriteBack(WriteStep::Read)))
            }),
            ResumeStep::WriteBack(step) => {
                let again = |step| Task::Resume(ResumeStep::WriteBack(step));
                self.write(step, next, again, |mut world, _| {
                    world.flush_soon();
                    world.turn_over()
                });
            }
            ResumeStep::ShutDown => self.tried(next, |mut world, worked| {
                if !worked && world.lives {
                    world.off = false;
                    return world.stands();
                }
                world.shut_down();
                world.marks.keep(Some(Kept::new(PauseMode::Filesystem)));
                world.with(Task::Resume(ResumeStep::WriteFiles(WriteStep::Read)))
            }),
            ResumeStep::WriteFiles(step) => {
                let again = |step| Task::Resume(ResumeStep::WriteFiles(step));
                self.write(step, next, again, |world, worked| {
                    let withdraw = Task::Resume(ResumeStep::WithdrawFiles);
                    if worked { world.with(withdraw) } else { world.stands() }
                });
            }
            ResumeStep::WithdrawFiles => {
                self.withdraw(next, Task::Resume(step), |world, worked| match worked {
                    true => world.with(Task::Resume(ResumeStep::Create)),
                    false => world.stands(),
                });
            }
            ResumeStep::Create => self.tried(next, |mut world, worked| {
                if !worked {
                    return world.stands();
                }
                world.runs();
                if world.moment.run(now).is_err() {
                    return world.turn_over();
                }
                (world.lives, world.off) = (true, false);
                world.marks.keep(None);
                world.run += 1;
                world.promised = world.moment.deadline;
                world.with(Task::Resume(ResumeStep::WriteRunning(WriteStep::Read)))
            }),
            ResumeStep::WriteRunning(step) => {
                let again = |step| Task::Resume(ResumeStep::WriteRunning(step));
                self.write(step, next, again, |world, _| world.turn_over());
            }
        }
    }

    pub(super) fn died(mut self, step: DiedStep, run: u8, next: &mut Vec<Self>) {
        let others = self.run != run || self.off;
        match step {
            DiedStep::Notice if self.moment.phase == Phase::Running && !others => {
                self.end(Reason::EnvdDied);
                next.push(self);
            }
            DiedStep::Notice => next.push(self.with(Task::Died(DiedStep::Wait, run))),
            DiedStep::Wait if others => next.push(self),
            DiedStep::Wait if self.moment.phase != Phase::Paused => {
                self.end(Reason::EnvdDied);
                next.push(self);
            }
            DiedStep::Wait => {
                self.turn = true;
                self.marks.change(|kept| kept.mode = PauseMode::Filesystem);
                next.push(self.with(Task::Died(DiedStep::Write(WriteStep::Read), run)));
            }
            DiedStep::Write(step) => {
                let again = |step| Task::Died(DiedStep::Write(step), run);
                self.write(step, next, again, |world, _| world.turn_over());
            }
        }
    }

    /// Whoever waits for its processes to die hears of that, too.
    fn shut_down(&mut self) {
        if self.lives {
            self.tasks.push(Task::Died(DiedStep::Notice, self.run));
        }
        (self.lives, self.frozen) = (false, false);
    }

    /// With its files alone.
    fn boots(mut self) -> Self {
        self.off = true;
        self.with(Task::Resume(ResumeStep::ShutDown))
    }

    /// It could not go on: it is stopped again, where there is anything to stop.
    fn stands(mut self) -> Self {
        if !self.has_files_alone() {
            return self.with(Task::Resume(ResumeStep::Freeze));
        }
        let now = self.time();
        match self.moment.stand(now) {
            Ok(()) => self.with(Task::Resume(ResumeStep::WriteBack(WriteStep::Read))),
            Err(_) => self.turn_over(),
        }
    }
}
