//! Sandboxes whose processes a gateway that starts does not find: the host was rebooted, or
//! somebody ended them. What was paused and has its files whole stays, with nothing but them.

use std::{path::PathBuf, sync::Arc};

use super::{
    Phase, Reason, Sandbox, Sandboxes,
    adoption::patiently,
    layers::PauseMode,
    record::Record,
    steps::{STEP, step},
};

impl Sandboxes {
    /// Whether a sandbox of which nothing runs can go on with its files.
    pub(super) fn has_its_files(&self, record: &Record) -> bool {
        let paused = record.moment().phase == Phase::Paused;
        let durable = record.kept().is_some_and(|kept| kept.durable_at.is_some());
        paused && (durable || record.boot.is_some() && record.boot == self.0.boot)
    }

    /// Why nothing of a sandbox runs.
    pub(super) async fn why_gone(&self, record: &Record) -> Reason {
        let other = record.boot.is_some() && record.boot != self.0.boot;
        if other { Reason::HostRebooted } else { self.why_it_died(record.facts.id).await }
    }

    /// Goes on with a paused sandbox that has nothing but its files; what runs of it nevertheless
    /// is ended.
    pub(super) async fn adopt_files(&self, record: Record, dir: PathBuf) {
        let id = record.facts.id;
        // Asked before what the kernel has taken note of goes.
        let why = match self.why_gone(&record).await {
            Reason::EnvdDied if !record.is_spoken_with() => Reason::OtherVersion,
            why => why,
        };
        let shut = || step("the end of a sandbox's processes", STEP, self.0.backend.shut_down(id));
        if let Err(error) = patiently(shut).await {
            tracing::error!(sandbox = %id, "cannot be told as paused: {error}");
            return self.give_up_known(&record, dir, Reason::Stuck);
        }
        let (mut moment, mut kept) = (record.moment(), record.kept());
        let lost = kept.as_ref().is_some_and(|kept| kept.mode == PauseMode::Full);
        if lost {
            moment = moment.lost_processes(why);
            if let Some(kept) = &mut kept {
                (kept.mode, kept.unresponsive) = (PauseMode::Filesystem, false);
            }
        }
        let sandbox = Sandbox::found(record.facts, dir, moment, kept);
        let sandbox = Arc::new(sandbox.under(record.policy));
        self.settle(&sandbox);
        self.0.registry.readmit(sandbox.clone());
        self.begin(&sandbox, None);
        if lost {
            self.record_soon(&sandbox);
        }
        self.flush_soon(&sandbox);
        self.tell_adopted(&sandbox, moment.phase);
        tracing::info!(sandbox = %id, phase = ?moment.phase, files_only = true, "adopted");
    }
}
