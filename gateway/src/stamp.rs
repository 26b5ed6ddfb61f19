//! Whether a file is still what it was when it was looked at last.

use std::{fs, os::unix::fs::MetadataExt, path::Path, time::SystemTime};

/// What tells one content of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(SystemTime, u64, u64);

impl Stamp {
    /// `None` where there is none.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let about = fs::metadata(path).ok()?;
        Some(Self(about.modified().ok()?, about.len(), about.ino()))
    }
}
