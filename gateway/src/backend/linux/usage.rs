//! What the kernel has counted for each sandbox, read from the files of its cgroups.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::warn;

use super::{
    cgroup::{Cgroups, is_gone},
    disk::Disk,
    error::Call,
};
use crate::{
    backend::{BlockIo, Error, Usage},
    sandbox::SandboxId,
};

/// There is no racct(4) here: cgroups account for sandboxes.
pub fn racct_enabled() -> bool {
    false
}

/// Where one sandbox's figures are.
pub(super) struct Paths {
    /// v2's `cpu.stat` or v1's `cpuacct.usage`, of the parent.
    pub(super) cpu: PathBuf,
    /// `pids.current` of the parent.
    pub(super) processes: PathBuf,
    /// Of each leaf; `memory.stat` lies beside each.
    pub(super) memory: Vec<PathBuf>,
    /// v2's `io.stat` or v1's `blkio.throttle.io_service_bytes_recursive`, of the parent.
    pub(super) block: Option<PathBuf>,
    /// The disk of which that is to be told, `8:0`; `None` is all.
    pub(super) disk: Option<String>,
}

/// What one sweep leaves to the next. The files stay open: to open one takes six times as long as
/// to read it.
#[derive(Default)]
pub(super) struct Kept {
    sweeps: u64,
    /// In the order of their ids, as they are listed.
    known: Vec<(SandboxId, Known)>,
}

struct Known {
    cpu: Figure,
    processes: Figure,
    memory: Vec<Figure>,
    block: Option<Figure>,
    disk: Option<String>,
    /// As it was found last.
    usage: Option<Usage>,
    /// Whether it has run since its cache was looked at in its turn, and since its disk was.
    ran: bool,
    wrote: bool,
    /// The memory it had when its cache was looked at.
    memory_then: u64,
}

/// Sweeps in which the disk is looked at once, and so is the cache of a sandbox that has run: both
/// change slowly, and cost as much to read as all else.
const RARELY: u64 = 5;
/// Sweeps in which all of a sandbox is looked at once though it has not run. Where no CPU time was
/// spent no process has begun, ended or touched memory; but its host may have taken some back, and
/// packets may wait for a process that does not read them.
const SELDOM: u64 = 30;
/// The cache is looked at at once when memory has grown or shrunk by more than this (bytes): what
/// is no cache is the difference of both, and would seem to have.
const MUCH: u64 = 4 << 20;

/// What is to be read beside the CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    now: bool,
    cache: bool,
    disk: bool,
}

impl Turn {
    const ALL: Self = Self { now: true, cache: true, disk: true };

    /// In the sweep of that number: whether it has run since the last one, and since its cache was
    /// looked at.
    fn of(number: u64, moved: bool, ran: bool) -> Self {
        let rarely = number.is_multiple_of(RARELY);
        let now = moved || number.is_multiple_of(SELDOM);
        Self { now, cache: rarely && ran, disk: rarely }
    }
}

struct Figure {
    path: PathBuf,
    file: File,
}

/// Blocks. A sandbox that is half made or half gone is left out, as is one that cannot be read.
pub(super) fn sweep(
    cgroups: &Cgroups,
    disk: &Disk,
    kept: &Mutex<Kept>,
) -> BTreeMap<SandboxId, Usage> {
    let mut kept = kept.lock();
    let ids = cgroups.list_briefly();
    let sweep = kept.sweeps.wrapping_add(1);
    let known = Vec::with_capacity(ids.len());
    let before = std::mem::replace(&mut *kept, Kept { sweeps: sweep, known }).known;
    let mut before = before.into_iter().peekable();
    let mut all = Vec::with_capacity(ids.len());
    let mut failed = None;
    for id in ids {
        while before.next_if(|(other, _)| *other < id).is_some() {}
        let known = before.next_if(|(other, _)| *other == id).map(|(_, known)| known);
        // Turns are the same whoever comes and goes, and not all at once.
        let number = sweep.wrapping_add(id.spread());
        let paths = || cgroups.usage_paths(id);
        match look(known, number, paths, |ran| disk.used(id, ran)) {
            Ok(Some((known, usage))) => {
                kept.known.push((id, known));
                all.push((id, usage));
            }
            Ok(None) => {}
            Err(error) => failed = failed.or(Some((id, error))),
        }
    }
    if let Some((id, error)) = failed {
        warn!(sandbox = %id, %error, "what it uses cannot be told");
    }
    let all = all.into_iter().collect();
    disk.forget_others(&all);
    all
}

/// Reads what is open. Where that is gone there may be another cgroup in its place.
fn look(
    known: Option<Known>,
    number: u64,
    paths: impl FnOnce() -> Result<Paths, Error>,
    disk: impl Fn(bool) -> Option<u64>,
) -> Result<Option<(Known, Usage)>, Error> {
    if let Some(mut known) = known
        && let Some(usage) = known.look(number, &disk)?
    {
        return Ok(Some((known, usage)));
    }
    let Some(mut known) = Known::open(paths()?)? else { return Ok(None) };
    Ok(known.look(number, disk)?.map(|usage| (known, usage)))
}

impl Known {
    fn open(paths: Paths) -> Result<Option<Self>, Error> {
        let Some(cpu) = Figure::open(paths.cpu)? else { return Ok(None) };
        let Some(processes) = Figure::open(paths.processes)? else { return Ok(None) };
        let mut memory = Vec::with_capacity(paths.memory.len());
        for path in paths.memory {
            let Some(leaf) = Figure::open(path)? else { return Ok(None) };
            memory.push(leaf);
        }
        let block = paths.block.map(Figure::open).transpose()?.flatten();
        Ok(Some(Self {
            cpu,
            processes,
            memory,
            block,
            disk: paths.disk,
            usage: None,
            ran: true,
            wrote: true,
            memory_then: 0,
        }))
    }

    /// `None` where it is gone. The CPU time comes first: what is spent after that shows in the
    /// next look, which then reads all again.
    fn look(
        &mut self,
        number: u64,
        disk: impl FnOnce(bool) -> Option<u64>,
    ) -> Result<Option<Usage>, Error> {
        let mut buffer = [0; 1024];
        let Some(text) = self.cpu.read(&mut buffer)? else { return Ok(None) };
        let at = Instant::now();
        let cpu = cpu_time(text).ok_or_else(|| strange(&self.cpu.path, text))?;
        let moved = self.usage.is_none_or(|before| before.cpu != cpu);
        (self.ran, self.wrote) = (self.ran || moved, self.wrote || moved);
        let (before, turn) = match self.usage {
            None => (Usage::none(), Turn::ALL),
            Some(before) => (before, Turn::of(number, moved, self.ran)),
        };
        let mut usage = Usage { at, cpu, ..before };
        if turn.now {
            let Some(processes) = self.processes.number()? else { return Ok(None) };
            let Some(bytes) = self.memory()? else { return Ok(None) };
            (usage.processes, usage.memory_bytes) = (processes, bytes);
        }
        // What it has written goes to the disk when it no longer runs.
        if turn.now || (turn.disk && self.wrote) {
            usage.block = self.block()?;
        }
        // Of what has not run the cache can only have changed as its memory has.
        let change = usage.memory_bytes.abs_diff(self.memory_then);
        if turn.cache || change > if moved { MUCH } else { 0 } {
            let Some(bytes) = self.cache()? else { return Ok(None) };
            usage.cache_bytes = bytes;
            self.memory_then = usage.memory_bytes;
        }
        if turn.cache {
            // Linux: what is in `memory.stat` may be of two seconds before.
            self.ran = moved;
        }
        if turn.disk {
            usage.disk_bytes = disk(std::mem::take(&mut self.wrote));
        }
        self.usage = Some(usage);
        Ok(self.usage)
    }

    fn memory(&self) -> Result<Option<u64>, Error> {
        let mut bytes = 0_u64;
        for leaf in &self.memory {
            let Some(some) = leaf.number()? else { return Ok(None) };
            bytes = bytes.saturating_add(some);
        }
        Ok(Some(bytes))
    }

    fn block(&self) -> Result<Option<BlockIo>, Error> {
        let Some(figure) = &self.block else { return Ok(None) };
        let mut buffer = [0; 4096];
        Ok(figure.read(&mut buffer)?.map(|text| block_io(text, self.disk.as_deref())))
    }

    fn cache(&self) -> Result<Option<u64>, Error> {
        let mut bytes = 0_u64;
        for leaf in &self.memory {
            let stat = Figure::open(leaf.path.with_file_name("memory.stat"))?;
            // What is wanted of it is at its beginning.
            let mut buffer = [0; 4096];
            let Some(stat) = stat.as_ref() else { return Ok(None) };
            let Some(text) = stat.read(&mut buffer)? else { return Ok(None) };
            bytes = bytes.saturating_add(cached(text));
        }
        Ok(Some(bytes))
    }
}

impl Figure {
    fn open(path: PathBuf) -> Result<Option<Self>, Error> {
        match File::open(&path) {
            Err(error) if is_gone(&error) => Ok(None),
            opened => {
                let file = opened.call("open", path.display())?;
                Ok(Some(Self { path, file }))
            }
        }
    }

    /// As it is now, as much as there is room for; a file of a cgroup is ASCII.
    fn read<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a str>, Error> {
        let length = match self.file.read_at(buffer, 0) {
            Err(error) if is_gone(&error) => return Ok(None),
            read => read.call("read", self.path.display())?,
        };
        let text = std::str::from_utf8(&buffer[..length]);
        text.map(Some).map_err(|_| strange(&self.path, "not text"))
    }

    fn number(&self) -> Result<Option<u64>, Error> {
        let mut buffer = [0; 64];
        let Some(text) = self.read(&mut buffer)? else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| strange(&self.path, text))
    }
}

/// The `usage_usec` line of `cpu.stat`, or the nanoseconds that are all of `cpuacct.usage`.
fn cpu_time(text: &str) -> Option<Duration> {
    if let Ok(nanoseconds) = text.trim().parse() {
        return Some(Duration::from_nanos(nanoseconds));
    }
    let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    line.trim().parse().ok().map(Duration::from_micros)
}

/// What of a leaf's memory is a copy of files: `file` of v2's `memory.stat` and `cache` of v1's, of
/// which what is in no file but in a tmpfs is no copy.
fn cached(stat: &str) -> u64 {
    let of = |name: &str| {
        let value = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse::<u64>().ok())
    };
    let all = of("file").or_else(|| of("cache")).unwrap_or(0);
    all.saturating_sub(of("shmem").unwrap_or(0))
}

/// `8:0 rbytes=1 wbytes=2 ...` of v2, and `8:0 Read 1` with `8:0 Write 2` below it of v1.
fn block_io(text: &str, disk: Option<&str>) -> BlockIo {
    let mut all = BlockIo::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let device = words.next();
        if disk.is_some() && device != disk {
            continue;
        }
        let words: Vec<&str> = words.collect();
        let of = |v2: &str, v1: &str| match words[..] {
            [name, bytes] if name == v1 => bytes.parse().unwrap_or(0),
            _ => {
                let mut named = words.iter().filter_map(|word| word.strip_prefix(v2));
                named.next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
            }
        };
        all.read = all.read.saturating_add(of("rbytes=", "Read"));
        all.written = all.written.saturating_add(of("wbytes=", "Write"));
    }
    all
}

fn strange(path: &Path, text: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::InvalidData, format!("not a figure: {text:?}"));
    Error::Call { call: "read", target: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn cpu_time_is_read_in_the_units_of_either_version() {
        let stat = "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n";
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(1500)));
        assert_eq!(cpu_time("1500000000\n"), Some(Duration::from_millis(1500)));
        for wrong in ["", "usage_usec\n", "usage_usec x\n", "user_usec 1\n", "-1\n"] {
            assert_eq!(cpu_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_is_a_copy_of_a_file_is_cache() {
        assert_eq!(cached("anon 1\nfile 300\nkernel 2\nshmem 100\nfile_mapped 9\n"), 200);
        assert_eq!(cached("cache 300\nrss 5\nshmem 100\nmapped_file 7\ntotal_cache 900\n"), 200);
        assert_eq!(cached("file 1\nshmem 2\n"), 0);
        assert_eq!(cached("file x\n"), 0);
    }

    #[test]
    fn what_was_asked_of_the_disk_is_read_as_either_version_has_it() {
        let read = |text, disk| {
            let BlockIo { read, written } = block_io(text, disk);
            (read, written)
        };
        let v2 = "8:0 rbytes=7 wbytes=9 rios=1 wios=1 dbytes=0 dios=0\n7:0 rbytes=1 wbytes=2\n";
        assert_eq!(read(v2, Some("8:0")), (7, 9));
        assert_eq!(read(v2, None), (8, 11));
        assert_eq!(read(v2, Some("9:0")), (0, 0));
        let v1 = "8:0 Read 7\n8:0 Write 9\n8:0 Sync 16\n8:0 Total 16\n7:0 Read 1\nTotal 17\n";
        assert_eq!(read(v1, Some("8:0")), (7, 9));
        assert_eq!(read(v1, None), (8, 9));
        for strange in ["", "Total 0\n", "8:0\n", "8:0 rbytes=x wbytes=-1\n", "8:0 Read\n"] {
            assert_eq!(read(strange, None), (0, 0), "{strange}");
        }
    }

    #[test]
    fn what_has_run_is_looked_at_at_once_and_what_has_not_within_a_bound() {
        let turns = |moved, ran| (0..SELDOM).map(move |number| Turn::of(number, moved, ran));
        assert!(turns(true, true).all(|turn| turn.now));
        let count = |which: fn(&Turn) -> bool| {
            [(true, true), (false, true), (false, false)]
                .map(|(moved, ran)| turns(moved, ran).filter(which).count())
        };
        assert_eq!(count(|turn| turn.now), [30, 1, 1]);
        assert_eq!(count(|turn| turn.cache), [6, 6, 0]);
        assert_eq!(count(|turn| turn.disk), [6, 6, 6]);
    }

    /// A sandbox's files, made of plain ones.
    struct Bed(tempfile::TempDir);

    impl Bed {
        fn new() -> Self {
            let bed = Self(tempfile::tempdir().unwrap());
            bed.write("cpu.stat", "usage_usec 7\n");
            bed.write("pids.current", "3\n");
            bed.write("envd", "1000\n");
            bed.write("user", "24\n");
            bed.write("memory.stat", "file 30\nshmem 10\n");
            bed
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.0.path().join(name), text).unwrap();
        }

        fn paths(&self) -> Paths {
            let file = |name: &str| self.0.path().join(name);
            let memory = vec![file("envd"), file("user")];
            Paths {
                cpu: file("cpu.stat"),
                processes: file("pids.current"),
                memory,
                block: Some(file("io.stat")),
                disk: None,
            }
        }

        fn known(&self) -> Known {
            Known::open(self.paths()).unwrap().unwrap()
        }
    }

    #[test]
    fn figures_are_added_up_as_they_are_when_it_has_run_and_else_in_its_turn() {
        let bed = Bed::new();
        let mut known = bed.known();
        let mut look = |number, disk| {
            let usage = known.look(number, |_| Some(disk)).unwrap().unwrap();
            let Usage { memory_bytes, cache_bytes, disk_bytes, processes, .. } = usage;
            (usage.cpu.as_micros(), memory_bytes, cache_bytes, disk_bytes.unwrap(), processes)
        };
        assert_eq!(look(1, 5), (7, 1024, 40, 5, 3));
        bed.write("user", "25\n");
        bed.write("pids.current", "4\n");
        bed.write("memory.stat", "file 31\nshmem 10\n");
        assert_eq!(look(2, 6), (7, 1024, 40, 5, 3));
        // It has run until shortly before its cache was looked at.
        assert_eq!(look(RARELY, 6), (7, 1024, 42, 6, 3));
        bed.write("memory.stat", "file 32\nshmem 10\n");
        assert_eq!(look(RARELY * 2, 7), (7, 1024, 42, 7, 3));
        bed.write("cpu.stat", "usage_usec 8\n");
        assert_eq!(look(RARELY * 2 + 1, 8), (8, 1025, 42, 7, 4));
        assert_eq!(look(RARELY * 3, 8), (8, 1025, 44, 8, 4));
        bed.write("user", "1\n");
        bed.write("memory.stat", "file 1\nshmem 0\n");
        assert_eq!(look(RARELY * 4, 8), (8, 1025, 44, 8, 4));
        assert_eq!(look(SELDOM, 8), (8, 1001, 2, 8, 4));
        let much = (MUCH + 1002).to_string();
        bed.write("user", &much);
        bed.write("cpu.stat", "usage_usec 9\n");
        bed.write("memory.stat", "file 100\n");
        assert_eq!(look(SELDOM + 1, 8), (9, MUCH + 2002, 200, 8, 4));
    }

    #[test]
    fn what_is_no_figure_is_named_and_a_sandbox_that_is_half_gone_is_left_out() {
        let bed = Bed::new();
        bed.write("pids.current", "max\n");
        let error = bed.known().look(1, |_| None).err().unwrap().to_string();
        assert!(error.contains("pids.current: not a figure"), "{error}");
        fs::remove_file(bed.0.path().join("user")).unwrap();
        assert!(Known::open(bed.paths()).unwrap().is_none());
    }
}
