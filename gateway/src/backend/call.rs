//! Naming the system call, its object and errno in one go.

use std::{fmt::Display, io};

use crate::backend::Error;

pub(super) trait Call<T> {
    fn call(self, call: &'static str, target: impl Display) -> Result<T, Error>;
}

impl<T> Call<T> for io::Result<T> {
    fn call(self, call: &'static str, target: impl Display) -> Result<T, Error> {
        self.map_err(|source| Error::Call { call, target: target.to_string(), source })
    }
}

impl<T> Call<T> for nix::Result<T> {
    fn call(self, call: &'static str, target: impl Display) -> Result<T, Error> {
        self.map_err(io::Error::from).call(call, target)
    }
}
