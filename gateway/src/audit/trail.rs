//! The lines of one tenant: a file that is only ever appended to, and what was put aside of it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What there may be of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Of one file (bytes).
    pub(super) size: u64,
    /// Files put aside.
    pub(super) kept: usize,
}

pub(super) struct Trail {
    path: PathBuf,
    file: File,
    size: u64,
    room: Room,
}

impl Trail {
    pub(super) fn open(path: PathBuf, room: Room) -> io::Result<Self> {
        let (file, size) = append_to(&path)?;
        Ok(Self { path, file, size, room })
    }

    /// Whole lines.
    pub(super) fn put(&mut self, text: &str) -> io::Result<()> {
        if self.size > 0 && self.size + text.len() as u64 > self.room.size {
            self.put_aside()?;
        }
        let written = self.file.write_all(text.as_bytes());
        if written.is_err() {
            // Part of it may be there, and the next line is to be one of its own.
            (self.file, self.size) = append_to(&self.path)?;
        }
        self.size += text.len() as u64;
        written
    }

    /// What ends in `.1` is the youngest of those put aside. As `.0` it waits for the others to make
    /// room, so that nothing is deleted for one that cannot be put aside.
    fn put_aside(&mut self) -> io::Result<()> {
        let waiting = self.aside(0);
        // Of an attempt that failed half-way.
        if waiting.try_exists()? {
            self.shift()?;
        }
        match fs::rename(&self.path, &waiting) {
            Ok(()) => self.shift()?,
            // Somebody has taken it away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        (self.file, self.size) = append_to(&self.path)?;
        Ok(())
    }

    /// Moves those before the first gap on by one; only without a gap is the oldest deleted. One
    /// that fails half-way leaves a gap, and the next goes on there.
    fn shift(&self) -> io::Result<()> {
        let mut gap = self.room.kept;
        for n in 1..self.room.kept {
            if !self.aside(n).try_exists()? {
                gap = n;
                break;
            }
        }
        for n in (0..gap).rev() {
            match fs::rename(self.aside(n), self.aside(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn aside(&self, n: usize) -> PathBuf {
        self.path.with_extension(format!("jsonl.{n}"))
    }
}

/// The file, and how long it is. One that ends in the middle of a line is given its end.
fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            size += 1;
        }
    }
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dir: &Path, room: Room) -> Trail {
        Trail::open(dir.join("acme.jsonl"), room).unwrap()
    }

    fn read(dir: &Path, name: &str) -> String {
        fs::read_to_string(dir.join(name)).unwrap_or_default()
    }

    #[test]
    fn a_line_cut_short_is_ended_and_files_are_put_aside_and_the_oldest_deleted() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("acme.jsonl"), "{\"at\":").unwrap();
        let mut trail = of(dir.path(), Room { size: 16, kept: 2 });
        trail.put("a line\n").unwrap();
        assert_eq!(read(dir.path(), "acme.jsonl"), "{\"at\":\na line\n");
        for n in 0..5 {
            trail.put(&format!("a line {n}\n")).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["acme.jsonl", "acme.jsonl.1", "acme.jsonl.2"]);
        let all = ["acme.jsonl.2", "acme.jsonl.1", "acme.jsonl"].map(|name| read(dir.path(), name));
        assert_eq!(all.concat(), "a line 2\na line 3\na line 4\n");
    }

    #[test]
    fn a_file_that_cannot_be_put_aside_costs_none_of_those_that_were() {
        let dir = tempfile::tempdir().unwrap();
        let aside = |n: usize| dir.path().join(format!("acme.jsonl.{n}"));
        let kept = || [1, 2, 3, 4].map(|n| fs::read_to_string(aside(n)).unwrap_or_default());
        for n in 1..=4 {
            fs::write(aside(n), format!("{n}")).unwrap();
        }
        let mut trail = of(dir.path(), Room { size: 1, kept: 4 });
        trail.put("one\n").unwrap();
        // There is nothing to put aside.
        fs::remove_file(dir.path().join("acme.jsonl")).unwrap();
        trail.put("two\n").unwrap();
        assert_eq!(kept(), ["1", "2", "3", "4"].map(String::from));
        // One of them cannot be moved: a directory does not take a file's place.
        fs::remove_file(aside(3)).unwrap();
        fs::create_dir(aside(3)).unwrap();
        for _ in 0..3 {
            trail.put("lost\n").unwrap_err();
        }
        assert_eq!(kept(), ["1", "2", "", "4"].map(String::from));
        // It stopped half-way, and goes on there.
        fs::remove_dir(aside(3)).unwrap();
        trail.put("three\n").unwrap();
        assert_eq!(kept(), ["two\n", "1", "2", "4"].map(String::from));
        assert_eq!(read(dir.path(), "acme.jsonl"), "three\n");
    }
}
