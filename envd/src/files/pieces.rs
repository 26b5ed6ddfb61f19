//! The contents of a file on their way out, a piece at a time.
//!
//! Each piece is read off the threads that serve, while the one before it is being sent, into a
//! buffer whose content has been.

use std::{
    fs::File,
    io::{self, Read},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::JoinHandle;

use super::reader::Reader;

/// Read from disk and handed on at once (bytes).
pub(super) const PIECE: u64 = 256 << 10;

/// Pieces of one response that are under way at most, as many as its connection holds.
pub(super) const BUFFERS: usize = 3;

/// Yields exactly the bytes it was made for. Of a file that has become shorter it cannot, which
/// breaks the response.
pub(super) struct Pieces {
    next: Next,
    /// Not yet yielded.
    left: u64,
    yielded: u64,
    /// What was yielded last, and is used again when nobody else has it any more.
    buffers: Vec<Bytes>,
    reader: Option<Reader>,
}

enum Next {
    Here(File, Vec<u8>),
    Read(JoinHandle<io::Result<(File, Vec<u8>)>>),
    Nothing,
}

impl Pieces {
    /// `left` bytes, of which those in `first` have been read already. What has been yielded is
    /// reported when the client has it, or has gone.
    pub(super) fn new(file: File, first: Vec<u8>, left: u64, reader: Option<Reader>) -> Self {
        let next = Next::Here(file, first);
        Self { next, left, yielded: 0, buffers: Vec::new(), reader }
    }

    fn buffer(&mut self) -> Vec<u8> {
        let unused = self.buffers.iter().position(Bytes::is_unique);
        match unused.map(|at| self.buffers.swap_remove(at).try_into_mut()) {
            Some(Ok(mut buffer)) => {
                buffer.clear();
                buffer.into()
            }
            _ => Vec::new(),
        }
    }
}

/// Reads the next piece of what is `left` from where the file stands.
pub(super) fn read(mut file: &File, left: u64, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let length = left.min(PIECE);
    let room = usize::try_from(length).unwrap_or(usize::MAX);
    buffer.reserve_exact(room);
    Read::take(&mut file, length).read_to_end(&mut buffer)?;
    if buffer.len() < room {
        return Err(became_shorter());
    }
    Ok(buffer)
}

pub(super) fn became_shorter() -> io::Error {
    let text = "the file has become shorter while it was read";
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        loop {
            match std::mem::replace(&mut self.next, Next::Nothing) {
                Next::Here(file, piece) if piece.is_empty() => {
                    let (left, buffer) = (self.left, self.buffer());
                    self.next = Next::Read(tokio::task::spawn_blocking(move || {
                        read(&file, left, buffer).map(|piece| (file, piece))
                    }));
                }
                Next::Here(file, piece) => {
                    self.next = Next::Here(file, Vec::new());
                    let (length, piece) = (piece.len() as u64, Bytes::from(piece));
                    self.left -= length;
                    self.yielded += length;
                    if self.buffers.len() < BUFFERS && self.left > 0 {
                        self.buffers.push(piece.clone());
                    }
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                Next::Read(mut reading) => {
                    let Poll::Ready(read) = pin!(&mut reading).poll(cx) else {
                        self.next = Next::Read(reading);
                        return Poll::Pending;
                    };
                    let (file, piece) = read.map_err(io::Error::other).flatten()?;
                    self.next = Next::Here(file, piece);
                }
                // After an error there is nothing.
                Next::Nothing => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.report(self.yielded);
        }
    }
}
