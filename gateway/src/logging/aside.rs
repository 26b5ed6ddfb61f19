//! Log files that were put aside: `coppice.log.2026-02-12T10-30-45.123.gz`. A thread compresses them
//! and deletes those that are too many or too old; nothing else in the directory is touched.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    thread,
    time::Duration,
};

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use flate2::{Compression, write::GzEncoder};

use crate::config::LogFile;

/// Of UTC.
const FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const COMPRESSED: &str = ".gz";
/// What is not all there yet, or never will be: the process died over it.
const PART: &str = ".gz.part";

/// Between one look for files that have become too old and the next.
const LOOK: Duration = Duration::from_secs(3600);

/// Gives the file at `path` its name among those put aside. One that is gone already was taken away
/// by somebody else.
pub(super) fn put(path: &Path, mut at: DateTime<Utc>) -> io::Result<()> {
    let with = |at: DateTime<Utc>, suffix| {
        let mut name = OsString::from(path);
        name.push(format!(".{}{suffix}", at.format(FORMAT)));
        PathBuf::from(name)
    };
    let aside = loop {
        let aside = with(at, "");
        if !aside.try_exists()? && !with(at, COMPRESSED).try_exists()? {
            break aside;
        }
        at += TimeDelta::milliseconds(1);
    };
    match fs::rename(path, aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// To the thread that looks after them, which ends with the writer.
pub(super) struct Keeper(SyncSender<()>);

impl Keeper {
    pub(super) fn begin(path: &Path, settings: &LogFile) -> io::Result<Self> {
        let kept = Kept { path: path.to_owned(), settings: settings.clone() };
        // One that waits is as good as many.
        let (wake, woken) = mpsc::sync_channel(1);
        let work = move || {
            loop {
                if let Err(error) = kept.tidy(Utc::now()) {
                    let path = kept.path.display();
                    tracing::error!(%path, %error, "older log files are left as they are");
                }
                match woken.recv_timeout(LOOK) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        thread::Builder::new().name("old logs".into()).spawn(work)?;
        Ok(Self(wake))
    }

    /// Something was put aside.
    pub(super) fn look(&self) {
        let _ = self.0.try_send(());
    }
}

struct Kept {
    path: PathBuf,
    settings: LogFile,
}

/// The files of one time.
#[derive(Default)]
struct Found {
    plain: Option<PathBuf>,
    compressed: Option<PathBuf>,
}

impl Kept {
    fn tidy(&self, now: DateTime<Utc>) -> io::Result<()> {
        let found = self.found()?;
        let oldest = self.settings.max_age.and_then(|age| TimeDelta::from_std(age).ok());
        let oldest = oldest.map(|age| now - age);
        // Deleted first, and past what fails: on a full disk nothing can be compressed before.
        let mut done = Ok(());
        let mut kept = Vec::new();
        for (nth, (at, files)) in found.into_iter().rev().enumerate() {
            let many = self.settings.max_backups.is_some_and(|most| nth >= most);
            let Found { plain, compressed } = files;
            if many || oldest.is_some_and(|oldest| at < oldest) {
                for path in plain.into_iter().chain(compressed) {
                    done = done.and(fs::remove_file(path));
                }
            } else if let Some(plain) = plain {
                match compressed {
                    // It has its name only when all of it is on the disk.
                    Some(_) => done = done.and(fs::remove_file(plain)),
                    None => kept.push(plain),
                }
            }
        }
        if self.settings.compress {
            for plain in kept {
                done = done.and(compress(&plain));
            }
        }
        done
    }

    /// Those that are ours, by when they were put aside. What was never finished is removed.
    fn found(&self) -> io::Result<BTreeMap<DateTime<Utc>, Found>> {
        let mut found: BTreeMap<_, Found> = BTreeMap::new();
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(found);
        };
        let prefix = name.as_encoded_bytes();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let Some(rest) = name.as_encoded_bytes().strip_prefix(prefix) else { continue };
            let Some(rest) = std::str::from_utf8(rest).ok().and_then(|it| it.strip_prefix('.'))
            else {
                continue;
            };
            let time = |text: &str| {
                let at = NaiveDateTime::parse_from_str(text, FORMAT).ok()?.and_utc();
                // Nothing that only looks like it.
                (at.format(FORMAT).to_string() == text).then_some(at)
            };
            let path = dir.join(&name);
            if let Some(text) = rest.strip_suffix(PART) {
                if time(text).is_some() {
                    fs::remove_file(path)?;
                }
            } else if let Some(text) = rest.strip_suffix(COMPRESSED) {
                if let Some(at) = time(text) {
                    found.entry(at).or_default().compressed = Some(path);
                }
            } else if let Some(at) = time(rest) {
                found.entry(at).or_default().plain = Some(path);
            }
        }
        Ok(found)
    }
}

/// At each instant one of the two is whole and has its name, whatever becomes of process or host:
/// it is the one wait for the disk that the log has, and only this thread's.
fn compress(plain: &Path) -> io::Result<()> {
    let with = |suffix| {
        let mut name = OsString::from(plain);
        name.push(suffix);
        PathBuf::from(name)
    };
    let part = with(PART);
    let done = (|| {
        let mut from = File::open(plain)?;
        let mut made = OpenOptions::new();
        let to = made.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        to.set_permissions(from.metadata()?.permissions())?;
        let mut to = GzEncoder::new(BufWriter::new(to), Compression::default());
        io::copy(&mut from, &mut to)?;
        let mut to = to.finish()?;
        to.flush()?;
        to.get_ref().sync_all()?;
        fs::rename(&part, with(COMPRESSED))?;
        if let Some(dir) = plain.parent() {
            File::open(dir)?.sync_all()?;
        }
        fs::remove_file(plain)
    })();
    if done.is_err() {
        let _ = fs::remove_file(part);
    }
    done
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn kept(dir: &Path) -> Kept {
        let path = dir.join("coppice.log");
        let settings = LogFile {
            path: path.clone(),
            max_size: None,
            max_backups: Some(3),
            max_age: Some(Duration::from_secs(30 * 24 * 3600)),
            compress: true,
        };
        Kept { path, settings }
    }

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|it| name(it).into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_youngest_are_kept_compressed_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let all = [
            "coppice.log",
            "coppice.log.1",
            "coppice.log.2026-02-12",
            "coppice.log.2026-2-12T10-30-45.123",
            "coppice.log.2026-02-12T10-30-45.123.bak",
            "other.log.2020-02-12T10-30-45.123",
        ];
        let ours = [
            "coppice.log.2026-01-01T00-00-00.000.gz", // Too old.
            "coppice.log.2026-02-12T10-30-45.120",    // Too many.
            "coppice.log.2026-02-12T10-30-45.121.gz",
            "coppice.log.2026-02-12T10-30-45.122",
            "coppice.log.2026-02-12T10-30-45.123",
        ];
        for name in all.iter().chain(&ours) {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let now = "2026-02-12T12:00:00Z".parse().unwrap();
        kept(dir.path()).tidy(now).unwrap();
        let mut wanted: Vec<String> = all.map(String::from).into();
        wanted.extend([121, 122, 123].map(|n| format!("coppice.log.2026-02-12T10-30-45.{n}.gz")));
        wanted.sort();
        assert_eq!(names(dir.path()), wanted);
        let mut text = String::new();
        let file = File::open(dir.path().join(format!("{}.gz", ours[3]))).unwrap();
        GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, ours[3]);
        // All of them become too old without a new one.
        kept(dir.path()).tidy("2026-04-01T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(names(dir.path()).len(), all.len());
    }

    #[test]
    fn what_a_crash_left_is_finished_and_only_the_whole_one_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        let at =
            |suffix: &str| dir.path().join(format!("coppice.log.2026-02-12T10-30-45.1{suffix}"));
        // Died while it was compressed; after that, and before the other was removed.
        fs::write(at("00"), "whole").unwrap();
        fs::write(at("00.gz.part"), "half").unwrap();
        fs::write(at("01"), "whole").unwrap();
        fs::write(at("01.gz"), "all of it").unwrap();
        fs::write(at("02.gz.part"), "of nothing").unwrap();
        let now = "2026-02-12T12:00:00Z".parse().unwrap();
        kept(dir.path()).tidy(now).unwrap();
        assert_eq!(fs::read_to_string(at("01.gz")).unwrap(), "all of it");
        let mut text = String::new();
        GzDecoder::new(File::open(at("00.gz")).unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), names(dir.path()).len()), ("whole", 2));
    }

    #[test]
    fn one_that_cannot_be_compressed_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("coppice.log.2026-02-12T10-30-45.100");
        fs::write(&plain, "whole").unwrap();
        // Its place is taken by what cannot be replaced.
        let taken = dir.path().join("coppice.log.2026-02-12T10-30-45.100.gz");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("x"), "").unwrap();
        assert!(compress(&plain).is_err());
        assert_eq!(fs::read_to_string(&plain).unwrap(), "whole");
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn those_that_are_too_many_go_though_a_younger_one_cannot_be_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |n: u32| dir.path().join(format!("coppice.log.2026-02-12T10-30-45.{n}"));
        for n in 100..105 {
            fs::write(at(n), "whole").unwrap();
        }
        // What it would be written to.
        fs::create_dir(dir.path().join("coppice.log.2026-02-12T10-30-45.104.gz")).unwrap();
        fs::remove_file(at(103)).unwrap();
        fs::create_dir(at(103)).unwrap();
        let now = "2026-02-12T12:00:00Z".parse().unwrap();
        assert!(kept(dir.path()).tidy(now).is_err());
        assert!(!at(100).exists() && !at(101).exists());
        assert!(dir.path().join("coppice.log.2026-02-12T10-30-45.102.gz").exists());
    }
}
