//! What a sandbox may use, as rules of rctl(8).

use rctl_sys::rule::{Action, Filter, Resource, Rule, Signal, Subject};

use crate::{
    backend::{Error, JailOptions},
    limits::{Limit, Limits},
    sandbox::SandboxId,
};

/// What envd may use beside the sandbox's own processes; it is in the same jail.
pub(super) const ENVD_MEMORY: u64 = 128 << 20;
pub(super) const ENVD_PROCESSES: u64 = 1;
/// As many as it has when much is asked of it at once.
pub(super) const ENVD_THREADS: u64 = 16;

/// Threads to a process. FreeBSD: `maxproc` counts no threads, and each has a kernel stack.
const THREADS: u64 = 8;

/// Of all processes together, where nothing is said; a host's whole table is some hundred thousand.
const OPEN_FILES: u64 = 65_536;

/// Percent of one core below its limit at which the kernel begins to hold a jail back:
/// `RCTL_PCPU_SHIFT` in sys/kern/kern_rctl.c.
const HELD_EARLY: u64 = 10;

/// Whether rules of a jail bound that, or what its root is made of. Nothing does what it sends and
/// receives: disciplines of altq(4) need a kernel of one's own, and the pipes of dummynet(4) would
/// have to be made for each sandbox by dnctl(8).
pub(super) fn enforced(limit: Limit) -> bool {
    // Anonymous memory, on the swap or not, is bounded as one: `swapuse`.
    !matches!(limit, Limit::Swap | Limit::NetIn | Limit::NetOut)
}

/// The jail of a sandbox, as the subject of rules.
pub(super) fn subject(id: SandboxId) -> Result<Subject, Error> {
    Subject::jail(&id.cell_name()).map_err(|invalid| Error::Unsupported(invalid.to_string()))
}

/// All rules of a sandbox.
pub(super) fn all_of(id: SandboxId) -> Result<Filter, Error> {
    subject(id).map(Filter::of)
}

/// The rule that bounds its processes.
pub(super) fn processes(id: SandboxId, amount: u64) -> Result<Rule, Error> {
    rule(id, Resource::MaxProc, Action::Deny, amount)
}

/// What that rule allows a sandbox.
pub(super) fn most_processes(limits: Limits) -> u64 {
    limits.processes.saturating_add(ENVD_PROCESSES)
}

/// The rules of a sandbox.
///
/// * `memoryuse`, resident memory, is looked at by the kernel once a second (`vm_daemon`,
///   sys/vm/vm_swapout.c), and whose process is over the limit then is killed. `deny` does nothing
///   there: 300 MB were seen under a limit of 200.
/// * `swapuse` is anonymous memory that was asked for, used or not, and is refused at once. Twice
///   the memory leaves room for a fork of a process with half of it, and bounds what can be taken
///   within that second.
/// * `pcpu` is a second bound only: the jail's cpuset is the first, and exact.
///
/// Those that have to be asked for:
///
/// * `vmemoryuse` is address space, refused at once. Node, Go and the JVM reserve far more of it
///   than they use, and do not start where they cannot.
/// * `readbps` and `writebps` are throttled, as the kernel cannot refuse them: whoever is over the
///   rate sleeps, at most two seconds at a time (`rctl_enforce`, sys/kern/kern_rctl.c), and cannot
///   be stopped or killed meanwhile (`racct_proc_throttled`, sys/kern/kern_racct.c).
pub(super) fn rules(
    id: SandboxId,
    limits: Limits,
    options: JailOptions,
) -> Result<Vec<Rule>, Error> {
    let deny = Action::Deny;
    let resident = limits.memory_bytes.saturating_add(ENVD_MEMORY);
    let asked_for = limits.memory_bytes.saturating_mul(2).saturating_add(ENVD_MEMORY);
    let processes = most_processes(limits);
    let cpu = u64::from(limits.cpus).saturating_mul(100).saturating_add(2 * HELD_EARLY);
    let always = [
        (Resource::MemoryUse, Action::Signal(Signal::Kill), resident),
        (Resource::SwapUse, deny, asked_for),
        (Resource::MaxProc, deny, processes),
        (Resource::NThr, deny, processes.saturating_mul(THREADS)),
        (Resource::OpenFiles, deny, limits.open_files.unwrap_or(OPEN_FILES)),
        (Resource::PCpu, deny, cpu),
    ];
    let throttle = Action::Throttle;
    let addresses = options.vmemory_bytes.map(|bytes| bytes.saturating_add(ENVD_MEMORY));
    let least = |of_all: Option<u64>, own: Option<u64>| of_all.into_iter().chain(own).min();
    let asked_for = [
        (Resource::VMemoryUse, deny, addresses),
        (Resource::ReadBps, throttle, least(options.read_bps, limits.disk_read)),
        (Resource::WriteBps, throttle, least(options.write_bps, limits.disk_write)),
    ];
    let asked_for = asked_for.into_iter().filter_map(|(what, how, most)| Some((what, how, most?)));
    let rule = |(resource, action, amount)| rule(id, resource, action, amount);
    always.into_iter().chain(asked_for).map(rule).collect()
}

fn rule(id: SandboxId, resource: Resource, action: Action, amount: u64) -> Result<Rule, Error> {
    Rule::new(subject(id)?, resource, action, amount)
        .map_err(|invalid| Error::Unsupported(invalid.to_string()))
}
