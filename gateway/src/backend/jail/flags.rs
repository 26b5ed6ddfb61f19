//! File flags, chflags(2), which a sandbox's user can put on his own files.

#![allow(unsafe_code)]

use std::{ffi::CString, os::unix::ffi::OsStrExt, path::Path};

/// Nothing in a sandbox's directory is a file system of its own once the sandbox has ended: what
/// was mounted there is unmounted.
pub fn remove_whole(_path: &Path) -> bool {
    false
}

/// Takes off what keeps even root from removing a file or directory (`uchg`, `uappnd`, `uunlnk`);
/// follows no link. Says whether it could.
pub fn unlock(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the path is NUL-terminated and lives for the call.
    unsafe { libc::lchflags(path.as_ptr(), 0) == 0 }
}
