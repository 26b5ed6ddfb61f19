//! Names with values, as jail_set(2), jail_get(2) and nmount(2) take them: pairs of iovecs.
//!
//! The kernel reads both by the same code (`vfs_buildopts`, sys/kern/vfs_mount.c): a name ends with
//! a NUL, a string too; a boolean has no value; of two of one name the last counts.

use std::{ffi::CString, io};

/// The kernel cuts what it says to this.
const ERRMSG: usize = 256;

/// Pairs to hand to the kernel, which may write into the values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) pairs: Vec<Pair>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) name: CString,
    pub(crate) value: Option<Vec<u8>>,
}

impl Options {
    /// None but `errmsg`, into which the kernel writes what it has to say of an error.
    pub(crate) fn new() -> Self {
        let errmsg = Pair { name: c"errmsg".to_owned(), value: Some(vec![0; ERRMSG]) };
        Self { pairs: vec![errmsg] }
    }

    pub(crate) fn push(&mut self, name: &str, value: Option<Vec<u8>>) -> io::Result<()> {
        let name = CString::new(name)
            .map_err(|_| invalid(format!("a NUL in the name of an option: {name:?}")))?;
        self.pairs.push(Pair { name, value });
        Ok(())
    }

    /// A string, with the NUL that the kernel insists on.
    pub(crate) fn push_text(&mut self, name: &str, value: &[u8]) -> io::Result<()> {
        if value.contains(&0) {
            return Err(invalid(format!("a NUL in the value of {name}")));
        }
        let mut value = value.to_vec();
        value.push(0);
        self.push(name, Some(value))
    }

    /// What the kernel wrote for one.
    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        let pair = self.pairs.iter().find(|pair| pair.name.as_bytes() == name.as_bytes())?;
        pair.value.as_deref()
    }

    /// What the kernel said of an error, if it said something.
    pub(crate) fn errmsg(&self) -> Option<String> {
        let text = until_nul(self.value("errmsg")?);
        (!text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
    }
}

/// A C string in a buffer that may be longer.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_with_a_nul_and_booleans_have_no_value() {
        let mut options = Options::new();
        options.push_text("path", b"/jail").unwrap();
        options.push("persist", None).unwrap();
        assert_eq!(options.value("path"), Some(&b"/jail\0"[..]));
        assert_eq!(options.pairs[2], Pair { name: c"persist".to_owned(), value: None });
    }

    #[test]
    fn a_nul_inside_is_refused_rather_than_cut() {
        let mut options = Options::new();
        assert!(options.push_text("path", b"/jail\0/etc").is_err());
        assert!(options.push("per\0sist", None).is_err());
        assert_eq!(options.pairs.len(), 1);
    }

    #[test]
    fn what_the_kernel_said_is_read_up_to_its_nul() {
        let mut options = Options::new();
        assert_eq!(options.errmsg(), None);
        let buffer = options.pairs[0].value.as_mut().unwrap();
        buffer[..8].copy_from_slice(b"no jail!");
        assert_eq!(options.errmsg().as_deref(), Some("no jail!"));
    }
}
