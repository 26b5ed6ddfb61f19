//! The file that is written to: only ever appended to, mended at the start, put aside when it is as
//! large as it may be.
//!
//! Nothing is brought to the disk by force. Whatever the moment at which this ends, all files have
//! whole lines but the last one, of which the next start cuts off what is torn.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use chrono::{SecondsFormat, Utc};
use serde_json::json;

use super::{
    block::Marks,
    line::Line,
    names::{Aside, Names},
    segment::{LONGEST, Segment},
    shelf::Shelf,
};
use crate::events::Event;

/// The type of a line that says how many events are missing before it.
pub(super) const LOST: &str = "events.lost";
/// Looked at once for the end of the last whole line (bytes).
const LOOK: u64 = 64 << 10;
/// How often it is tried to have the directory, and what is between.
const PATIENCE: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Roll {
    names: Names,
    /// Of one file (bytes).
    most: u64,
    shelf: Arc<Shelf>,
    file: Arc<File>,
    /// The one it has when it is put aside.
    number: u64,
    size: u64,
    /// Lines that are still to be written, and how long each is.
    text: Vec<u8>,
    lines: Vec<(usize, Option<Marks>)>,
    lock: Arc<File>,
}

impl Roll {
    /// With those that were put aside before.
    pub(super) fn open(
        dir: &Path,
        most: u64,
        shelf: &Arc<Shelf>,
    ) -> io::Result<(Self, Vec<(u64, Aside)>)> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let names = Names(dir.to_owned());
        let lock = locked(&names)?;
        let aside = names.look()?;
        let number = aside.last_key_value().map_or(1, |(last, _)| last + 1);
        let file = append_to(&names.current())?;
        let (size, torn) = mend(&file)?;
        let mut roll = Self {
            names,
            most,
            shelf: shelf.clone(),
            file: Arc::new(file),
            number,
            size,
            text: Vec::new(),
            lines: Vec::new(),
            lock: Arc::new(lock),
        };
        if torn {
            roll.lost(1);
        }
        Ok((roll, aside.into_iter().collect()))
    }

    /// Nobody else writes here until the last of these is dropped.
    pub(super) fn lock(&self) -> Arc<File> {
        self.lock.clone()
    }

    /// Has what is in the file already found by whoever reads.
    pub(super) fn look_through(&self) -> io::Result<()> {
        let file = File::open(self.names.current())?;
        let found = Segment::of_lines(file)?;
        self.shelf.put(self.number, Segment { file: self.file.clone(), ..found });
        Ok(())
    }

    pub(super) fn add(&mut self, event: &Event) {
        let before = self.text.len();
        // Cannot fail: all keys are strings, and memory takes whatever is written.
        let _ = serde_json::to_writer(&mut self.text, event);
        self.text.push(b'\n');
        self.lines.push((self.text.len() - before, Some(Marks::of(event))));
    }

    /// So many events are missing here.
    pub(super) fn lost(&mut self, count: u64) {
        let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let line = json!({"timestamp": timestamp, "type": LOST, "data": {"count": count}});
        let line = format!("{line}\n");
        self.text.extend_from_slice(line.as_bytes());
        self.lines.push((line.len(), None));
    }

    /// How many events wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.lines.iter().filter(|(_, marks)| marks.is_some()).count()
    }

    /// Gives up what could not be written.
    pub(super) fn drop_waiting(&mut self) {
        self.text.clear();
        self.lines.clear();
    }

    /// Writes what waits, and returns the numbers of files that are put aside by that. What is not
    /// written when this fails waits, and no line is there twice.
    pub(super) fn write(&mut self, mut put_aside: impl FnMut(u64)) -> io::Result<()> {
        while let Some((first, _)) = self.lines.first() {
            if self.size > 0 && self.size + *first as u64 > self.most {
                self.put_aside()?;
                put_aside(self.number - 1);
            }
            let (mut count, mut length) = (0, 0);
            for (line, _) in &self.lines {
                let size = self.size + length as u64;
                if size > 0 && size + *line as u64 > self.most {
                    break;
                }
                (count, length) = (count + 1, length + line);
            }
            if let Err(error) = (&*self.file).write_all(&self.text[..length]) {
                // Part of it may be there; if it stays, the next start finds a torn line.
                self.file.set_len(self.size)?;
                return Err(error);
            }
            self.size += length as u64;
            self.shelf.append(self.number, &self.lines[..count]);
            self.text.drain(..length);
            self.lines.drain(..count);
        }
        Ok(())
    }

    /// The new file is made before the old one gives way.
    fn put_aside(&mut self) -> io::Result<()> {
        let current = self.names.current();
        let new = Names::unfinished(&current);
        let file = Arc::new(append_to(&new)?);
        match fs::rename(&current, self.names.plain(self.number)) {
            // Somebody has taken it away.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::rename(&new, &current)?;
        self.number += 1;
        self.shelf.begin(self.number, file.clone());
        (self.file, self.size) = (file, 0);
        Ok(())
    }
}

fn locked(names: &Names) -> io::Result<File> {
    let path = names.lock();
    let file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    for again in (0..PATIENCE).rev() {
        match file.try_lock() {
            Ok(()) => break,
            // One that was killed has a child, for a moment, that is about to be a program.
            Err(TryLockError::WouldBlock) if again > 0 => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other(format!(
                    "{} is held: another gateway writes its events there",
                    path.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(file)
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

/// Cuts off what is not a whole line: how long the file is then, and whether an event was lost.
fn mend(file: &File) -> io::Result<(u64, bool)> {
    let size = file.metadata()?.len();
    // After a loss of power there may be megabytes of zeros: each byte is looked at once.
    let (mut whole, mut from) = (0, size);
    while from > 0 {
        let length = from.min(LOOK);
        from -= length;
        let mut front = vec![0; length as usize];
        file.read_exact_at(&mut front, from)?;
        if let Some(end) = front.iter().rposition(|byte| *byte == b'\n') {
            whole = from + end as u64 + 1;
            break;
        }
    }
    if whole == size {
        return Ok((size, false));
    }
    if size - whole <= LONGEST {
        let mut torn = vec![0; (size - whole) as usize];
        file.read_exact_at(&mut torn, whole)?;
        if Line::read(&torn).is_some() {
            let mut at_end = file;
            at_end.write_all(b"\n")?;
            return Ok((size + 1, false));
        }
    }
    file.set_len(whole)?;
    Ok((whole, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_of_zeros_is_cut_off_however_long_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        for (whole, zeros) in [(0, 1), (10, LOOK), (10, 3 * LOOK + 7), (10, LONGEST + 1)] {
            let text = if whole == 0 { "" } else { "012345678\n" };
            fs::write(&path, text).unwrap();
            let file = append_to(&path).unwrap();
            file.set_len(whole + zeros).unwrap();
            assert_eq!(mend(&file).unwrap(), (whole, true), "{zeros}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(mend(&file).unwrap(), (whole, false), "{zeros}");
        }
    }
}
