//! What files of a store are called.
//!
//! ```text
//! events.jsonl                 what happens is written to
//! events.00000041.jsonl        put aside, and about to be compressed
//! events.00000040.jsonl.gz     compressed: members of gzip, each of them whole lines
//! events.00000040.index        what is in which member; made anew where it is missing
//! *.new                        not finished, and removed at the start
//! lock                         held by whoever writes here
//! ```

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

/// A store's directory.
#[derive(Clone, Debug)]
pub(super) struct Names(pub(super) PathBuf);

/// What there is of one that was put aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Aside {
    pub(super) plain: bool,
    pub(super) zipped: bool,
}

impl Names {
    pub(super) fn current(&self) -> PathBuf {
        self.0.join("events.jsonl")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(super) fn plain(&self, number: u64) -> PathBuf {
        self.0.join(format!("events.{number:08}.jsonl"))
    }

    pub(super) fn zipped(&self, number: u64) -> PathBuf {
        self.0.join(format!("events.{number:08}.jsonl.gz"))
    }

    pub(super) fn index(&self, number: u64) -> PathBuf {
        self.0.join(format!("events.{number:08}.index"))
    }

    /// What it is called until it is finished.
    pub(super) fn unfinished(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        name.into()
    }

    /// Those put aside, by their numbers; and removes what was not finished.
    pub(super) fn look(&self) -> io::Result<BTreeMap<u64, Aside>> {
        let mut found: BTreeMap<u64, Aside> = BTreeMap::new();
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().and_then(|name| name.strip_prefix("events.")) else {
                continue;
            };
            if name.ends_with(".new") {
                fs::remove_file(self.0.join(format!("events.{name}")))?;
                continue;
            }
            let Some((number, kind)) = name.split_once('.') else { continue };
            let Ok(number) = number.parse() else { continue };
            match kind {
                "jsonl" => found.entry(number).or_default().plain = true,
                "jsonl.gz" => found.entry(number).or_default().zipped = true,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Removes whatever there is of one.
    pub(super) fn remove(&self, number: u64) {
        for path in [self.plain(number), self.zipped(number), self.index(number)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("events: {} cannot be removed: {error}", path.display());
                }
                _ => {}
            }
        }
    }
}
