//! Whom a freeze stops next, and whom a thaw lets go on, by pictures of the process table.
//!
//! SIGSTOP can be neither caught nor held off, but a parent that waits with `WUNTRACED` sees it in
//! its children, and takes it for the user's. So parents are stopped before their children, and
//! children go on before their parents: whoever looks finds them as he left them.
//!
//! A picture is not of one moment: a process may fork behind the kernel's back while it is drawn,
//! and be stopped before it is reached. So only two pictures in a row in which nothing runs and
//! nobody is new mean that all is still; and as soon as somebody is new, forks are held off.

use std::collections::{BTreeMap, BTreeSet};

use rctl_sys::process::{Identity, Process, State};
use serde::{Deserialize, Serialize};

/// What has to be known of a frozen sandbox, by whoever thaws it: kept in a file of its directory,
/// which is written before the first process is stopped and removed after the last goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// What its user had stopped: pid, and nanoseconds since the epoch at which it started.
    stopped: BTreeSet<(i32, u64)>,
    /// The amount of its `maxproc` rule, which is lower while forks are held off.
    pub(super) processes: u64,
}

impl Mark {
    pub(super) fn new(first: &[Process], processes: u64) -> Self {
        let stopped = alive(first).filter(|process| process.stopped).map(|it| key(it.identity()));
        Self { stopped: stopped.collect(), processes }
    }

    fn has(&self, process: &Process) -> bool {
        self.stopped.contains(&key(process.identity()))
    }
}

fn key(identity: Identity) -> (i32, u64) {
    // A u64 of nanoseconds lasts until the year 2554.
    let nanos = u64::try_from(identity.started.as_nanos()).unwrap_or(u64::MAX);
    (identity.pid, nanos)
}

/// What is to be done before the next picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Next {
    /// SIGSTOP, in this order.
    pub(super) stop: Vec<i32>,
    /// SIGCONT: these numbers were sent SIGSTOP and are no longer the sandbox's. Most are nobody's
    /// now; one that was given to a stranger in between must not leave him stopped.
    pub(super) release: Vec<i32>,
    /// No process of the sandbox's may fork any more.
    pub(super) hold: bool,
    /// All is still.
    pub(super) done: bool,
}

/// A freeze under way.
#[derive(Debug, Default)]
pub(super) struct Freezing {
    /// All that were ever seen, and of those the ones that were sent SIGSTOP.
    known: BTreeSet<Identity>,
    sent: BTreeSet<Identity>,
    /// Pictures in a row in which all was still.
    still: u32,
    begun: bool,
}

impl Freezing {
    pub(super) fn look(&mut self, table: &[Process]) -> Next {
        let here: BTreeSet<Identity> = table.iter().map(Process::identity).collect();
        let numbers: BTreeSet<i32> = table.iter().map(|process| process.pid).collect();
        let gone: Vec<Identity> = self.sent.difference(&here).copied().collect();
        for identity in &gone {
            self.sent.remove(identity);
        }
        let release = gone.into_iter().map(|it| it.pid).filter(|pid| !numbers.contains(pid));
        let release = release.collect();

        let somebody_is_new = alive(table).any(|process| self.known.insert(process.identity()));
        let stop: Vec<i32> = parents_first(table)
            .into_iter()
            .filter(|process| is_alive(process) && !process.stopped)
            .inspect(|process| {
                self.sent.insert(process.identity());
            })
            .map(|process| process.pid)
            .collect();
        let hold = self.begun && somebody_is_new;
        let still = stop.is_empty() && !hold;
        self.begun = true;
        self.still = if still { self.still + 1 } else { 0 };
        // `any` stops at the first.
        self.known.extend(alive(table).map(Process::identity));
        Next { stop, release, hold, done: self.still >= 2 }
    }
}

/// Whom a thaw sends SIGCONT, in this order.
pub(super) fn to_continue(table: &[Process], mark: &Mark) -> Vec<i32> {
    let mut order = parents_first(table);
    order.reverse();
    let ours = order.into_iter().filter(|it| is_alive(it) && it.stopped && !mark.has(it));
    ours.map(|process| process.pid).collect()
}

/// Whether nothing runs.
pub(super) fn is_still(table: &[Process]) -> bool {
    alive(table).all(|process| process.stopped)
}

fn is_alive(process: &Process) -> bool {
    process.state != State::Zombie
}

fn alive(table: &[Process]) -> impl Iterator<Item = &Process> {
    table.iter().filter(|process| is_alive(process))
}

/// By their distance from a process whose parent is not in the table.
fn parents_first(table: &[Process]) -> Vec<&Process> {
    let parents: BTreeMap<i32, i32> = table.iter().map(|it| (it.pid, it.ppid)).collect();
    let depth = |process: &Process| {
        let mut depth = 0_usize;
        let mut at = process.ppid;
        // A picture that was drawn over some time could even have a circle.
        while let Some(&parent) = parents.get(&at)
            && depth <= table.len()
        {
            depth += 1;
            at = parent;
        }
        depth
    };
    let mut order: Vec<(usize, &Process)> = table.iter().map(|it| (depth(it), it)).collect();
    order.sort_by_key(|(depth, process)| (*depth, process.pid));
    order.into_iter().map(|(_, process)| process).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// A jail whose processes do as they like until they are stopped, each some time after it was
    /// sent the signal.
    #[derive(Debug)]
    struct Jail {
        processes: Vec<Simulated>,
        next_pid: i32,
        held: bool,
        /// What happens at each moment, over and over.
        chance: Vec<u8>,
        moment: usize,
    }

    #[derive(Clone, Debug)]
    struct Simulated {
        pid: i32,
        ppid: i32,
        started: u64,
        stopped: bool,
        by_user: bool,
        /// Moments until a SIGSTOP bites.
        stopping: Option<u8>,
    }

    impl Jail {
        fn chance(&mut self) -> u8 {
            self.moment += 1;
            self.chance[self.moment % self.chance.len()]
        }

        fn moment(&mut self) {
            for at in 0..self.processes.len() {
                let chance = self.chance();
                let full = self.processes.len() >= 40;
                let process = &mut self.processes[at];
                if process.stopped {
                    continue;
                }
                match &mut process.stopping {
                    Some(0) => (process.stopped, process.stopping) = (true, None),
                    Some(left) => *left -= 1,
                    None => {}
                }
                if self.processes[at].stopped || self.held || full || !chance.is_multiple_of(3) {
                    continue;
                }
                let ppid = self.processes[at].pid;
                // A number may be another's a moment later; its start is not.
                self.next_pid += 1;
                self.processes.push(Simulated {
                    pid: self.next_pid,
                    ppid,
                    started: self.moment as u64,
                    stopped: false,
                    by_user: false,
                    stopping: None,
                });
            }
        }

        /// Draws the table from one end to the other while things happen.
        fn picture(&mut self, only_at_once: bool) -> Vec<Process> {
            let mut table = Vec::new();
            let mut at = 0;
            while at < self.processes.len() {
                table.push(picture(&self.processes[at]));
                at += 1;
                if !only_at_once && self.chance().is_multiple_of(4) {
                    self.moment();
                }
            }
            table
        }

        fn send_stop(&mut self, pid: i32) {
            let delay = self.chance() % 4;
            let parent = self.processes.iter().find(|it| it.pid == pid).map(|it| it.ppid);
            let parent = self.processes.iter().find(|it| Some(it.pid) == parent);
            if let Some(parent) = parent {
                assert!(parent.stopped || parent.stopping.is_some(), "{parent:?} before {pid}");
            }
            if let Some(process) = self.processes.iter_mut().find(|it| it.pid == pid)
                && process.stopping.is_none()
            {
                process.stopping = Some(delay);
            }
        }

        fn send_continue(&mut self, pid: i32) {
            let children = self.processes.iter().filter(|it| it.ppid == pid);
            for child in children {
                assert!(!child.stopped || child.by_user, "{child:?} after its parent");
            }
            let process = self.processes.iter_mut().find(|it| it.pid == pid).unwrap();
            assert!(!process.by_user, "its user stopped {process:?}");
            process.stopped = false;
        }
    }

    fn picture(of: &Simulated) -> Process {
        Process {
            pid: of.pid,
            ppid: of.ppid,
            pgid: of.pid,
            sid: of.pid,
            uid: 0,
            jid: 1,
            state: if of.stopped { State::Stopped } else { State::Sleeping },
            stopped: of.stopped,
            started: Duration::from_secs(of.started),
            run_time: Duration::ZERO,
            children_time: Duration::ZERO,
            threads: 1,
            resident_pages: 0,
            command: String::new(),
        }
    }

    /// Each process a child of one before it, the first of one that is not in the jail.
    fn jail() -> impl Strategy<Value = Jail> {
        let processes = prop::collection::vec((any::<u16>(), prop::bool::weighted(0.2)), 1..12);
        (processes, prop::collection::vec(any::<u8>(), 1..60)).prop_map(|(drawn, chance)| {
            let mut processes = Vec::new();
            for (at, (parent, by_user)) in drawn.into_iter().enumerate() {
                // Numbers do not tell who was first.
                let number = |at: usize| 1000 - 7 * i32::try_from(at).unwrap();
                let ppid = match at {
                    0 => 1,
                    at => number(usize::from(parent) % at),
                };
                let (stopped, by_user) = (by_user && at > 0, by_user && at > 0);
                processes.push(Simulated {
                    pid: number(at),
                    ppid,
                    started: at as u64,
                    stopped,
                    by_user,
                    stopping: None,
                });
            }
            Jail { processes, next_pid: 2000, held: false, chance, moment: 0 }
        })
    }

    proptest! {
        #[test]
        fn when_a_freeze_is_done_nothing_runs_and_a_thaw_leaves_the_users_stops(mut jail in jail()) {
            let mark = Mark::new(&jail.picture(true), 10);
            let mut freezing = Freezing::default();
            let mut looks = 0;
            loop {
                let table = jail.picture(false);
                let next = freezing.look(&table);
                jail.held |= next.hold;
                for pid in next.stop {
                    jail.send_stop(pid);
                }
                if next.done {
                    break;
                }
                jail.moment();
                looks += 1;
                prop_assert!(looks < 200, "never still: {:?}", jail);
            }
            prop_assert!(jail.processes.iter().all(|it| it.stopped), "{:?}", jail);
            let before = jail.processes.len();
            let text = serde_json::to_string(&mark).unwrap();
            let mark: Mark = serde_json::from_str(&text).unwrap();
            for pid in to_continue(&jail.picture(true), &mark) {
                jail.send_continue(pid);
            }
            prop_assert_eq!(before, jail.processes.len());
            prop_assert!(jail.processes.iter().all(|it| it.stopped == it.by_user), "{:?}", jail);
        }
    }

    fn process(pid: i32, ppid: i32, stopped: bool) -> Process {
        picture(&Simulated { pid, ppid, started: 5, stopped, by_user: false, stopping: None })
    }

    #[test]
    fn one_still_picture_is_not_enough() {
        let mut freezing = Freezing::default();
        let running = [process(10, 1, false), process(11, 10, false)];
        assert_eq!(freezing.look(&running), Next { stop: vec![10, 11], ..Next::default() });
        let stopped = [process(10, 1, true), process(11, 10, true)];
        assert_eq!(freezing.look(&stopped), Next::default());
        assert_eq!(freezing.look(&stopped), Next { done: true, ..Next::default() });
    }

    #[test]
    fn who_is_new_has_forks_held_off_even_when_it_is_stopped_already() {
        let mut freezing = Freezing::default();
        freezing.look(&[process(10, 1, false)]);
        let next = freezing.look(&[process(10, 1, true), process(12, 10, true)]);
        assert_eq!(next, Next { hold: true, ..Next::default() });
    }

    #[test]
    fn a_number_that_is_no_longer_the_sandboxs_is_let_go() {
        let mut freezing = Freezing::default();
        freezing.look(&[process(10, 1, false), process(11, 10, false)]);
        let next = freezing.look(&[process(10, 1, true)]);
        assert_eq!(next.release, [11]);
        assert_eq!(freezing.look(&[process(10, 1, true)]).release, Vec::<i32>::new());
    }

    #[test]
    fn the_dead_are_not_waited_for() {
        let zombie = Process { state: State::Zombie, ..process(11, 10, false) };
        assert!(is_still(&[process(10, 1, true), zombie.clone()]));
        assert!(to_continue(&[zombie], &Mark::default()).is_empty());
    }
}
