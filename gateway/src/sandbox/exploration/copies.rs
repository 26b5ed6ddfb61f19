//! How a copy of its files is made of a sandbox that runs.

use super::{Task, World};
use crate::sandbox::{Phase, Reason};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CopyStep {
    Begin,
    WhileItRuns,
    Freeze,
    Thaw,
    /// It failed, and nobody knows how far it came.
    Undo,
}

impl World {
    pub(super) fn copy(mut self, step: CopyStep, next: &mut Vec<Self>) {
        let now = self.time();
        match step {
            CopyStep::Begin => {
                // At its deadline it is for others.
                if self.moment.phase == Phase::Running && !self.moment.is_due(now) {
                    (self.turn, self.copied) = (true, true);
                    self.tasks.push(Task::Copy(CopyStep::WhileItRuns));
                }
                next.push(self);
            }
            CopyStep::WhileItRuns => {
                // An end breaks it off, and so does a pause at the deadline.
                if self.moment.phase.is_over() || self.moment.is_due(now) {
                    next.push(self.clone().with(Task::Copy(CopyStep::Undo)));
                }
                next.push(self.with(Task::Copy(CopyStep::Freeze)));
            }
            CopyStep::Freeze => self.tried(next, |mut world, worked| {
                world.frozen = worked && world.lives;
                world.with(Task::Copy(if worked { CopyStep::Thaw } else { CopyStep::Undo }))
            }),
            CopyStep::Thaw => self.tried(next, |mut world, worked| {
                if !worked {
                    return world.with(Task::Copy(CopyStep::Undo));
                }
                world.frozen = false;
                world.has_copied()
            }),
            CopyStep::Undo if self.moment.phase.is_over() => next.push(self.has_copied()),
            CopyStep::Undo => self.tried(next, |mut world, worked| {
                world.frozen &= !worked;
                if !worked {
                    world.end(Reason::Stuck);
                }
                world.has_copied()
            }),
        }
    }

    fn has_copied(mut self) -> Self {
        self.copied = false;
        self.turn_over()
    }
}
