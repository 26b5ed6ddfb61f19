//! What is known of a stretch of a file without reading it.

use std::sync::Arc;

use super::line::Line;
use crate::events::Event;

/// A stretch is complete with the line that makes it so long (bytes).
pub(super) const SIZE: usize = 256 << 10;

/// Of a filter: with 1,100 marks, which is a stretch of short lines of hundreds of sandboxes, one
/// of thirty questions is answered by a wrong "maybe".
const WORDS: usize = 128;
const PROBES: u64 = 4;

/// A stretch of whole lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Where it is in its file, and how long there (bytes).
    pub(super) at: u64,
    pub(super) length: u32,
    /// How long its lines are (bytes).
    pub(super) plain: u32,
    pub(super) span: Span,
    filter: Box<[u64; WORDS]>,
}

/// From when to when, in milliseconds since the epoch; upside down where there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// By what the events say.
    pub(super) first: i64,
    pub(super) last: i64,
    /// By their ids.
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Span {
    const NONE: Self = Self { first: i64::MAX, last: i64::MIN, low: i64::MAX, high: i64::MIN };

    fn add(&mut self, at: i64, id: i64) {
        (self.first, self.last) = (self.first.min(at), self.last.max(at));
        (self.low, self.high) = (self.low.min(id), self.high.max(id));
    }
}

/// What one event leaves in the block it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    at: i64,
    id: i64,
    keys: [u64; 4],
}

impl Marks {
    pub(super) fn of(event: &Event) -> Self {
        let id = id_millis(&event.id.to_string()).unwrap_or_default();
        let sandbox = event.sandbox.to_string();
        Self::new(event.at.timestamp_millis(), id, &sandbox, event.tenant.name(), event.what.kind())
    }

    /// `None` of a line that tells of no sandbox.
    pub(super) fn read(text: &[u8]) -> Option<Self> {
        let line = Line::read(text)?;
        Some(Self::new(line.millis()?, id_millis(line.id)?, line.sandbox, line.tenant, line.kind))
    }

    fn new(at: i64, id: i64, sandbox: &str, tenant: &str, kind: &str) -> Self {
        let keys =
            [key(sandbox), key_of_type(sandbox, kind), key(tenant), key_of_type(tenant, kind)];
        Self { at, id, keys }
    }
}

/// Of a UUIDv7: milliseconds since the epoch.
pub(super) fn id_millis(id: &str) -> Option<i64> {
    let (high, low) = (id.get(..8)?, id.get(9..13)?);
    let high = i64::from_str_radix(high, 16).ok()?;
    Some((high << 16) | i64::from_str_radix(low, 16).ok()?)
}

/// That there is anything of a sandbox, or a tenant.
pub(super) fn key(name: &str) -> u64 {
    mixed(hash(name))
}

/// That there is anything of that type of it.
pub(super) fn key_of_type(name: &str, kind: &str) -> u64 {
    mixed(hash(name) ^ mixed(hash(kind)))
}

/// FNV-1a: what it is of is nobody's to choose but ids, which are random, and names that an operator
/// gave; and it is written to files, so that it has to stay what it is.
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The last steps of splitmix64.
fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn probes(key: u64) -> impl Iterator<Item = (usize, u64)> {
    // Two halves of one hash are as good as so many hashes.
    let (step, bits) = (key >> 32 | 1, (WORDS * 64) as u64);
    (0..PROBES).map(move |n| {
        let bit = key.wrapping_add(step.wrapping_mul(n)) % bits;
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

impl Block {
    /// One without lines.
    pub(super) fn new(at: u64) -> Self {
        Self { at, length: 0, plain: 0, span: Span::NONE, filter: Box::new([0; WORDS]) }
    }

    /// The lines of a file that is not compressed are at their own place.
    pub(super) fn add(&mut self, length: usize, marks: Option<&Marks>) {
        self.plain += u32::try_from(length).unwrap_or(u32::MAX);
        self.length = self.plain;
        if let Some(marks) = marks {
            self.span.add(marks.at, marks.id);
            for (word, bit) in marks.keys.into_iter().flat_map(probes) {
                self.filter[word] |= bit;
            }
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.plain as usize >= SIZE
    }

    pub(super) fn end(&self) -> u64 {
        self.at + u64::from(self.length)
    }

    /// Compressed, the same is elsewhere.
    pub(super) fn moved(&self, at: u64, length: u32) -> Self {
        Self { at, length, ..self.clone() }
    }

    /// `false`: there is none of them in it.
    pub(super) fn may_have(&self, wanted: &Wanted) -> bool {
        let within = self.span.first <= wanted.until && self.span.last >= wanted.from;
        let has = |key: &u64| probes(*key).all(|(word, bit)| self.filter[word] & bit != 0);
        within && wanted.keys.as_ref().is_none_or(|keys| keys.iter().any(has))
    }

    /// As it stands in an index, less where the file is told of.
    pub(super) fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.at.to_le_bytes());
        to.extend(self.length.to_le_bytes());
        to.extend(self.plain.to_le_bytes());
        let Span { first, last, low, high } = self.span;
        for millis in [first, last, low, high] {
            to.extend(millis.to_le_bytes());
        }
        for word in *self.filter {
            to.extend(word.to_le_bytes());
        }
    }

    /// Takes one from the front of what was written.
    pub(super) fn read(from: &mut &[u8]) -> Option<Self> {
        let at = u64::from_le_bytes(take(from)?);
        let (length, plain) = (u32::from_le_bytes(take(from)?), u32::from_le_bytes(take(from)?));
        let mut millis = || take(from).map(i64::from_le_bytes);
        let span = Span { first: millis()?, last: millis()?, low: millis()?, high: millis()? };
        let mut filter = Box::new([0; WORDS]);
        for word in filter.iter_mut() {
            *word = u64::from_le_bytes(take(from)?);
        }
        Some(Self { at, length, plain, span, filter })
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*taken)
}

/// What somebody looks for, as blocks are asked for it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Any of them; `None` is whatever there is.
    pub(super) keys: Option<Vec<u64>>,
    /// Milliseconds since the epoch, both included.
    pub(super) from: i64,
    pub(super) until: i64,
}

/// Adds a line to the blocks of a file, the last of which is not complete.
pub(super) fn append(blocks: &mut Vec<Arc<Block>>, length: usize, marks: Option<&Marks>) {
    if blocks.last().is_none_or(|last| last.is_complete()) {
        let at = blocks.last().map_or(0, |last| last.end());
        blocks.push(Arc::new(Block::new(at)));
    }
    if let Some(last) = blocks.last_mut() {
        // Whoever reads meanwhile keeps what there was.
        Arc::make_mut(last).add(length, marks);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wanted(key: u64) -> Wanted {
        Wanted { keys: Some(vec![key]), from: i64::MIN, until: i64::MAX }
    }

    #[test]
    fn a_block_knows_what_it_has_and_seldom_takes_it_for_what_it_has_not() {
        let mut block = Block::new(7);
        let sandboxes: Vec<String> = (0..200).map(|n| format!("{n:032x}")).collect();
        for (n, sandbox) in sandboxes.iter().cycle().take(910).enumerate() {
            let kind = if n % 2 == 0 { "exec.started" } else { "exec.completed" };
            block.add(290, Some(&Marks::new(n as i64, 1, sandbox, "acme", kind)));
        }
        for (n, sandbox) in sandboxes.iter().enumerate() {
            assert!(block.may_have(&wanted(key(sandbox))));
            let kind = if n % 2 == 0 { "exec.started" } else { "exec.completed" };
            assert!(block.may_have(&wanted(key_of_type(sandbox, kind))));
        }
        let wrong = (1000..2000).filter(|n| block.may_have(&wanted(key(&format!("{n:032x}")))));
        assert!(wrong.count() < 60);
        assert!(!block.may_have(&wanted(key("other"))));
        assert!(!block.may_have(&Wanted { keys: None, from: 910, until: 2000 }));
        assert!(block.may_have(&Wanted { keys: None, from: 909, until: 2000 }));
        assert!(block.is_complete() && block.end() == 7 + 910 * 290);
    }

    #[test]
    fn an_id_tells_its_time() {
        assert_eq!(id_millis("0190163d-8694-739b-aea5-966c26f8ad91"), Some(0x0190_163d_8694));
        for wrong in ["", "0190163d", "0190163d-869", "zzzzzzzz-8694-7"] {
            assert_eq!(id_millis(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_block_is_read_as_it_was_written(at: u64, lines in prop::collection::vec((1..9999_usize, any::<i64>(), any::<i64>(), "[a-f0-9]{4}"), 0..30)) {
            let mut block = Block::new(at >> 1);
            for (length, at, id, sandbox) in &lines {
                block.add(*length, Some(&Marks::new(*at, *id, sandbox, "t", "exec.started")));
            }
            let mut bytes = Vec::new();
            block.write(&mut bytes);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(Block::read(&mut rest), Some(block));
            prop_assert!(rest.is_empty());
            prop_assert_eq!(Block::read(&mut &bytes[..bytes.len() - 1]), None);
        }
    }
}
