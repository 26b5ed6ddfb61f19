//! The files that lines go to: one for each day of UTC, which only grows, by whole lines.
//!
//! One writer has the directory at a time. A line is a single write at the end of the file; what of
//! one did not get there, because the disk was full or the power went, is cut off again, so that no
//! reader ever meets half a line that stays.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use chrono::{DateTime, NaiveDate, Utc};

const SUFFIX: &str = "jsonl";
/// Held by the writer as long as it runs.
const LOCK: &str = ".lock";

pub(crate) struct Recording {
    dir: PathBuf,
    _lock: File,
    day: Option<(NaiveDate, File)>,
}

impl Recording {
    /// Takes the directory, makes it if need be, and repairs what was written last. Tells how many
    /// bytes that has cost.
    ///
    /// # Errors
    /// Another has it, or the file system's.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<(Self, u64)> {
        fs::create_dir_all(dir).with_context(|| format!("--out {}", dir.display()))?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("{}: another writes there", dir.display()),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        let lost = match last(dir)? {
            Some(last) => repair(&last).with_context(|| format!("repair {}", last.display()))?,
            None => 0,
        };
        Ok((Self { dir: dir.to_owned(), _lock: lock, day: None }, lost))
    }

    /// Adds a line of that instant.
    ///
    /// # Errors
    /// The file system's; nothing of the line is there then.
    pub(crate) fn add(&mut self, line: &[u8], at: DateTime<Utc>) -> anyhow::Result<()> {
        let day = at.date_naive();
        let path = self.dir.join(format!("{day}.{SUFFIX}"));
        if self.day.as_ref().is_none_or(|(open, _)| *open != day) {
            self.settle()?;
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(&path)
                .with_context(|| format!("open {}", path.display()))?;
            // So that its name is there after a power cut as well.
            File::open(&self.dir)
                .and_then(|dir| dir.sync_all())
                .with_context(|| format!("fsync {}", self.dir.display()))?;
            self.day = Some((day, file));
        }
        let Some((_, file)) = &mut self.day else { return Ok(()) };
        append(file, line).with_context(|| format!("write {}", path.display()))
    }

    /// Sees to it that all lines are on the disk.
    ///
    /// # Errors
    /// Of fsync(2).
    pub(crate) fn settle(&mut self) -> anyhow::Result<()> {
        if let Some((day, file)) = &self.day {
            file.sync_all().with_context(|| format!("fsync {day}.{SUFFIX}"))?;
        }
        Ok(())
    }
}

fn append(file: &mut File, line: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    let written = file.write(line)?;
    if written < line.len() {
        file.set_len(before)?;
        return Err(io::Error::new(io::ErrorKind::StorageFull, "only a part of the line fits"));
    }
    Ok(())
}

/// The latest day's file.
fn last(dir: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut last: Option<(NaiveDate, PathBuf)> = None;
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.with_context(|| format!("read {}", dir.display()))?.path();
        let day =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(day) = day
            && path.extension().is_some_and(|suffix| suffix == SUFFIX)
            && last.as_ref().is_none_or(|(latest, _)| *latest < day)
        {
            last = Some((day, path));
        }
    }
    Ok(last.map(|(_, path)| path))
}

/// Cuts off what follows the last whole line; returns how many bytes that was. After a power cut
/// zeroes may stand where the rest of a line, or several, should.
fn repair(path: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let mut end = length;
    // Where the lines that were looked at begin, from the last one on.
    while end > 0 {
        let begin = line_before(&file, end)?;
        let line = read(&file, begin, end)?;
        let whole = line.last() == Some(&b'\n')
            && serde_json::from_slice::<serde_json::Map<_, _>>(&line).is_ok();
        if whole {
            break;
        }
        end = begin;
    }
    if end < length {
        file.set_len(end)?;
        file.sync_all()?;
    }
    Ok(length - end)
}

/// Where the line begins whose end, with its end of line if it has one, is at `end`.
fn line_before(file: &File, end: u64) -> io::Result<u64> {
    const STEP: u64 = 4096;
    let mut from = end.saturating_sub(1);
    while from > 0 {
        let begin = from.saturating_sub(STEP);
        let piece = read(file, begin, from)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        from = begin;
    }
    Ok(0)
}

fn read(file: &File, begin: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(end - begin).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, begin)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn instant(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn lines_go_to_the_file_of_their_day() {
        let dir = tempfile::tempdir().unwrap();
        let (mut recording, _) = Recording::open(dir.path()).unwrap();
        for (line, at) in [
            ("{\"a\":1}\n", "2026-11-22T23:59:59.999Z"),
            ("{\"a\":2}\n", "2026-11-23T00:00:00Z"),
            ("{\"a\":3}\n", "2026-11-23T00:00:30Z"),
        ] {
            recording.add(line.as_bytes(), instant(at)).unwrap();
        }
        recording.settle().unwrap();
        let read = |day| fs::read_to_string(dir.path().join(day)).unwrap();
        assert_eq!(read("2026-11-22.jsonl"), "{\"a\":1}\n");
        assert_eq!(read("2026-11-23.jsonl"), "{\"a\":2}\n{\"a\":3}\n");
    }

    #[test]
    fn a_line_goes_to_the_end_wherever_that_is_by_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("2026-11-22.jsonl");
        let (mut recording, _) = Recording::open(dir.path()).unwrap();
        let at = instant("2026-11-22T12:00:00Z");
        recording.add(b"{\"a\":1}\n", at).unwrap();
        // By hand, say.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"b\":1}\n").unwrap();
        recording.add(b"{\"a\":2}\n", at).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"a\":1}\n{\"b\":1}\n{\"a\":2}\n");
    }

    #[test]
    fn a_directory_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let first = Recording::open(dir.path()).unwrap();
        let error = Recording::open(dir.path()).err().unwrap().to_string();
        assert!(error.ends_with("another writes there"), "{error}");
        drop(first);
        assert!(Recording::open(dir.path()).is_ok());
    }

    #[test]
    fn only_what_follows_the_last_whole_line_is_cut_off() {
        let whole = "{\"v\":1}\n{\"v\":1,\"b\":{}}\n";
        for (rest, lost) in [
            ("", 0),
            ("{\"v\":1,\"at", 10),
            ("{\"v\":1}", 7),
            ("\0\0\0\0", 4),
            ("{\"v\":\0\0\n\0\0", 10),
            ("\n", 1),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("2026-11-22.jsonl");
            // That of another day is nobody's any more.
            fs::write(dir.path().join("2026-11-21.jsonl"), "{").unwrap();
            fs::write(&path, format!("{whole}{rest}")).unwrap();
            let (mut recording, cut) = Recording::open(dir.path()).unwrap();
            assert_eq!(cut, lost, "{rest:?}");
            recording.add(b"{}\n", instant("2026-11-22T12:00:00Z")).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{whole}{{}}\n"));
        }
    }

    #[test]
    fn a_line_longer_than_a_block_is_whole_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("2026-11-22.jsonl");
        let long = format!("{{\"a\":\"{}\"}}\n", "x".repeat(20_000));
        fs::write(&path, format!("{long}{long}{}", &long[..9000])).unwrap();
        let (_, cut) = Recording::open(dir.path()).unwrap();
        assert_eq!(cut, 9000);
        assert_eq!(fs::read_to_string(&path).unwrap(), long.repeat(2));
    }

    proptest! {
        #[test]
        fn wherever_the_last_write_broke_off_what_stays_are_whole_lines(
            lines in 0_usize..5, cut in 0_usize..200,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("2026-11-22.jsonl");
            let text = "{\"v\":1,\"boxes\":{}}\n".repeat(lines);
            let kept = &text[..cut.min(text.len())];
            fs::write(&path, kept).unwrap();
            let (_, lost) = Recording::open(dir.path()).unwrap();
            let left = fs::read_to_string(&path).unwrap();
            prop_assert_eq!(left.len() as u64 + lost, kept.len() as u64);
            prop_assert!(left.is_empty() || left.ends_with('\n'));
            prop_assert!(text.starts_with(&left) && kept.len() - left.len() < 19);
        }
    }
}
