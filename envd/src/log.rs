//! envd's log, which the gateway has opened: a file on the host's disk, outside of the sandbox.
//!
//! Code in the sandbox can make envd complain as often as it likes, so the file has a bound. What
//! comes first is kept for good, and of the rest the latest.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    panic,
    sync::Mutex,
};

/// The file is never longer (bytes).
const MAX: u64 = 256 << 10;

/// Kept whatever comes.
const BEGINNING: u64 = 64 << 10;

/// The longest line.
const MAX_LINE: usize = 4 << 10;

const CUT: &[u8] = b" [cut]\n";

/// Has all that is logged go to standard error, in bounds.
///
/// # Errors
/// Of dup(2).
pub(crate) fn begin() -> io::Result<()> {
    let file = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let log = Mutex::new(Bounded(file));
    tracing_subscriber::fmt().with_ansi(false).with_writer(log).init();
    // Else it would be written past the bound.
    panic::set_hook(Box::new(|panicked| tracing::error!("{panicked}")));
    Ok(())
}

/// A file that is appended to. Each write is a line.
struct Bounded(File);

impl Write for Bounded {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let file = self.0.metadata()?;
        // A terminal has no length.
        if file.is_file() && file.len() + MAX_LINE as u64 > MAX {
            self.0.set_len(BEGINNING)?;
            self.0.write_all(b"\n[some lines are missing here]\n")?;
        }
        if line.len() <= MAX_LINE {
            self.0.write_all(line)?;
        } else {
            let kept = &line[..MAX_LINE - CUT.len()];
            self.0.write_all(&[kept, CUT].concat())?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_log_keeps_its_beginning_and_its_end_and_never_outgrows_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let open = || File::options().append(true).create(true).open(&path).unwrap();
        let mut log = Bounded(open());
        let lines = 5000;
        for n in 0..lines {
            log.write_all(format!("{n} {}\n", "x".repeat(n % 200)).as_bytes()).unwrap();
            assert!(fs::metadata(&path).unwrap().len() <= MAX, "{n}");
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("0 \n1 x\n"));
        let last = text.lines().last().unwrap();
        assert!(last.starts_with(&format!("{} ", lines - 1)), "{last}");
        // Another one goes on where it is.
        Bounded(open()).write_all(b"more\n").unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("\nmore\n"));
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Bounded(File::options().append(true).create(true).open(&path).unwrap());
        log.write_all(&vec![b'x'; 10 << 20]).unwrap();
        let text = fs::read(&path).unwrap();
        assert_eq!(text.len(), MAX_LINE);
        assert!(text.ends_with(CUT));
    }
}
