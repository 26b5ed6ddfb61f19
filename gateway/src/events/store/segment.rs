//! One file of lines, compressed or not, and what is in which stretch of it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    sync::Arc,
};

use flate2::bufread::GzDecoder;

use super::block::{self, Block, Marks};

/// Beyond it a stretch is none that was written here: one line of the longest, and what was before.
pub(super) const LONGEST: u64 = 16 << 20;

#[derive(Clone)]
pub(super) struct Segment {
    pub(super) file: Arc<File>,
    /// Each block is a member of its own of a gzip file.
    pub(super) zipped: bool,
    pub(super) blocks: Vec<Arc<Block>>,
}

impl Segment {
    /// Looks through a file of lines. What is torn at its end is part of no block.
    pub(super) fn of_lines(file: File) -> io::Result<Self> {
        let mut blocks = Vec::new();
        let mut from = &file;
        from.seek(SeekFrom::Start(0))?;
        let mut lines = BufReader::with_capacity(block::SIZE, from);
        let mut line = Vec::new();
        loop {
            line.clear();
            lines.read_until(b'\n', &mut line)?;
            let Some(text) = line.strip_suffix(b"\n") else { break };
            block::append(&mut blocks, line.len(), Marks::read(text).as_ref());
        }
        Ok(Self { file: Arc::new(file), zipped: false, blocks })
    }

    /// Looks through a file that was compressed here.
    pub(super) fn of_members(file: File) -> io::Result<Self> {
        let mut blocks = Vec::new();
        let mut from = &file;
        from.seek(SeekFrom::Start(0))?;
        let mut members = BufReader::with_capacity(block::SIZE, from);
        let mut at = 0;
        while !members.fill_buf()?.is_empty() {
            let mut text = Vec::new();
            GzDecoder::new(&mut members).take(LONGEST).read_to_end(&mut text)?;
            let end = members.stream_position()?;
            if text.len() as u64 == LONGEST {
                return Err(io::Error::other("it was not compressed here"));
            }
            let mut block = Block::new(at);
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                block.add(line.len(), Marks::read(line).as_ref());
            }
            let length = u32::try_from(end - at).map_err(io::Error::other)?;
            blocks.push(Arc::new(block.moved(at, length)));
            at = end;
        }
        Ok(Self { file: Arc::new(file), zipped: true, blocks })
    }

    /// The lines of a block.
    pub(super) fn read(&self, block: &Block) -> io::Result<Vec<u8>> {
        let mut stored = vec![0; block.length as usize];
        self.file.read_exact_at(&mut stored, block.at)?;
        if !self.zipped {
            return Ok(stored);
        }
        let mut text = Vec::with_capacity(block.plain as usize);
        GzDecoder::new(stored.as_slice()).take(u64::from(block.plain)).read_to_end(&mut text)?;
        Ok(text)
    }
}
