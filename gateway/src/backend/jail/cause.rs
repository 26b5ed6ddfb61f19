//! Why a sandbox's envd ended, as far as the kernel tells.
//!
//! FreeBSD: nothing counts who was killed or refused for a rule of rctl(8). Its actions `log` and
//! `devctl` would say so, to the console and to devd(8), ten times a second for the whole host
//! (`rctl_enforce`, sys/kern/kern_rctl.c): a sandbox that forks without end could fill the one and
//! hide what the other is to be told. What is left is how envd ended, which kqueue(2) tells whoever
//! its parent is, and its jail's account at that instant:
//!
//! * a rule over `memoryuse` kills with SIGKILL, and only while the jail's account is over it; what
//!   the process held is taken off the account once it is reaped (`racct_proc_exit` in `proc_reap`,
//!   sys/kern/kern_exit.c), and what others hold no sooner;
//! * one that was refused a process or a thread ends by itself, with an error, and not while its jail
//!   could have had another.
//!
//! So who is killed by root of its own sandbox just when the memory is used up is told as `oom`.
//! Whoever looks may come after the reaping, if that is another's to do: envd's own part is
//! allowed for.

use nix::{
    sys::{signal::Signal, wait::WaitStatus},
    unistd::Pid,
};
use rctl_sys::{
    racct::Usage,
    rule::{Resource, Rule},
};

use super::limits::{ENVD_MEMORY, ENVD_PROCESSES, ENVD_THREADS};
use crate::backend::Cause;

/// Of a process that ended with that status, as wait(2) has it, in a jail of that account and those
/// rules.
pub(super) fn cause(status: i32, account: &Usage, rules: &[Rule]) -> Option<Cause> {
    let is_used_up = |resource, used: u64, own: u64| {
        let of = |rule: &&Rule| rule.resource() == resource;
        let most = rules.iter().filter(of).map(Rule::amount).min();
        most.is_some_and(|most| used.saturating_add(own) >= most)
    };
    match WaitStatus::from_raw(Pid::from_raw(1), status).ok()? {
        WaitStatus::Signaled(_, Signal::SIGKILL, _) => {
            let memory = is_used_up(Resource::MemoryUse, account.memoryuse_bytes, ENVD_MEMORY);
            memory.then_some(Cause::OutOfMemory)
        }
        WaitStatus::Exited(_, 0) => None,
        WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
            let processes = is_used_up(Resource::MaxProc, account.maxproc, ENVD_PROCESSES);
            let threads = is_used_up(Resource::NThr, account.nthr, ENVD_THREADS);
            (processes || threads).then_some(Cause::ProcessLimit)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend::JailOptions, limits::Limits, sandbox::SandboxId};

    const MIB: u64 = 1 << 20;
    const KILLED: i32 = 9;
    const ABORTED: i32 = 6;
    const FAILED: i32 = 101 << 8;

    fn rules() -> Vec<Rule> {
        let limits =
            Limits { cpus: 1, memory_bytes: 512 * MIB, processes: 100, ..Limits::default() };
        super::super::limits::rules(SandboxId::random(), limits, JailOptions::default()).unwrap()
    }

    fn account(memory: u64, processes: u64, threads: u64) -> Usage {
        Usage {
            memoryuse_bytes: memory * MIB,
            maxproc: processes,
            nthr: threads,
            ..Usage::default()
        }
    }

    #[test]
    fn who_is_killed_while_the_memory_is_used_up_was_killed_for_that() {
        let cases = [
            (KILLED, 640, Some(Cause::OutOfMemory)),
            // With envd reaped by somebody else.
            (KILLED, 512, Some(Cause::OutOfMemory)),
            (KILLED, 511, None),
            (FAILED, 640, None),
            (ABORTED, 640, None),
            (0, 640, None),
        ];
        for (status, memory, expected) in cases {
            let found = cause(status, &account(memory, 3, 9), &rules());
            assert_eq!(found, expected, "{status}, {memory} MiB");
        }
        assert_eq!(cause(KILLED, &account(640, 3, 9), &[]), None);
    }

    #[test]
    fn who_fails_where_nothing_more_may_be_started_failed_for_that() {
        // 101 processes, and 8 threads for each.
        let cases = [
            (FAILED, 101, 300, Some(Cause::ProcessLimit)),
            (ABORTED, 100, 300, Some(Cause::ProcessLimit)),
            (ABORTED, 10, 808, Some(Cause::ProcessLimit)),
            (ABORTED, 10, 808 - ENVD_THREADS, Some(Cause::ProcessLimit)),
            (FAILED, 99, 807 - ENVD_THREADS, None),
            (KILLED, 101, 808, None),
            (0, 101, 808, None),
        ];
        for (status, processes, threads, expected) in cases {
            let found = cause(status, &account(100, processes, threads), &rules());
            assert_eq!(found, expected, "{status}, {processes} processes, {threads} threads");
        }
    }
}
