//! Values of sysctl(8) by name.

use std::io;

use crate::Error;

fn unsupported<T>(name: &str) -> Result<T, Error> {
    Err(Error::new("sysctlbyname", name, io::Error::from_raw_os_error(libc::ENOSYS)))
}

/// A string. `None` when the kernel has no such name.
///
/// # Errors
/// As sysctl(3) says.
pub fn string(name: &str) -> Result<Option<String>, Error> {
    unsupported(name)
}

/// An integer of 1, 2, 4 or 8 bytes. `None` when the kernel has no such name.
///
/// # Errors
/// As sysctl(3) says.
pub fn integer(name: &str) -> Result<Option<i64>, Error> {
    unsupported(name)
}

/// Whether the kernel keeps resource accounts: the loader tunable `kern.racct.enable`, racct(4).
///
/// # Errors
/// `ENOENT` when the kernel was built without `options RACCT`.
pub fn racct_enabled() -> Result<bool, Error> {
    let name = "kern.racct.enable";
    match integer(name)? {
        Some(value) => Ok(value != 0),
        None => Err(Error::new("sysctlbyname", name, io::Error::from_raw_os_error(libc::ENOENT))),
    }
}

/// Whether the kernel has a feature, such as `vimage`, `racct` or `rctl`: `kern.features`.
///
/// # Errors
/// As sysctl(3) says.
pub fn feature(name: &str) -> Result<bool, Error> {
    Ok(integer(&format!("kern.features.{name}"))?.is_some_and(|value| value != 0))
}

/// Whether this process is in a jail: `security.jail.jailed`.
///
/// # Errors
/// As sysctl(3) says.
pub fn jailed() -> Result<bool, Error> {
    Ok(integer("security.jail.jailed")?.is_some_and(|value| value != 0))
}
