//! What a system call that failed says: its name, what it was asked, what the kernel said of it,
//! and `errno`.

use std::{error, fmt, io};

/// A system call that failed.
#[derive(Debug)]
pub struct Error {
    call: &'static str,
    argument: String,
    message: Option<String>,
    source: io::Error,
}

impl Error {
    pub(crate) fn new(call: &'static str, argument: impl Into<String>, source: io::Error) -> Self {
        Self { call, argument: argument.into(), message: None, source }
    }

    /// With the words that jail_set(2), jail_get(2) or nmount(2) left in `errmsg`.
    pub(crate) fn with_message(mut self, message: Option<String>) -> Self {
        self.message = message;
        self
    }

    /// The system call, such as `jail_set`.
    #[must_use]
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// The kernel's own words, where it had some: `errmsg` of jail(2) and nmount(2).
    #[must_use]
    pub fn kernel_message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// `errno`, where the kernel refused; `None` where this crate did not even ask it.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}): ", self.call, self.argument)?;
        if let Some(message) = &self.message {
            write!(f, "{message}: ")?;
        }
        write!(f, "{}", self.source)
    }
}

impl error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.source.kind(), error)
    }
}
