//! What a gateway makes of a sandbox of the one before.

use chrono::{DateTime, Utc};

use super::{RemoveStep, Task, World, WriteStep, Written};
use crate::sandbox::{
    Phase, Reason,
    layers::{Kept, PauseMode},
    life::Moment,
    marks::Marks,
};

impl World {
    /// The gateway is killed, and another adopts what it finds.
    pub(super) fn restarted(&self, auto_pause: bool, next: &mut Vec<Self>) {
        let mut world = self.clone();
        world.crashes -= 1;
        world.tasks.clear();
        (world.turn, world.copied, world.saving, world.off) = (false, false, false, false);
        world.marks = Marks::default();
        world.platter.nobody_is_at_it();
        let now = world.time();
        let Some((moment, kept)) = world.read() else {
            // Nothing says what it is: it is removed, and remembered as what it was.
            world.lives = false;
            world.frozen = false;
            world.over = true;
            if !world.moment.phase.is_over() {
                panic!("lost: {self:?}");
            }
            let _ = world.moment.gone(now);
            return next.push(world);
        };
        // Whoever was about to remove it has told nobody, and it may be claimed anew.
        world.platter.unclaimed = false;
        assert!(moment.phase == Phase::Paused || moment.deadline >= world.told, "{self:?}");
        world.promised = moment.deadline;
        let files = kept.as_ref().is_some_and(|kept| kept.mode == PauseMode::Filesystem);
        if moment.phase == Phase::Paused && (files || !world.lives) {
            return next.push(world.found_files(moment, kept));
        }
        if !world.lives || moment.is_due(now) && !auto_pause {
            assert!(!world.lives || world.promised <= now);
            world.moment = moment;
            let _ = world.moment.end(Reason::EnvdDied, now);
            world.tasks.push(Task::Remove(RemoveStep::AwaitLastWrite));
            return next.push(world);
        }
        match (moment.phase, world.frozen) {
            (Phase::Running, true) => world.tried(next, |mut world, worked| {
                if !worked {
                    world.moment = left(moment, now);
                    world.marks.keep(Some(Kept::new(PauseMode::Full)));
                    world.flush_soon();
                    return world;
                }
                world.is_withdrawn();
                world.frozen = false;
                world.runs();
                world.moment = moment;
                world
            }),
            (Phase::Paused, _) => world.tried(next, |mut world, worked| {
                if !worked {
                    return world.found_files(moment, kept.clone());
                }
                world.frozen = true;
                world.moment = moment;
                world.marks.keep(kept.clone());
                world.flush_soon();
                world
            }),
            _ => {
                world.moment = moment;
                next.push(world);
            }
        }
    }

    /// Its claim tells whether it is to be believed.
    fn read(&self) -> Option<Written> {
        let (moment, mut kept) = self.disk.clone()?;
        if let Some(kept) = &mut kept
            && kept.durable_at != self.platter.claim
        {
            kept.durable_at = None;
        }
        Some((moment, kept))
    }

    /// Paused, with nothing but files: what runs of it is ended.
    fn found_files(mut self, moment: Moment, kept: Option<Kept>) -> Self {
        (self.lives, self.frozen) = (false, false);
        let kept = kept.unwrap_or_else(|| Kept::new(PauseMode::Full));
        self.marks.keep(Some(Kept { mode: PauseMode::Filesystem, ..kept }));
        self.moment = moment;
        self.flush_soon();
        self.with(Task::Write(WriteStep::Read))
    }
}

fn left(mut moment: Moment, now: DateTime<Utc>) -> Moment {
    moment.cannot_go_on(now);
    moment
}
