//! FreeBSD's resource accounting, seen from Rust.
//!
//! Owns the calls into the kernel; what a limit or a figure means to a sandbox is the
//! gateway's business.

use std::io;

/// Whether the kernel keeps resource accounts: the loader tunable `kern.racct.enable`, racct(4).
///
/// # Errors
/// `ENOENT` when the kernel was built without `options RACCT`; on systems other than FreeBSD
/// always `ENOSYS`.
pub fn racct_enabled() -> io::Result<bool> {
    host::racct_enabled()
}

#[cfg(target_os = "freebsd")]
mod host {
    use std::{io, ptr};

    pub(super) fn racct_enabled() -> io::Result<bool> {
        let mut value: libc::c_int = 0;
        let mut len = size_of_val(&value);
        // SAFETY: the name is NUL-terminated, `value` and `len` live across the call and `len`
        // is the size of `value`; no new value is set.
        let rc = unsafe {
            libc::sysctlbyname(
                c"kern.racct.enable".as_ptr(),
                (&raw mut value).cast(),
                &raw mut len,
                ptr::null(),
                0,
            )
        };
        if rc == 0 { Ok(value != 0) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(not(target_os = "freebsd"))]
mod host {
    use std::io;

    pub(super) fn racct_enabled() -> io::Result<bool> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }
}

#[cfg(all(test, not(target_os = "freebsd")))]
mod tests {
    #[test]
    fn without_racct_the_answer_is_enosys() {
        let error = super::racct_enabled().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
    }
}
