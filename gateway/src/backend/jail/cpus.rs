//! cpuset(2): the CPUs there are for us, and those of a jail.

#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;
use rctl_sys::jail::Jid;

use super::error::Call;
use crate::backend::Error;

/// The sizes of a set (bytes) that kernels take: 14 and later have 1024 CPUs, 13 has 256, and each
/// says `ERANGE` to a set that is smaller than its own or larger than it knows
/// (`kern_cpuset_setaffinity` in sys/kern/kern_cpuset.c).
const SIZES: [usize; 2] = [128, 32];

type Set = [u64; SIZES[0] / 8];

/// Those the gateway may run on.
pub(super) fn ours() -> Result<Vec<u16>, Error> {
    let mut set: Set = [0; SIZES[0] / 8];
    in_some_size(|size| {
        // SAFETY: the kernel writes `size` bytes at most, which `set` has.
        unsafe {
            libc::cpuset_getaffinity(
                libc::CPU_LEVEL_WHICH,
                libc::CPU_WHICH_PID,
                -1,
                size,
                set.as_mut_ptr().cast(),
            )
        }
    })
    .call("cpuset_getaffinity", "CPU_LEVEL_WHICH of the gateway")?;
    let is_set = |cpu: &u16| set[usize::from(*cpu) / 64] >> (cpu % 64) & 1 == 1;
    Ok((0..1024_u16).filter(is_set).collect())
}

/// Bounds a jail, and whatever runs in it, to these. Root in the jail cannot widen it: it may not
/// change the root set of its jail (`cpuset_modify`).
pub(super) fn bind(jid: Jid, cpus: &[u16]) -> Result<(), Error> {
    let mut set: Set = [0; SIZES[0] / 8];
    for cpu in cpus {
        if let Some(word) = set.get_mut(usize::from(*cpu) / 64) {
            *word |= 1 << (cpu % 64);
        }
    }
    in_some_size(|size| {
        // SAFETY: the kernel reads `size` bytes at most, which `set` has.
        unsafe {
            libc::cpuset_setaffinity(
                libc::CPU_LEVEL_CPUSET,
                libc::CPU_WHICH_JAIL,
                libc::id_t::from(jid.raw()),
                size,
                set.as_ptr().cast(),
            )
        }
    })
    .call("cpuset_setaffinity", format!("CPU_LEVEL_CPUSET of jail {jid} to {cpus:?}"))
}

fn in_some_size(mut call: impl FnMut(usize) -> libc::c_int) -> io::Result<()> {
    let mut result = Err(Errno::ERANGE);
    for size in SIZES {
        result = Errno::result(call(size));
        if result != Err(Errno::ERANGE) {
            break;
        }
    }
    result.map(drop).map_err(io::Error::from)
}
