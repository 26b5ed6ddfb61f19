//! The log of a sandbox's envd, as entries of the sandbox's own.
//!
//! envd runs where hostile code does: of the file only an end of bounded length is read, and what
//! could move a terminal's cursor is taken out of it.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use chrono::DateTime;

use super::journal::{Entry, Level, Source, now};

/// In a sandbox's directory.
const FILE: &str = "envd.log";
/// What is read of it (bytes), from its end.
const MOST: u64 = 64 << 10;

/// Blocks. What is not there, or not any more, is empty.
pub(super) fn entries(dir: &Path) -> Vec<Entry> {
    end_of(&dir.join(FILE)).map(|text| parse(&text, now())).unwrap_or_default()
}

fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if length > MOST {
        // It begins in the middle of a line.
        text.drain(..text.find('\n').map_or(0, |end| end + 1));
    }
    Ok(text)
}

/// Lines that are none of a logger's (a panic's, say) have the instant of the one before. None is
/// of after `now`: whoever follows a log asks for what came after the last entry.
pub(crate) fn parse(text: &str, now: u64) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let logged = logged(line);
        let last = entries.last().map_or(0, |entry| entry.at);
        let (at, level, message) = logged.unwrap_or((last, Level::Info, line.trim_end()));
        let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let message = message.chars().map(shown).collect();
        entries.push(Entry::new(at.min(now).max(last), level, Source::Envd, message));
    }
    // Those before the first instant have none.
    let first = entries.iter().map(|entry| entry.at).find(|at| *at > 0).unwrap_or(0);
    entries.iter_mut().take_while(|entry| entry.at == 0).for_each(|entry| entry.at = first);
    entries
}

/// `2026-01-02T03:04:05.678901Z  WARN envd::server: message name=value`
fn logged(line: &str) -> Option<(u64, Level, &str)> {
    let (time, rest) = line.split_once(' ')?;
    let at = DateTime::parse_from_rfc3339(time).ok()?.timestamp_millis();
    let (level, message) = rest.trim_start().split_once(' ')?;
    let level = match level {
        "TRACE" => Level::Debug,
        level => Level::named(&level.to_ascii_lowercase())?,
    };
    Some((u64::try_from(at).ok()?, level, message.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<(u64, Level, String)> {
        parse(text, 3000).into_iter().map(|entry| (entry.at, entry.level, entry.message)).collect()
    }

    #[test]
    fn lines_have_their_instant_and_level_or_those_of_the_line_before() {
        let text = "of before\n\
            1970-01-01T00:00:01.500000Z  WARN envd::server: cannot take a connection error=x\n\n\
            \u{1b}[2Jpanicked\n\
            1970-01-01T00:00:02.000000Z ERROR envd: gone\n\
            1970-01-01T00:00:01.000000Z  INFO envd: a clock set back\n\
            1970-01-01T00:00:09.000000Z  WHIM envd: no level\n\
            9999-01-01T00:00:00.000000Z  INFO envd: to come\n";
        let wanted = [
            (1500, Level::Info, "of before"),
            (1500, Level::Warn, "envd::server: cannot take a connection error=x"),
            (1500, Level::Info, "\u{fffd}[2Jpanicked"),
            (2000, Level::Error, "envd: gone"),
            (2000, Level::Info, "envd: a clock set back"),
            (2000, Level::Info, "1970-01-01T00:00:09.000000Z  WHIM envd: no level"),
            (3000, Level::Info, "envd: to come"),
        ];
        assert_eq!(told(text), wanted.map(|(at, level, text)| (at, level, text.to_owned())));
    }

    #[test]
    fn of_a_long_file_the_end_is_read_from_the_beginning_of_a_line() {
        let dir = tempfile::tempdir().unwrap();
        assert!(entries(dir.path()).is_empty());
        let line = "1970-01-01T00:00:01Z  INFO envd: \u{fffd}\n";
        std::fs::write(dir.path().join(FILE), line.repeat(10_000)).unwrap();
        let found = entries(dir.path());
        assert!(found.len() as u64 > MOST / line.len() as u64 - 2);
        assert!(found.iter().all(|entry| entry.message == "envd: \u{fffd}"));
        std::fs::write(dir.path().join(FILE), [b'\xff'; 200_000]).unwrap();
        assert!(entries(dir.path()).len() <= 1);
    }
}
