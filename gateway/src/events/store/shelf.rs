//! All files of a store, as whoever reads sees them.

use std::{collections::BTreeMap, fs::File, sync::Arc};

use parking_lot::Mutex;

use super::{
    block::{self, Marks},
    segment::Segment,
};

#[derive(Default)]
pub(super) struct Shelf(Mutex<Files>);

#[derive(Default)]
struct Files {
    /// The one that is written to is the last.
    by_number: BTreeMap<u64, Segment>,
    /// Something that was before all of these is gone.
    forgot: bool,
}

/// What there was at an instant.
pub(super) struct Seen {
    pub(super) files: BTreeMap<u64, Segment>,
    pub(super) forgot: bool,
}

impl Shelf {
    pub(super) fn put(&self, number: u64, segment: Segment) {
        self.0.lock().by_number.insert(number, segment);
    }

    pub(super) fn get(&self, number: u64) -> Option<Segment> {
        self.0.lock().by_number.get(&number).cloned()
    }

    pub(super) fn remove(&self, number: u64) {
        self.0.lock().by_number.remove(&number);
    }

    /// What was before is no longer there.
    pub(super) fn forget(&self) {
        self.0.lock().forgot = true;
    }

    /// The one of that number, where nothing is yet, is written to from now on.
    pub(super) fn begin(&self, number: u64, file: Arc<File>) {
        self.put(number, Segment { file, zipped: false, blocks: Vec::new() });
    }

    /// So long lines were written to the end of that file.
    pub(super) fn append(&self, number: u64, lines: &[(usize, Option<Marks>)]) {
        let mut files = self.0.lock();
        if let Some(segment) = files.by_number.get_mut(&number) {
            for (length, marks) in lines {
                block::append(&mut segment.blocks, *length, marks.as_ref());
            }
        }
    }

    pub(super) fn look(&self) -> Seen {
        let files = self.0.lock();
        Seen { files: files.by_number.clone(), forgot: files.forgot }
    }
}
