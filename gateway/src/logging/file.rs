//! The log's file: appended to, put aside under the time when it has become large, and opened anew
//! when somebody else has put it aside (logrotate, newsyslog).
//!
//! Own code rather than a library's: `logroller` names what it puts aside by numbers or by periods,
//! keeps so many of them and knows no age, and never opens its file anew; `tracing-appender` goes by
//! periods alone, and its queue is bounded by lines, not by bytes. Neither can have the names that
//! OpenSandbox's controller gives, which are those of lumberjack but for where the time stands.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{self, Path, PathBuf},
};

use chrono::Utc;

use super::{
    aside::{self, Keeper},
    outlet::Sink,
};
use crate::config::LogFile;

/// The file that is written.
pub(super) struct Appended {
    path: PathBuf,
    file: File,
    size: u64,
    /// How large it may become (bytes),
    most: Option<u64>,
    /// and now, which is more where it could not be put aside.
    limit: Option<u64>,
    /// It is not where it was opened any more.
    astray: bool,
    keeper: Keeper,
}

impl Appended {
    /// # Errors
    /// It cannot be made or written, or another process logs to it.
    pub(super) fn open(settings: &LogFile) -> io::Result<Self> {
        let path = path::absolute(&settings.path)?;
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(parent)?;
        }
        let (file, size) = append_to(&path)?;
        let keeper = Keeper::begin(&path, settings)?;
        let most = settings.max_size;
        Ok(Self { path, file, size, most, limit: most, astray: false, keeper })
    }

    /// As much of `text` as it may take before it is put aside, in whole lines.
    fn fitting<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        let Some(limit) = self.limit else { return text };
        let room = usize::try_from(limit.saturating_sub(self.size)).unwrap_or(usize::MAX);
        if text.len() <= room {
            return text;
        }
        let end_of = |line: Option<usize>| line.map_or(0, |end| end + 1);
        let fits = end_of(text[..room].iter().rposition(|b| *b == b'\n'));
        // A line that is longer than a file may be has one of its own.
        let one = || end_of(text.iter().position(|b| *b == b'\n')).max(1);
        &text[..if fits == 0 && self.size == 0 { one() } else { fits }]
    }

    fn put(&mut self, lines: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(lines);
        if written.is_err() {
            // Part of it may be there, and the next line is to be one of its own.
            self.size = end_line(&mut self.file)?;
        } else {
            self.size += lines.len() as u64;
        }
        written
    }

    fn put_aside(&mut self) {
        let put = aside::put(&self.path, Utc::now());
        self.astray |= put.is_ok();
        if let Err(error) = put.and_then(|()| self.begin()) {
            // Rather a long file than lines that are lost.
            self.limit = self.most.map(|most| self.size.saturating_add(most));
            let path = self.path.display();
            tracing::error!(%path, %error, "the log file cannot be put aside, and grows");
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        (self.file, self.size) = append_to(&self.path)?;
        (self.limit, self.astray) = (self.most, false);
        self.keeper.look();
        Ok(())
    }
}

impl Sink for Appended {
    fn write(&mut self, mut text: &[u8]) -> io::Result<()> {
        let found = self.file.metadata()?;
        // It may have been cut (logrotate's `copytruncate`), or deleted.
        self.size = found.len();
        if found.nlink() == 0 || self.astray {
            self.begin()?;
        }
        while !text.is_empty() {
            let lines = self.fitting(text);
            self.put(lines)?;
            text = &text[lines.len()..];
            if !text.is_empty() {
                self.put_aside();
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let same = |there: fs::Metadata| (there.dev(), there.ino()) == (ours.dev(), ours.ino());
        if fs::metadata(&self.path).is_ok_and(same) {
            return Ok(());
        }
        self.begin()
    }
}

/// The file, which is ours alone, and how long it is.
fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(io::Error::other("another process logs to it; give --log-file-path"));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let size = end_line(&mut file)?;
    Ok((file, size))
}

/// One that ends in the middle of a line is given its end. Returns how long it is.
fn end_line(file: &mut File) -> io::Result<u64> {
    let size = file.metadata()?.len();
    // What is no file has no end: somebody may want it on a terminal.
    if size == 0 || !file.metadata()?.is_file() {
        return Ok(0);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(size);
    }
    file.write_all(b"\n")?;
    Ok(size + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;

    use super::*;

    fn settings(dir: &Path, max_size: u64) -> LogFile {
        LogFile {
            path: dir.join("coppice.log"),
            max_size: Some(max_size),
            max_backups: None,
            max_age: None,
            compress: false,
        }
    }

    /// What was put aside, in order, and then the file.
    fn kept(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names.rotate_left(1);
        let read = |name| fs::read_to_string(dir.join(name)).unwrap();
        names.into_iter().map(read).collect()
    }

    #[test]
    fn a_file_is_put_aside_before_it_is_too_large_and_between_two_lines() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("coppice.log"), "torn").unwrap();
        let mut log = Appended::open(&settings(dir.path(), 12)).unwrap();
        log.write(b"one\ntwo\nthree\nlonger than a file may be\nlast\n").unwrap();
        log.write(b"more\n").unwrap();
        let all = ["torn\none\n", "two\nthree\n", "longer than a file may be\n", "last\nmore\n"];
        assert_eq!(kept(dir.path()), all);
        let mode = fs::metadata(dir.path().join("coppice.log")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_was_taken_away_cut_or_deleted_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coppice.log");
        let mut log = Appended::open(&settings(dir.path(), 12)).unwrap();
        log.write(b"before\n").unwrap();
        // Nothing has become of it: it is not to be locked out by itself.
        log.reopen().unwrap();
        fs::rename(&path, dir.path().join("coppice.log.0")).unwrap();
        log.write(b"late\n").unwrap();
        log.reopen().unwrap();
        log.write(b"after\n").unwrap();
        assert_eq!(kept(dir.path()), ["before\nlate\n", "after\n"]);
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        log.write(b"after a cut\n").unwrap();
        assert_eq!(kept(dir.path()), ["before\nlate\n", "after a cut\n"]);
        fs::remove_file(&path).unwrap();
        log.write(b"anew\n").unwrap();
        assert_eq!(kept(dir.path()), ["before\nlate\n", "anew\n"]);
    }

    #[test]
    fn what_cannot_be_written_is_an_error_until_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coppice.log");
        let mut log = Appended::open(&settings(dir.path(), 4)).unwrap();
        // Nothing can be made in its place.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("x"), "").unwrap();
        assert!(log.write(b"a\n").is_err());
        fs::remove_dir_all(&path).unwrap();
        log.write(b"a\n").unwrap();
        assert_eq!(kept(dir.path()), ["a\n"]);
    }

    #[test]
    fn two_gateways_do_not_put_each_others_file_aside() {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), 100);
        let first = Appended::open(&settings).unwrap();
        let error = Appended::open(&settings).err().unwrap().to_string();
        assert!(error.contains("another process logs to it"), "{error}");
        drop(first);
        assert!(Appended::open(&settings).is_ok());
    }

    #[test]
    fn times_in_names_are_of_utc_and_never_taken_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coppice.log");
        let at: DateTime<Utc> = "2026-02-12T10:30:45.123Z".parse().unwrap();
        for _ in 0..3 {
            fs::write(&path, "").unwrap();
            aside::put(&path, at).unwrap();
        }
        for name in ["123", "124", "125"] {
            let path = dir.path().join(format!("coppice.log.2026-02-12T10-30-45.{name}"));
            assert!(path.exists(), "{name}");
        }
        // One that is gone already is no failure.
        aside::put(&path, at + Duration::from_secs(1)).unwrap();
    }
}
