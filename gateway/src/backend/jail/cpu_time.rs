//! CPU time of a sandbox, finer than the whole seconds that racct(4) tells, and never falling.
//!
//! The process table has it to a microsecond: what each process has spent, and what those have
//! that it has waited for. envd is the reaper of its jail (procctl(2)), so that whoever ends is
//! waited for by a process of the sandbox, and nothing is lost with it. But a table is not drawn of
//! one moment: who is waited for meanwhile may be missing in it, or count twice. So what it says is
//! believed only near the account of racct, which is late by no more than some seconds; and less
//! than before is never said.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use rctl_sys::process::Process;

use crate::sandbox::SandboxId;

/// How late the account may be. FreeBSD: it has what a living process spent once a second
/// (`racctd`, sys/kern/kern_racct.c), leaves the part of a second away, and a busy host comes to it
/// later.
const LATE: Duration = Duration::from_secs(5);

/// What each jail has spent, by its number, as far as the table tells.
pub(super) fn by_jail(table: &[Process]) -> HashMap<i32, Duration> {
    let mut spent = HashMap::<i32, Duration>::new();
    for process in table {
        let whole = process.run_time.saturating_add(process.children_time);
        let sum = spent.entry(process.jid).or_default();
        *sum = sum.saturating_add(whole);
    }
    spent
}

/// What was said of each sandbox before.
#[derive(Default)]
pub(super) struct Clocks(HashMap<SandboxId, Duration>);

impl Clocks {
    /// What a sandbox has spent, by its `account` and what the table says of it; on a host with so
    /// many CPUs.
    pub(super) fn read(
        &mut self,
        id: SandboxId,
        account: Duration,
        table: Option<Duration>,
        cpus: usize,
    ) -> Duration {
        let late = LATE.saturating_mul(u32::try_from(cpus).unwrap_or(u32::MAX).max(1));
        let most = account.saturating_add(late);
        let spent = table.unwrap_or(account).clamp(account, most);
        let said = self.0.entry(id).or_default();
        *said = spent.max(*said);
        *said
    }

    /// Forgets all others.
    pub(super) fn keep(&mut self, there: &BTreeSet<SandboxId>) {
        self.0.retain(|id, _| there.contains(id));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rctl_sys::process::State;

    use super::*;

    const fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn process(jid: i32, run: u64, children: u64) -> Process {
        Process {
            pid: 1,
            ppid: 1,
            pgid: 1,
            sid: 1,
            uid: 0,
            jid,
            state: State::Sleeping,
            stopped: false,
            started: Duration::ZERO,
            run_time: micros(run),
            children_time: micros(children),
            threads: 1,
            resident_pages: 0,
            command: String::new(),
        }
    }

    #[test]
    fn a_jail_has_spent_what_its_processes_have_and_those_they_have_waited_for() {
        let table = [process(7, 5, 100), process(0, 9, 9), process(7, 3, 0), process(8, 1, 0)];
        let spent = by_jail(&table);
        assert_eq!((spent[&7], spent[&8]), (micros(108), micros(1)));
        assert_eq!(spent.get(&9), None);
    }

    #[test]
    fn the_table_is_finer_than_the_account_and_is_believed_only_near_it() {
        let id = SandboxId::random();
        let read = |account, table| {
            let seconds = Duration::from_secs(account);
            Clocks::default().read(id, seconds, table, 2)
        };
        assert_eq!(read(3, Some(micros(3_400_001))), micros(3_400_001));
        assert_eq!(read(3, None), Duration::from_secs(3));
        // Somebody was missing in it; somebody of long ago was in it twice.
        assert_eq!(read(3, Some(micros(10))), Duration::from_secs(3));
        assert_eq!(read(3, Some(Duration::from_secs(7200))), Duration::from_secs(13));
    }

    #[test]
    fn another_gateway_says_the_same_and_what_is_gone_is_forgotten() {
        let (one, other) = (SandboxId::random(), SandboxId::random());
        let account = Duration::from_secs(1);
        let mut clocks = Clocks::default();
        let first = clocks.read(one, account, Some(micros(1_700_000)), 1);
        assert_eq!(Clocks::default().read(one, account, Some(micros(1_700_000)), 1), first);
        clocks.read(other, account, None, 1);
        clocks.keep(&[other].into());
        assert_eq!(clocks.0.into_keys().collect::<Vec<_>>(), [other]);
    }

    proptest! {
        #[test]
        fn it_never_falls_whatever_the_kernel_says(
            said in prop::collection::vec((0_u64..100, prop::option::of(0_u64..200_000_000)), 1..50),
        ) {
            let (id, mut clocks, mut before) =
                (SandboxId::random(), Clocks::default(), Duration::ZERO);
            for (account, table) in said {
                let now = clocks.read(id, Duration::from_secs(account), table.map(micros), 4);
                prop_assert!(now >= before && now >= Duration::from_secs(account));
                before = now;
            }
        }
    }
}
