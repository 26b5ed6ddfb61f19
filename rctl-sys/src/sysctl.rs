//! Values of sysctl(8) by name: sysctl(3).
//!
//! May be called from any thread; allocates.

use std::{ffi::CString, io};

use crate::{Error, options::until_nul, sys};

/// No value that is asked for here is longer.
const MOST: usize = 64 << 10;

/// A string. `None` when the kernel has no such name.
///
/// # Errors
/// As sysctl(3) says.
pub fn string(name: &str) -> Result<Option<String>, Error> {
    let value = value(name)?;
    Ok(value.map(|value| String::from_utf8_lossy(until_nul(&value)).into_owned()))
}

/// An integer of 1, 2, 4 or 8 bytes, with its sign. `None` when the kernel has no such name.
///
/// # Errors
/// As sysctl(3) says; when the value has another size.
pub fn integer(name: &str) -> Result<Option<i64>, Error> {
    let Some(value) = value(name)? else {
        return Ok(None);
    };
    let size = value.len();
    let integer = from_native(&value).ok_or_else(|| {
        let error = io::Error::new(io::ErrorKind::InvalidData, format!("no integer: {size} bytes"));
        Error::new("sysctlbyname", name, error)
    })?;
    Ok(Some(integer))
}

/// Whether the kernel keeps resource accounts: the loader tunable `kern.racct.enable`, racct(4).
/// `None` when it was built without `options RACCT`.
///
/// # Errors
/// As sysctl(3) says.
pub fn racct_enabled() -> Result<Option<bool>, Error> {
    Ok(integer("kern.racct.enable")?.map(|value| value != 0))
}

/// Whether the kernel has a feature, such as `vimage`, `racct` or `rctl`: `kern.features`.
///
/// # Errors
/// As sysctl(3) says.
pub fn feature(name: &str) -> Result<bool, Error> {
    Ok(integer(&format!("kern.features.{name}"))?.is_some_and(|value| value != 0))
}

/// Whether this process is in a jail: `security.jail.jailed`, jail(8).
///
/// # Errors
/// As sysctl(3) says.
pub fn jailed() -> Result<bool, Error> {
    Ok(integer("security.jail.jailed")?.is_some_and(|value| value != 0))
}

/// The bytes of a value, such as `kern.boot_id`. `None` when the kernel has no such name.
///
/// # Errors
/// As sysctl(3) says.
pub fn bytes(name: &str) -> Result<Option<Vec<u8>>, Error> {
    value(name)
}

/// The bytes of a value.
pub(crate) fn value(name: &str) -> Result<Option<Vec<u8>>, Error> {
    let failed = |error| Error::new("sysctlbyname", name.escape_debug().to_string(), error);
    let c_name = CString::new(name)
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    match whole(MOST, |buffer| sys::sysctl_by_name(&c_name, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Asks for the length and then for the value, again while it has grown in between.
pub(crate) fn whole(
    most: usize,
    mut ask: impl FnMut(Option<&mut [u8]>) -> io::Result<usize>,
) -> io::Result<Vec<u8>> {
    let mut room = ask(None)?;
    loop {
        let mut buffer = vec![0; room.min(most)];
        match ask(Some(&mut buffer)) {
            Ok(len) => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && room < most => {
                room = room.saturating_mul(2).max(1024);
            }
            Err(error) => return Err(error),
        }
    }
}

fn from_native(bytes: &[u8]) -> Option<i64> {
    Some(match *bytes {
        [byte] => i64::from(i8::from_ne_bytes([byte])),
        [a, b] => i64::from(i16::from_ne_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_ne_bytes([a, b, c, d])),
        _ => i64::from_ne_bytes(bytes.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_memory() -> io::Error {
        io::Error::from_raw_os_error(libc::ENOMEM)
    }

    #[test]
    fn integers_of_every_size_keep_their_sign() {
        assert_eq!(from_native(&[0xff]), Some(-1));
        assert_eq!(from_native(&(-2_i16).to_ne_bytes()), Some(-2));
        assert_eq!(from_native(&7_i32.to_ne_bytes()), Some(7));
        assert_eq!(from_native(&i64::MIN.to_ne_bytes()), Some(i64::MIN));
        assert_eq!(from_native(&[]), None);
        assert_eq!(from_native(&[0; 3]), None);
        assert_eq!(from_native(&[0; 16]), None);
    }

    #[test]
    fn a_value_that_grows_while_it_is_asked_for_is_asked_for_again() {
        let mut asked = 0;
        let value = whole(1 << 20, |buffer| {
            asked += 1;
            match buffer {
                None => Ok(10),
                Some(buffer) if buffer.len() < 3000 => Err(no_memory()),
                Some(buffer) => {
                    buffer[..3000].fill(7);
                    Ok(3000)
                }
            }
        });
        assert_eq!((value.unwrap(), asked), (vec![7; 3000], 5));
    }

    #[test]
    fn a_value_that_never_fits_is_given_up() {
        let mut largest = 0;
        let value = whole(10_000, |buffer| match buffer {
            None => Ok(usize::MAX / 2),
            Some(buffer) => {
                largest = largest.max(buffer.len());
                Err(no_memory())
            }
        });
        assert_eq!((value.unwrap_err().raw_os_error(), largest), (Some(libc::ENOMEM), 10_000));
    }

    #[cfg(not(target_os = "freebsd"))]
    #[test]
    fn elsewhere_the_answer_is_enosys() {
        let error = racct_enabled().unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOSYS));
        assert!(error.to_string().starts_with("sysctlbyname(kern.racct.enable): "), "{error}");
        assert_eq!(string("kern.osrelease").unwrap_err().errno(), Some(libc::ENOSYS));
    }
}
