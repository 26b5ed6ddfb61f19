//! What a pause keeps of a sandbox, and what of that is on the disk.

use chrono::{DateTime, Utc};

use super::layers::Kept;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Marks {
    kept: Option<Kept>,
    /// Counts whatever may change its files: a flush is of what they were at one of these.
    stirred: u64,
    /// What is kept is known to be on the disk with its record.
    flushed: bool,
    /// It is told as paused, and its processes are still being ended.
    ends: bool,
}

impl Marks {
    pub(super) fn keep(&mut self, kept: Option<Kept>) {
        self.count();
        (self.kept, self.ends) = (kept, false);
    }

    /// As [`Self::keep`], of one whose processes may write until they [have ended](Self::has_ended).
    pub(super) fn keep_files(&mut self, kept: Kept) {
        self.keep(Some(kept));
        self.ends = true;
    }

    pub(super) fn has_ended(&mut self) {
        self.ends = false;
    }

    pub(super) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut Kept) -> T) -> Option<T> {
        self.kept.as_mut().map(change)
    }

    /// Its processes are about to go on: what was flushed is soon not what its files are.
    pub(super) fn stir(&mut self) {
        self.count();
        if let Some(kept) = &mut self.kept {
            kept.durable_at = None;
        }
    }

    fn count(&mut self) {
        self.stirred += 1;
        self.flushed = false;
    }

    /// What a flush that begins now is of, and since when its files are on the disk where only
    /// their record may not be; `None` where there is nothing to flush.
    pub(super) fn unflushed(&self) -> Option<(u64, Option<DateTime<Utc>>)> {
        let kept = self.kept.as_ref().filter(|_| !self.flushed && !self.ends)?;
        Some((self.stirred, kept.durable_at))
    }

    /// The files that a flush was of are on the disk since then, which its record is to say;
    /// `false` where they may be others by now.
    pub(super) fn files_flushed(&mut self, stirred: u64, at: DateTime<Utc>) -> bool {
        let same = self.is_of(stirred);
        if let Some(kept) = self.kept.as_mut().filter(|_| same) {
            kept.durable_at = Some(at);
        }
        same
    }

    /// So is its record.
    pub(super) fn flushed(&mut self, stirred: u64) -> bool {
        let same = self.is_of(stirred);
        self.flushed |= same;
        same
    }

    /// It is not to be had: whoever still is at it is not to go on.
    pub(super) fn not_flushed(&mut self, stirred: u64) {
        if self.is_of(stirred) {
            self.stir();
        }
    }

    /// What is kept is what it was then.
    pub(super) fn is_of(&self, stirred: u64) -> bool {
        self.stirred == stirred && self.kept.is_some()
    }

    /// Since when all of it is on the disk.
    pub(super) fn durable_at(&self) -> Option<DateTime<Utc>> {
        self.kept.as_ref().filter(|_| self.flushed)?.durable_at
    }

    /// As if it had only just been counted.
    #[cfg(test)]
    pub(super) fn recount(&mut self) {
        self.stirred = 1;
    }
}
