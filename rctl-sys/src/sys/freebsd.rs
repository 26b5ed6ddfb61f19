//! The system calls on FreeBSD. All symbols are of libc, none newer than FBSD_1.6.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    io, ptr,
};

use super::Rctl;
use crate::{abi, options::Options};

// The libc crate has all the others.
unsafe extern "C" {
    fn rctl_get_racct(i: *const c_char, ilen: usize, o: *mut c_char, olen: usize) -> c_int;
    fn rctl_get_rules(i: *const c_char, ilen: usize, o: *mut c_char, olen: usize) -> c_int;
    fn rctl_get_limits(i: *const c_char, ilen: usize, o: *mut c_char, olen: usize) -> c_int;
    fn rctl_add_rule(i: *const c_char, ilen: usize, o: *mut c_char, olen: usize) -> c_int;
    fn rctl_remove_rule(i: *const c_char, ilen: usize, o: *mut c_char, olen: usize) -> c_int;
}

// What the headers were compared with is what the libc crate passes.
const _: () = assert!(size_of::<libc::statfs>() == abi::STATFS_SIZE);
const _: () = assert!(size_of::<libc::iovec>() == abi::IOVEC_SIZE);
const _: () = assert!(libc::MNT_FORCE == abi::MNT_FORCE && libc::MNT_BYFSID == abi::MNT_BYFSID);

fn check(rc: c_int) -> io::Result<c_int> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

pub(crate) fn rctl(call: Rctl, input: &CStr, output: &mut [u8]) -> io::Result<()> {
    let function = match call {
        Rctl::GetRacct => rctl_get_racct,
        Rctl::GetRules => rctl_get_rules,
        Rctl::GetLimits => rctl_get_limits,
        Rctl::AddRule => rctl_add_rule,
        Rctl::RemoveRule => rctl_remove_rule,
    };
    let given = input.to_bytes_with_nul();
    // SAFETY: the prototypes are those of sys/rctl.h. `given` is read up to its length, `output`
    // written up to its own; both live across the call.
    let rc = unsafe {
        function(given.as_ptr().cast(), given.len(), output.as_mut_ptr().cast(), output.len())
    };
    check(rc).map(drop)
}

/// Calls with pairs of iovecs; what the kernel says of the length of a value is what the value has
/// after that.
fn with_iovecs(
    options: &mut Options,
    call: impl FnOnce(*mut libc::iovec, c_uint) -> c_int,
) -> io::Result<c_int> {
    let mut iovecs = Vec::with_capacity(2 * options.pairs.len());
    for pair in &mut options.pairs {
        let name = pair.name.as_bytes_with_nul();
        iovecs.push(libc::iovec {
            // Names are read only.
            iov_base: name.as_ptr().cast_mut().cast::<c_void>(),
            iov_len: name.len(),
        });
        iovecs.push(match &mut pair.value {
            Some(value) => {
                libc::iovec { iov_base: value.as_mut_ptr().cast(), iov_len: value.len() }
            }
            None => libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
        });
    }
    let count = c_uint::try_from(iovecs.len()).map_err(io::Error::other)?;
    let answer = check(call(iovecs.as_mut_ptr(), count));
    for (pair, iovecs) in options.pairs.iter_mut().zip(iovecs.chunks_exact(2)) {
        if let Some(value) = &mut pair.value {
            value.truncate(iovecs[1].iov_len);
        }
    }
    answer
}

pub(crate) fn jail_set(options: &mut Options, flags: i32) -> io::Result<i32> {
    // SAFETY: `with_iovecs` passes as many iovecs as it says, into buffers that outlive the call.
    with_iovecs(options, |iovecs, count| unsafe { libc::jail_set(iovecs, count, flags) })
}

pub(crate) fn jail_get(options: &mut Options, flags: i32) -> io::Result<i32> {
    // SAFETY: as above; a value is written up to the length that was given for it.
    with_iovecs(options, |iovecs, count| unsafe { libc::jail_get(iovecs, count, flags) })
}

pub(crate) fn jail_attach(jid: i32) -> io::Result<()> {
    // SAFETY: takes a number only.
    check(unsafe { libc::jail_attach(jid) }).map(drop)
}

pub(crate) fn jail_remove(jid: i32) -> io::Result<()> {
    // SAFETY: takes a number only.
    check(unsafe { libc::jail_remove(jid) }).map(drop)
}

pub(crate) fn nmount(options: &mut Options, flags: i32) -> io::Result<()> {
    // SAFETY: as for jail_set(2).
    with_iovecs(options, |iovecs, count| unsafe { libc::nmount(iovecs, count, flags) }).map(drop)
}

pub(crate) fn unmount(path: &CStr, flags: i32) -> io::Result<()> {
    // SAFETY: the path ends with a NUL and outlives the call.
    check(unsafe { libc::unmount(path.as_ptr(), flags) }).map(drop)
}

/// How many are mounted (without a buffer) or were written into the buffer.
pub(crate) fn getfsstat(buffer: Option<&mut [u8]>, mode: i32) -> io::Result<usize> {
    let (start, len) = out(buffer);
    let len = libc::c_long::try_from(len).map_err(io::Error::other)?;
    // SAFETY: `len` bytes from `start` are ours to be written, or `start` is null. The kernel
    // copies bytes, so that they need no alignment.
    let count = check(unsafe { libc::getfsstat(start.cast(), len, mode) })?;
    usize::try_from(count).map_err(io::Error::other)
}

pub(crate) fn statfs(path: &CStr, buffer: &mut [u8]) -> io::Result<()> {
    if buffer.len() < abi::STATFS_SIZE {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the path ends with a NUL; the buffer holds a whole `struct statfs`, as just asked.
    check(unsafe { libc::statfs(path.as_ptr(), buffer.as_mut_ptr().cast()) }).map(drop)
}

/// The bytes that were written, or that there are to write where there is no buffer.
pub(crate) fn sysctl(name: &[i32], buffer: Option<&mut [u8]>) -> io::Result<usize> {
    let (start, mut len) = out(buffer);
    let parts = c_uint::try_from(name.len()).map_err(io::Error::other)?;
    // SAFETY: `name` has that many parts, `len` bytes from `start` are ours to be written (or
    // `start` is null, for the length only); no new value is set.
    check(unsafe { libc::sysctl(name.as_ptr(), parts, start, &raw mut len, ptr::null(), 0) })?;
    Ok(len)
}

/// As [`sysctl`].
pub(crate) fn sysctl_by_name(name: &CStr, buffer: Option<&mut [u8]>) -> io::Result<usize> {
    let (start, mut len) = out(buffer);
    // SAFETY: as in `sysctl`; the name ends with a NUL.
    check(unsafe { libc::sysctlbyname(name.as_ptr(), start, &raw mut len, ptr::null(), 0) })?;
    Ok(len)
}

fn out(buffer: Option<&mut [u8]>) -> (*mut c_void, usize) {
    match buffer {
        Some(buffer) => (buffer.as_mut_ptr().cast(), buffer.len()),
        None => (ptr::null_mut(), 0),
    }
}
