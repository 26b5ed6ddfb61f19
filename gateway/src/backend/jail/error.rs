//! Naming the system call, its object and errno in one go.

use std::{fmt::Display, io};

use crate::backend::Error;
pub(super) use crate::backend::call::Call;

/// Of `rctl-sys`, which names the system call, its arguments and errno itself.
pub(super) trait Kernel<T> {
    fn to(self, purpose: &'static str, target: impl Display) -> Result<T, Error>;
}

impl<T> Kernel<T> for Result<T, rctl_sys::Error> {
    fn to(self, purpose: &'static str, target: impl Display) -> Result<T, Error> {
        self.map_err(io::Error::from).call(purpose, target)
    }
}
