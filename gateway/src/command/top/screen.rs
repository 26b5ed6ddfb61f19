//! The terminal, taken as a whole and given back as it was, however this ends: by a key, a signal,
//! an error or a panic. A few escape sequences that every terminal has known for decades, so that no
//! library of widgets is needed.

use std::{
    io::{self, Write},
    panic,
    sync::{Mutex, Once},
};

use nix::sys::signal::{Signal, raise};
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::table::Shown;

/// The other screen, no cursor, no line that is continued on the next.
const TAKE: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const GIVE_BACK: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";
/// Where a terminal does not say.
const ROWS: usize = 24;
const COLUMNS: usize = 80;

/// How the terminal was, while it is ours.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

pub(super) struct Screen {
    /// What stands there, by rows.
    drawn: Vec<Shown>,
    size: (usize, usize),
}

impl Screen {
    /// # Errors
    /// Standard output is no terminal, or cannot be written.
    pub(super) fn take() -> io::Result<Self> {
        seize()?;
        Ok(Self { drawn: Vec::new(), size: (0, 0) })
    }

    /// After [`Self::give_back`].
    pub(super) fn take_again(&mut self) -> io::Result<()> {
        self.forget();
        seize()
    }

    pub(super) fn give_back(&mut self) {
        give_back();
        self.forget();
    }

    /// It may be that something else stands there by now.
    pub(super) fn forget(&mut self) {
        self.drawn.clear();
        self.size = (0, 0);
    }

    /// Draws what has changed of the lines that there are for so many rows and columns.
    pub(super) fn show(
        &mut self,
        lines: impl FnOnce(usize, usize) -> Vec<Shown>,
    ) -> io::Result<()> {
        let size = size();
        let mut text = String::new();
        if self.size != size {
            text += "\x1b[0m\x1b[2J";
            self.drawn.clear();
            self.size = size;
        }
        let (rows, columns) = size;
        let mut lines = lines(rows, columns);
        lines.resize(rows, Shown::default());
        for (row, line) in lines.iter().enumerate() {
            if self.drawn.get(row) == Some(line) {
                continue;
            }
            text += &format!("\x1b[{};1H", row + 1);
            text += if line.marked { "\x1b[7m" } else { "\x1b[0m" };
            text.extend(line.text.chars().take(columns));
            text += "\x1b[0m\x1b[K";
        }
        self.drawn = lines;
        put(&text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn seize() -> io::Result<()> {
    let before = tcgetattr(io::stdout())?;
    let mut ours = before.clone();
    // Whatever is typed comes at once, by itself and unseen.
    ours.make_raw();
    // What a panic says is to begin at the beginning of a line.
    ours.output_modes |= OutputModes::OPOST;
    tcsetattr(io::stdout(), OptionalActions::Now, &ours)?;
    if let Ok(mut kept) = BEFORE.lock() {
        *kept = Some(before);
    }
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // A release ends in a panic without dropping anything.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panicked| {
            give_back();
            hook(panicked);
        }));
    });
    put(TAKE)
}

fn give_back() {
    let Ok(mut before) = BEFORE.lock() else { return };
    if let Some(before) = before.take() {
        // There is nobody to tell.
        let _ = put(GIVE_BACK);
        let _ = tcsetattr(io::stdout(), OptionalActions::Now, &before);
    }
}

fn put(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Rows and columns.
fn size() -> (usize, usize) {
    let told = tcgetwinsize(io::stdout()).ok();
    let told = told.map(|size| (usize::from(size.ws_row), usize::from(size.ws_col)));
    told.filter(|(rows, columns)| *rows > 0 && *columns > 0).unwrap_or((ROWS, COLUMNS))
}

/// Returns when somebody has this process go on.
pub(super) fn stop_until_continued() {
    // That it could not be stopped harms nobody.
    let _ = raise(Signal::SIGTSTP);
}
