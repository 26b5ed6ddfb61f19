//! The beginning of a process's output, kept for the report of its end.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::fanout::Output;
use crate::wire::MAX_TEXT;

/// What all processes that live may have kept (bytes). Of those that find no room the output is
/// only counted.
const ROOM: usize = 512 << 10;

/// Taken of it. envd has one table of processes, so there is one of this.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

#[derive(Default)]
pub(super) struct Heard {
    /// What a terminal shows is here.
    pub(super) stdout: Beginning,
    pub(super) stderr: Beginning,
}

#[derive(Default)]
pub(super) struct Beginning {
    kept: Vec<u8>,
    /// All there was.
    pub(super) bytes: u64,
    /// From here on something is missing.
    cut: bool,
}

impl Heard {
    pub(super) fn take(&mut self, output: &Output) {
        match output {
            Output::Stdout(bytes) | Output::Pty(bytes) => self.stdout.take(bytes),
            Output::Stderr(bytes) => self.stderr.take(bytes),
        }
    }
}

impl Beginning {
    fn take(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        let wanted = bytes.len().min(MAX_TEXT - self.kept.len());
        if self.cut || wanted == 0 {
            return;
        }
        let room = |taken: usize| taken.checked_add(wanted).filter(|sum| *sum <= ROOM);
        if TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            self.cut = true;
            return;
        }
        self.kept.extend_from_slice(&bytes[..wanted]);
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.kept).into_owned();
        // A byte that is no text takes three.
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text
    }
}

impl Drop for Beginning {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.kept.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, as what is taken is counted over all.
    #[test]
    fn the_beginning_is_kept_and_all_of_them_have_a_bound() {
        let mut heard = Heard::default();
        heard.take(&Output::Stdout("a\u{fc}".into()));
        heard.take(&Output::Stderr(vec![0xff; 100_000].into()));
        heard.take(&Output::Pty("b".into()));
        assert_eq!((heard.stdout.text().as_str(), heard.stdout.bytes), ("a\u{fc}b", 4));
        assert!(heard.stderr.text().len() <= MAX_TEXT && heard.stderr.bytes == 100_000);

        let chunk = Output::Stdout(vec![b'x'; MAX_TEXT].into());
        let mut many: Vec<_> = (0..2 * ROOM / MAX_TEXT).map(|_| Heard::default()).collect();
        many.iter_mut().for_each(|heard| heard.take(&chunk));
        let kept = |many: &[Heard]| many.iter().map(|heard| heard.stdout.kept.len()).sum::<usize>();
        assert!(ROOM / 2 < kept(&many) && kept(&many) <= ROOM);
        let last = many.pop().unwrap();
        assert_eq!((last.stdout.text().as_str(), last.stdout.bytes), ("", MAX_TEXT as u64));
        drop(many);
        let mut next = Heard::default();
        next.take(&chunk);
        assert_eq!(next.stdout.text().len(), MAX_TEXT, "room comes back");
    }
}
