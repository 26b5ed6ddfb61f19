//! What was put aside: compressed by a thread that takes its time, and deleted when it is too much.
//!
//! The compressed file and its index are on the disk before the lines they are of are deleted: the
//! only thing here that waits for the disk, and nobody waits for it.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use tokio_util::sync::CancellationToken;

use super::{
    block::Block,
    names::{Aside, Names},
    segment::Segment,
    shelf::Shelf,
};

/// What an index begins with; another form has another.
const MAGIC: &[u8] = b"coppice events index 1\n";
const HASH: usize = 32;
/// After each stretch it rests for so many times as long as that took.
const REST: u32 = 3;
/// Where others wait to be compressed.
const REST_BEHIND: u32 = 1;
const LONGEST_REST: Duration = Duration::from_millis(100);

pub(super) struct Packing {
    pub(super) names: Names,
    pub(super) shelf: Arc<Shelf>,
    /// Of files, with the one that is written to.
    pub(super) most: usize,
    /// Those that are there.
    pub(super) numbers: Vec<u64>,
    /// Nobody reads or writes any more.
    pub(super) closing: CancellationToken,
    pub(super) _lock: Arc<File>,
}

/// Put aside, and not compressed yet.
struct Waiting<'a> {
    put_aside: &'a mpsc::Receiver<u64>,
    todo: VecDeque<u64>,
}

impl Packing {
    /// Takes up what there was, then what comes, until there is nobody to say that anything does.
    pub(super) fn run(
        mut self,
        found: Vec<(u64, Aside)>,
        put_aside: &mpsc::Receiver<u64>,
        looked_through: &CancellationToken,
    ) {
        // Also where this ends by a mistake: nobody waits for it for good.
        let looked_through = looked_through.clone().drop_guard();
        self.numbers = found.iter().map(|(number, _)| *number).collect();
        self.keep_most();
        let mut waiting = Waiting { put_aside, todo: VecDeque::new() };
        for (number, aside) in found {
            self.hear(&mut waiting);
            if !self.numbers.contains(&number) {
                continue;
            }
            match self.take_up(number, aside) {
                Ok(true) => waiting.todo.push_back(number),
                Ok(false) => {}
                Err(error) => tracing::error!("events: file {number} cannot be read: {error}"),
            }
        }
        // Whoever looks for events need not wait until they are compressed.
        drop(looked_through);
        loop {
            self.hear(&mut waiting);
            let Some(number) = waiting.todo.pop_front() else {
                let Ok(number) = put_aside.recv() else { return };
                self.add(number, &mut waiting);
                continue;
            };
            if self.closing.is_cancelled() {
                // The next start does it.
                continue;
            }
            if let Err(error) = self.pack(number, &mut waiting) {
                tracing::warn!("events: file {number} cannot be compressed: {error}");
            }
        }
    }

    /// What was put aside meanwhile counts at once: to compress may be slower than to write.
    fn hear(&mut self, waiting: &mut Waiting<'_>) {
        while let Ok(number) = waiting.put_aside.try_recv() {
            self.add(number, waiting);
        }
    }

    fn add(&mut self, number: u64, waiting: &mut Waiting<'_>) {
        self.numbers.push(number);
        waiting.todo.push_back(number);
        self.keep_most();
    }

    /// The oldest go.
    fn keep_most(&mut self) {
        let over = (self.numbers.len() + 1).saturating_sub(self.most);
        for number in self.numbers.drain(..over) {
            self.shelf.forget();
            self.shelf.remove(number);
            self.names.remove(number);
        }
        if self.numbers.first().is_some_and(|first| *first > 1) {
            self.shelf.forget();
        }
    }

    /// Whether it is to be compressed yet.
    fn take_up(&self, number: u64, aside: Aside) -> io::Result<bool> {
        if !aside.zipped {
            let plain = Segment::of_lines(File::open(self.names.plain(number))?)?;
            if plain.blocks.is_empty() {
                fs::remove_file(self.names.plain(number))?;
                return Ok(false);
            }
            self.shelf.put(number, plain);
            return Ok(true);
        }
        if aside.plain {
            fs::remove_file(self.names.plain(number))?;
        }
        let file = File::open(self.names.zipped(number))?;
        let size = file.metadata()?.len();
        let known = fs::read(self.names.index(number)).ok().and_then(|text| read_index(&text));
        if let Some(blocks) = known.filter(|all| all.last().map_or(0, |last| last.end()) == size) {
            self.shelf.put(number, Segment { file: Arc::new(file), zipped: true, blocks });
            return Ok(false);
        }
        let found = Segment::of_members(file)?;
        self.write_index(number, &found.blocks)?;
        self.shelf.put(number, found);
        Ok(false)
    }

    /// Compresses one whose lines are on the shelf.
    fn pack(&mut self, number: u64, waiting: &mut Waiting<'_>) -> io::Result<()> {
        let Some(plain) = self.shelf.get(number) else { return Ok(()) };
        // A file of no lines at all is nothing that reads gzip takes for a file.
        if plain.blocks.is_empty() {
            self.shelf.remove(number);
            return fs::remove_file(self.names.plain(number));
        }
        let path = self.names.zipped(number);
        let new = Names::unfinished(&path);
        let mut file = create(&new)?;
        let (mut blocks, mut at) = (Vec::new(), 0);
        for block in &plain.blocks {
            let began = Instant::now();
            let mut member = GzEncoder::new(Vec::new(), Compression::default());
            member.write_all(&plain.read(block)?)?;
            let member = member.finish()?;
            file.write_all(&member)?;
            let length = u32::try_from(member.len()).map_err(io::Error::other)?;
            blocks.push(Arc::new(block.moved(at, length)));
            at += u64::from(length);
            let took = began.elapsed();
            self.hear(waiting);
            // The next start does it; or there is nothing to do it for, as it was the oldest.
            if self.closing.is_cancelled() || !self.numbers.contains(&number) {
                return fs::remove_file(&new);
            }
            let rest = if waiting.todo.is_empty() { REST } else { REST_BEHIND };
            thread::sleep((took * rest).min(LONGEST_REST));
        }
        file.sync_all()?;
        self.write_index(number, &blocks)?;
        fs::rename(&new, &path)?;
        sync_dir(&self.names.0)?;
        let file = Arc::new(File::open(&path)?);
        self.shelf.put(number, Segment { file, zipped: true, blocks });
        fs::remove_file(self.names.plain(number))
    }

    fn write_index(&self, number: u64, blocks: &[Arc<Block>]) -> io::Result<()> {
        let path = self.names.index(number);
        let new = Names::unfinished(&path);
        create(&new)?.write_all(&index_of(blocks))?;
        fs::rename(&new, &path)
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// A rename is on the disk once its directory is.
fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn index_of(blocks: &[Arc<Block>]) -> Vec<u8> {
    let mut text = MAGIC.to_vec();
    blocks.iter().for_each(|block| block.write(&mut text));
    let hash = blake3::hash(&text);
    text.extend(hash.as_bytes());
    text
}

/// `None` where it is not what was written.
fn read_index(text: &[u8]) -> Option<Vec<Arc<Block>>> {
    let (text, hash) = text.split_at_checked(text.len().checked_sub(HASH)?)?;
    if blake3::hash(text).as_bytes() != hash {
        return None;
    }
    let mut rest = text.strip_prefix(MAGIC)?;
    let mut blocks = Vec::new();
    while !rest.is_empty() {
        blocks.push(Arc::new(Block::read(&mut rest)?));
    }
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_aside_counts_and_is_known_before_anything_is_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names(dir.path().to_owned());
        (1..=9).for_each(|number| fs::write(names.plain(number), "line\n").unwrap());
        let (shelf, closing) = (Arc::new(Shelf::default()), CancellationToken::new());
        for number in 6..=9 {
            let file = File::open(names.plain(number)).unwrap();
            shelf.put(number, Segment::of_lines(file).unwrap());
        }
        // Nothing is compressed.
        closing.cancel();
        let lock = Arc::new(create(&names.lock()).unwrap());
        let packing = Packing {
            names: names.clone(),
            shelf: shelf.clone(),
            most: 7,
            numbers: Vec::new(),
            closing,
            _lock: lock,
        };
        let (aside, put_aside) = mpsc::channel();
        (6..=9).for_each(|number| aside.send(number).unwrap());
        drop(aside);
        let plain = Aside { plain: true, zipped: false };
        let looked_through = CancellationToken::new();
        packing.run((1..=5).map(|n| (n, plain)).collect(), &put_aside, &looked_through);
        assert!(looked_through.is_cancelled());
        assert!(shelf.look().files.into_keys().eq(4..=9));
        assert!(names.look().unwrap().into_iter().eq((4..=9).map(|number| (number, plain))));
    }
}
