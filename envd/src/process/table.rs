//! The processes that clients started: the living, and for a while those that ended.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::running::Process;
use crate::connect::proto::process::{ProcessConfig, ProcessInfo};

/// How long an ended process can still be connected to.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Ended processes held at most; short-lived ones may come by the thousand.
const MAX_REMEMBERED: usize = 2048;

#[derive(Default)]
pub(crate) struct Processes(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// In the order they were started.
    living: Vec<Living>,
    ended: VecDeque<(Instant, Arc<Process>)>,
}

struct Living {
    process: Arc<Process>,
    config: ProcessConfig,
}

/// How a client names a process.
#[derive(Clone, Copy, Debug)]
pub(super) enum Selector<'a> {
    Pid(u32),
    Tag(&'a str),
}

impl Processes {
    pub(super) fn list(&self) -> Vec<ProcessInfo> {
        let table = self.0.lock();
        let info = |Living { process, config }: &Living| ProcessInfo {
            config: config.clone().into(),
            pid: process.pid,
            tag: process.tag.clone(),
            ..ProcessInfo::default()
        };
        table.living.iter().map(info).collect()
    }

    pub(super) fn started(&self, process: Arc<Process>, config: ProcessConfig) {
        self.0.lock().living.push(Living { process, config });
    }

    pub(super) fn ended(&self, process: &Arc<Process>) {
        let mut table = self.0.lock();
        table.living.retain(|living| !Arc::ptr_eq(&living.process, process));
        if table.ended.len() == MAX_REMEMBERED {
            table.ended.pop_front();
        }
        table.ended.push_back((Instant::now(), process.clone()));
    }

    /// The newest living process of that name.
    pub(super) fn living(&self, selector: Selector<'_>) -> Option<Arc<Process>> {
        let table = self.0.lock();
        let mut processes = table.living.iter().map(|living| &living.process).rev();
        processes.find(|process| selector.names(process)).cloned()
    }

    /// The same, or else one that ended a moment ago.
    pub(super) fn living_or_ended(&self, selector: Selector<'_>) -> Option<Arc<Process>> {
        self.living(selector).or_else(|| {
            let mut table = self.0.lock();
            while table.ended.front().is_some_and(|(at, _)| at.elapsed() > REMEMBERED) {
                table.ended.pop_front();
            }
            let mut ended = table.ended.iter().rev().map(|(_, process)| process);
            ended.find(|process| selector.names(process)).cloned()
        })
    }
}

impl Selector<'_> {
    fn names(self, process: &Process) -> bool {
        match self {
            Self::Pid(pid) => process.pid == pid,
            Self::Tag(tag) => process.tag.as_deref() == Some(tag),
        }
    }
}
