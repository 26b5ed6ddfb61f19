//! What an exporter has not taken yet, on the disk: lines in segments, and how far it is.
//!
//! ```text
//!   <dir>/00000000000000000007.seg    crc line        oldest: the first to be sent, or dropped
//!   <dir>/00000000000000000008.seg    crc line...     written to
//!   <dir>/sent                        crc 7 1234      segment, and byte in it, of the next line
//! ```
//!
//! Nothing is brought to the disk by force: what was written outlives this process, not a host that
//! loses power. Whatever is found is good: a line whose checksum is wrong is none, a segment that
//! ends in the middle of a line is cut, and without knowing how far it is, it begins with the oldest.
//! So lines may come twice, and none is lost that was written as a whole, but for want of room: then
//! the oldest segment goes, and how many that were is told.
//!
//! All of it blocks. It has one owner, and what it keeps in memory does not grow with what it holds.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use flate2::Crc;

/// Checksum, blank and end.
const FRAME: u64 = 10;
/// Of the bytes there may be, a segment has so many at most. The oldest goes as a whole.
const SHARES: u64 = 8;
const LARGEST: u64 = 8 << 20;
const SENT: &str = "sent";

/// Where a line begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    segment: u64,
    offset: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    /// Lines before it, from when it was opened: those that were sent before then are not counted.
    before: u64,
    lines: u64,
}

/// Lines that are under way, until [`Spool::sent`] is told of them.
#[derive(Debug, Default)]
pub(in crate::events) struct Taken {
    pub(in crate::events) lines: Vec<Vec<u8>>,
    /// So many could not be read.
    pub(in crate::events) lost: u64,
    end: Place,
    counted: u64,
}

/// What has become of lines that were to be kept.
#[derive(Debug, Default)]
pub(in crate::events) struct Kept {
    /// Of them or of older ones, so many will never be sent.
    pub(in crate::events) lost: u64,
    /// Why, if it was not for want of room.
    pub(in crate::events) error: Option<io::Error>,
}

#[derive(Debug)]
pub(in crate::events) struct Spool {
    dir: PathBuf,
    /// Bytes that all segments may have, and each of them.
    room: u64,
    share: u64,
    /// The oldest first; the last is the one that `file` is.
    segments: VecDeque<Segment>,
    file: Option<File>,
    next_number: u64,
    /// The first line that was not sent, and how many were counted before it.
    head: Place,
    sent: u64,
    /// As many were counted before the first that is not under way.
    taken: u64,
    sent_file: File,
}

impl Spool {
    /// Takes up what is there, which may be as a crash has left it; says how many lines had to go as
    /// there is less room now.
    pub(in crate::events) fn open(dir: &Path, room: u64) -> io::Result<(Self, u64)> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let sent_file = options.open(dir.join(SENT))?;
        let share = (room / SHARES).clamp(1, LARGEST);
        let mut spool = Self {
            dir: dir.to_owned(),
            room,
            share,
            segments: VecDeque::new(),
            file: None,
            next_number: 1,
            head: Place::default(),
            sent: 0,
            taken: 0,
            sent_file,
        };
        spool.find()?;
        let lost = spool.make_room(0);
        Ok((spool, lost))
    }

    fn find(&mut self) -> io::Result<()> {
        let told = self.read_sent().unwrap_or_default();
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Some(number) = number_of(&entry?.file_name().to_string_lossy()) {
                numbers.push(number);
            }
        }
        numbers.sort_unstable();
        let last = numbers.last().copied().unwrap_or(0);
        self.next_number = last.max(told.segment).saturating_add(1);
        let mut before = 0;
        let mut whole = 0;
        let mut start = None;
        for number in numbers {
            let path = self.path(number);
            let from = if number == told.segment { told.offset } else { 0 };
            let found = if number < told.segment { None } else { Some(scan(&path, from)?) };
            let Some(found) = found.filter(|found| found.length > 0) else {
                fs::remove_file(path)?;
                continue;
            };
            whole = found.whole;
            if number == told.segment {
                start = found.start;
            }
            let Scanned { length: bytes, lines, .. } = found;
            self.segments.push_back(Segment { number, bytes, before, lines });
            before += lines;
        }
        // The next line is to be one of its own.
        if let Some(last) = self.segments.back_mut().filter(|last| whole < last.bytes) {
            let path = self.dir.join(name_of(last.number));
            OpenOptions::new().write(true).open(path)?.set_len(whole)?;
            last.bytes = whole;
        }
        if let Some(last) = self.segments.back() {
            self.file = Some(OpenOptions::new().append(true).open(self.path(last.number))?);
        }
        self.head = match self.segments.front() {
            None => Place { segment: self.next_number, offset: 0 },
            // A host that lost power may have kept this and not what it is about.
            Some(first) if first.number == told.segment => {
                // Where a line begins, whatever it says.
                Place {
                    segment: first.number,
                    offset: start.unwrap_or(first.bytes).min(first.bytes),
                }
            }
            Some(first) => Place { segment: first.number, offset: 0 },
        };
        // What comes next must not lie before what was said to be sent.
        self.write_sent()
    }

    /// Lines that wait to be sent, and those under way.
    pub(in crate::events) fn waiting(&self) -> u64 {
        self.counted() - self.sent
    }

    /// Bytes of them.
    pub(in crate::events) fn waiting_bytes(&self) -> u64 {
        self.bytes() - if self.segments.is_empty() { 0 } else { self.head.offset }
    }

    /// Lines that could be taken.
    pub(in crate::events) fn ready(&self) -> u64 {
        self.counted() - self.taken
    }

    fn counted(&self) -> u64 {
        self.segments.back().map_or(self.sent, |last| last.before + last.lines)
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Takes lines in, none of which has an end of line in it.
    pub(in crate::events) fn keep(
        &mut self,
        lines: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Kept {
        let mut kept = Kept::default();
        let mut text = Vec::new();
        let mut count = 0;
        for line in lines {
            let line = line.as_ref();
            let length = line.len() as u64 + FRAME;
            if length > self.share {
                kept.lost += 1;
                continue;
            }
            let begun = self.segments.back().map_or(0, |last| last.bytes);
            if self.file.is_none() || begun + text.len() as u64 + length > self.share {
                self.write(&mut text, &mut count, &mut kept);
                if let Err(error) = self.begin_segment() {
                    kept.lost += 1;
                    kept.error = Some(error);
                    continue;
                }
            }
            put(&mut text, line);
            count += 1;
        }
        self.write(&mut text, &mut count, &mut kept);
        kept
    }

    /// To the last segment, all or nothing.
    fn write(&mut self, text: &mut Vec<u8>, count: &mut u64, kept: &mut Kept) {
        if text.is_empty() {
            return;
        }
        kept.lost += self.make_room(text.len() as u64);
        let (Some(file), Some(last)) = (&mut self.file, self.segments.back_mut()) else { return };
        match file.write_all(text) {
            Ok(()) => {
                last.bytes += text.len() as u64;
                last.lines += *count;
            }
            Err(error) => {
                if file.set_len(last.bytes).is_err() {
                    // Part of it may be there; what follows is to be in a segment of its own.
                    self.file = None;
                }
                kept.lost += *count;
                kept.error = Some(error);
            }
        }
        text.clear();
        *count = 0;
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let number = self.next_number;
        let path = self.path(number);
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        self.next_number += 1;
        let before = self.counted();
        if self.segments.is_empty() {
            self.head = Place { segment: number, offset: 0 };
        }
        self.segments.push_back(Segment { number, bytes: 0, before, lines: 0 });
        self.file = Some(file);
        Ok(())
    }

    /// Drops the oldest until so many bytes more find room; says how many lines that was that nobody
    /// has in hand.
    fn make_room(&mut self, more: u64) -> u64 {
        let mut lost = 0;
        while self.segments.len() > 1 && self.bytes() + more > self.room {
            let Some(oldest) = self.segments.pop_front() else { break };
            // What cannot be removed is found again by the next to open it.
            let _ = fs::remove_file(self.path(oldest.number));
            let end = oldest.before + oldest.lines;
            lost += end.saturating_sub(self.taken.max(oldest.before));
            self.sent = self.sent.max(end);
            self.taken = self.taken.max(end);
            if let Some(first) = self.segments.front().filter(|it| self.head.segment < it.number) {
                self.head = Place { segment: first.number, offset: 0 };
            }
        }
        lost
    }

    /// The next lines, at most so many and, but for the first, of so many bytes.
    pub(in crate::events) fn take(&mut self, most: usize, most_bytes: usize) -> Taken {
        let mut taken = Taken { end: self.head, counted: self.sent, ..Taken::default() };
        let mut bytes = 0;
        let mut line = Vec::new();
        for segment in self.segments.iter().filter(|it| it.number >= self.head.segment) {
            if segment.number > taken.end.segment {
                taken.end = Place { segment: segment.number, offset: 0 };
                // Lines that were there when they were counted.
                taken.lost += segment.before.saturating_sub(taken.counted);
                taken.counted = taken.counted.max(segment.before);
            }
            let Ok(mut reader) = self.read_from(segment, taken.end.offset) else { continue };
            loop {
                line.clear();
                match reader.read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
                let text = told(&line);
                if let Some(text) = text {
                    let full = bytes + text.len() > most_bytes && !taken.lines.is_empty();
                    if full || taken.lines.len() >= most {
                        self.taken = taken.counted;
                        return taken;
                    }
                    bytes += text.len();
                    taken.lines.push(text.to_vec());
                    taken.counted += 1;
                }
                taken.end.offset += line.len() as u64;
            }
        }
        if taken.lines.len() < most {
            // The end was reached.
            taken.lost += self.counted().saturating_sub(taken.counted);
            taken.counted = self.counted();
        }
        self.taken = taken.counted;
        taken
    }

    fn read_from(&self, segment: &Segment, offset: u64) -> io::Result<impl BufRead + use<>> {
        let mut file = File::open(self.path(segment.number))?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(BufReader::with_capacity(1 << 16, file.take(segment.bytes.saturating_sub(offset))))
    }

    /// These have arrived, or are given up.
    pub(in crate::events) fn sent(&mut self, taken: &Taken) -> io::Result<()> {
        self.taken = self.taken.max(taken.counted);
        self.sent = self.sent.max(taken.counted);
        if taken.end <= self.head {
            return Ok(());
        }
        self.head = taken.end;
        let saved = self.write_sent();
        while self.segments.front().is_some_and(|it| it.number < self.head.segment) {
            if let Some(done) = self.segments.pop_front() {
                fs::remove_file(self.path(done.number))?;
            }
        }
        saved
    }

    fn write_sent(&self) -> io::Result<()> {
        let Place { segment, offset } = self.head;
        let mut line = Vec::new();
        put(&mut line, format!("{segment:020} {offset:020}").as_bytes());
        self.sent_file.write_all_at(&line, 0)
    }

    fn read_sent(&mut self) -> Option<Place> {
        let mut line = String::new();
        (&mut self.sent_file).take(64).read_to_string(&mut line).ok()?;
        let text = str::from_utf8(told(line.as_bytes())?).ok()?;
        let (segment, offset) = text.split_once(' ')?;
        Some(Place { segment: segment.parse().ok()?, offset: offset.parse().ok()? })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(name_of(number))
    }
}

fn name_of(number: u64) -> String {
    format!("{number:020}.seg")
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?.parse().ok()
}

fn crc(text: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(text);
    crc.sum()
}

fn put(into: &mut Vec<u8>, text: &[u8]) {
    into.extend_from_slice(format!("{:08x} ", crc(text)).as_bytes());
    into.extend_from_slice(text);
    into.push(b'\n');
}

/// What a whole line says.
fn told(line: &[u8]) -> Option<&[u8]> {
    let (sum, text) = line.strip_suffix(b"\n")?.split_at_checked(9)?;
    let sum = u32::from_str_radix(str::from_utf8(sum).ok()?.strip_suffix(' ')?, 16).ok()?;
    (crc(text) == sum).then_some(text)
}

struct Scanned {
    length: u64,
    /// Where the last whole line ends.
    whole: u64,
    /// Whole ones that begin at or after where it was looked from,
    lines: u64,
    /// and where the first line there does, if there is one.
    start: Option<u64>,
}

fn scan(path: &Path, from: u64) -> io::Result<Scanned> {
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
    let mut found = Scanned { length: 0, whole: 0, lines: 0, start: None };
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(found);
        }
        let begins = found.length;
        if begins >= from {
            found.start.get_or_insert(begins);
        }
        found.length += line.len() as u64;
        if told(&line).is_some() {
            found.whole = found.length;
            found.lines += u64::from(begins >= from);
        }
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
