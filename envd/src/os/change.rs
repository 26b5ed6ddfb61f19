//! What watched directories tell, whichever the system.

use std::{io, path::PathBuf};

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Created,
    Written,
    Attributes,
    Removed,
    /// The cookie pairs it with the arrival under a new name, if that is watched too.
    Left(Option<usize>),
    Arrived(Option<usize>),
    /// A watched directory itself was moved; its parent tells the same, unless it is the root.
    Moved,
}

/// What has become of that path, or why nothing more is told.
pub(crate) type Told = Result<(PathBuf, Change), String>;

/// Why a directory is not watched.
#[derive(Debug)]
pub(crate) enum Unwatched {
    /// It is not there, or is no directory.
    Gone,
    /// What there is too little of.
    OutOf(String),
    Io(io::Error),
}

impl From<io::Error> for Unwatched {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Gone,
            _ => Self::Io(error),
        }
    }
}
