//! Lines on their way out: of a bounded size, and written by a thread that nobody waits for.
//!
//! What finds no room is lost, counted, and said to be so in the log itself. However slow the disk
//! is, or whoever reads standard error, only lines are lost by it.

use std::{
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Text that may wait (bytes).
const ROOM: usize = 4 << 20;

/// Where lines go in the end. Whole ones, in as few calls as there can be.
pub(super) trait Sink: Send + 'static {
    fn write(&mut self, text: &[u8]) -> io::Result<()>;

    /// Somebody has taken away what was written to.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The way to one sink; clones share it.
#[derive(Clone)]
pub(super) struct Outlet(Arc<Way>);

struct Way {
    name: &'static str,
    waiting: Mutex<Waiting>,
    stirred: Condvar,
    done: Condvar,
    lost: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    records: u64,
    /// Those after the text that had no room.
    untold: u64,
    reopen: bool,
    /// Somebody is writing what was here before.
    writing: bool,
}

impl Outlet {
    /// `name` is for people.
    pub(super) fn open(name: &'static str, sink: impl Sink) -> io::Result<Self> {
        let outlet = Self(Arc::new(Way {
            name,
            waiting: Mutex::default(),
            stirred: Condvar::new(),
            done: Condvar::new(),
            lost: AtomicU64::new(0),
        }));
        let writer = outlet.clone();
        thread::Builder::new().name("log".into()).spawn(move || writer.write_all(sink))?;
        Ok(outlet)
    }

    fn put(&self, record: &[u8]) {
        let mut waiting = self.0.waiting.lock();
        if waiting.text.len() + record.len() > ROOM {
            waiting.untold += 1;
            self.0.lost.fetch_add(1, Relaxed);
            return;
        }
        let first = waiting.text.is_empty();
        waiting.text.extend_from_slice(record);
        waiting.records += 1;
        drop(waiting);
        if first {
            self.0.stirred.notify_one();
        }
    }

    pub(super) fn reopen(&self) {
        self.0.waiting.lock().reopen = true;
        self.0.stirred.notify_one();
    }

    /// How many lines there will never be.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Relaxed)
    }

    /// Returns when all that was put is written, or after so long.
    pub(super) fn settle(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut waiting = self.0.waiting.lock();
        while waiting.writing || !waiting.text.is_empty() {
            if self.0.done.wait_until(&mut waiting, until).timed_out() {
                return;
            }
        }
    }

    /// As long as the process lives: there are lines up to its end.
    fn write_all(self, mut sink: impl Sink) {
        let mut text = Vec::new();
        // Of lines that could not be written since it was last possible.
        let mut failed = 0;
        loop {
            let mut waiting = self.0.waiting.lock();
            waiting.writing = false;
            self.0.done.notify_all();
            while waiting.text.is_empty() && !waiting.reopen {
                self.0.stirred.wait(&mut waiting);
            }
            waiting.writing = true;
            text.clear();
            mem::swap(&mut text, &mut waiting.text);
            let (records, untold) =
                (mem::take(&mut waiting.records), mem::take(&mut waiting.untold));
            let reopen = mem::take(&mut waiting.reopen);
            drop(waiting);
            let name = self.0.name;
            if untold > 0 {
                tracing::error!(lost = untold, "{name} is slower than what is logged");
            }
            if reopen && let Err(error) = sink.reopen() {
                tracing::error!(%error, "{name} cannot be opened anew, and goes on where it is");
            }
            match if text.is_empty() { Ok(()) } else { sink.write(&text) } {
                Ok(()) if failed > 0 => {
                    tracing::error!(lost = mem::take(&mut failed), "{name} goes on");
                }
                Ok(()) => {}
                Err(error) => {
                    self.0.lost.fetch_add(records, Relaxed);
                    if failed == 0 {
                        tracing::error!(%error, "{name} cannot be written");
                    }
                    failed += records;
                }
            }
            // A burst's room is given back.
            if text.capacity() > ROOM / 16 {
                text = Vec::new();
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Outlet {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// Each write is a record.
impl io::Write for &Outlet {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.put(record);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error.
pub(super) struct Stderr;

impl Sink for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut io::stderr().lock(), text)
    }
}
