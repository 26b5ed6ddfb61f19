//! What the kernel has counted for all sandboxes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rctl_sys::{process, rctl, sysctl};
use tracing::error;

use super::{cpu_time, error::Kernel, freezing, jails::Inner, layers, limits};
use crate::{
    backend::{Error, Usage},
    sandbox::SandboxId,
};

/// Whether the kernel accounts for jails now: racct(4). [`Host`](super::Host) does not begin where
/// it does not.
pub fn racct_enabled() -> bool {
    matches!(sysctl::racct_enabled(), Ok(Some(true)))
}

/// Without a process of its own; one look at the process table, and two system calls and a look at
/// a file or two for each sandbox.
pub(super) fn sweep(inner: &Inner) -> Result<BTreeMap<SandboxId, Usage>, Error> {
    let mut usage = BTreeMap::new();
    let jails = inner.jails()?;
    let table = process::all().to("list", "processes");
    // Without it the seconds of the accounts are left.
    let table = table.inspect_err(|error| error!(%error, "CPU time in whole seconds only"));
    let spent = table.map(|table| cpu_time::by_jail(&table)).unwrap_or_default();
    let (mut clocks, mut disks) = (inner.clocks.lock(), inner.disks.lock());
    for (id, jail) in jails {
        if jail.dying {
            continue;
        }
        let read = rctl::get_racct(&limits::subject(id)?).to("read the account of", id);
        let account = match read {
            // Without a process it has ended since it was listed: its account is another's.
            Ok(account) if account.maxproc == 0 => continue,
            Ok(account) => account,
            Err(error) => {
                error!(sandbox = %id, %error, "no figures of a sandbox");
                continue;
            }
        };
        // FreeBSD: the kernel's figure takes tens of seconds to fall.
        let frozen = freezing::is_marked(&inner.directory(id));
        let percent = if frozen { 0 } else { account.pcpu_percent };
        let at = Instant::now();
        let (read, written) = (account.readbps_bytes_per_second, account.writebps_bytes_per_second);
        usage.insert(
            id,
            Usage {
                at,
                cpu: clocks.read(
                    id,
                    Duration::from_secs(account.cputime_seconds),
                    spent.get(&jail.jid.raw()).copied(),
                    inner.cpus.count(),
                ),
                // Percent of one core: far below where a float is no longer exact.
                cpu_percent: Some(f64::from(u32::try_from(percent).unwrap_or(u32::MAX))),
                memory_bytes: account.memoryuse_bytes,
                cache_bytes: 0,
                disk_bytes: layers::used(inner, id),
                processes: account.maxproc,
                network: None,
                block: Some(disks.add(id, at, read, written)),
            },
        );
    }
    let there = usage.keys().copied().collect();
    clocks.keep(&there);
    disks.keep(&there);
    match inner.network.traffic(&there) {
        Ok(traffic) => {
            for (id, usage) in &mut usage {
                usage.network = traffic.get(id).copied();
            }
        }
        Err(error) => error!(%error, "what goes over links cannot be told"),
    }
    Ok(usage)
}
