//! Jupyter's messages on one of a kernel's sockets: requests go out, and of what comes back only
//! what answers the request at hand is looked at.
//!
//! Whether what comes is signed is not looked at: the sockets lie where only root enters, and who
//! is root in the sandbox can read the key as well.

use std::{borrow::Cow, io, path::Path, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

#[cfg(feature = "fuzzing")]
use super::{execute::Execution, zmtp::Frames};
use super::{
    request::{RequestId, Session},
    zmtp::{Kind as SocketKind, Piece, Socket},
};

/// Content that is not taken in pieces and is longer than this is left out (bytes).
const MAX_CONTENT: u64 = 32 << 20;

/// Content longer than this waits until there is room for it among all that is held (bytes).
const SMALL: u64 = 64 << 10;

/// For all kernels' long content together, in KiB: two of the longest.
static ROOM: Semaphore = Semaphore::const_new(2 * (MAX_CONTENT >> 10) as usize);

/// Output longer than this is taken in pieces (bytes).
const IN_PIECES: u64 = 64 << 10;

/// Each of a message's other frames (bytes).
const MAX_FRAME: u64 = 64 << 10;

/// Frames before the delimiter, which are topics or addresses.
const MAX_TOPICS: usize = 8;

const DELIMITER: &[u8] = b"<IDS|MSG>";

/// What long content takes of what may be held, for as long as something of it is.
pub(super) type Room = SemaphorePermit<'static>;

/// Something about the request at hand.
#[derive(Debug)]
pub(super) enum Incoming {
    Message {
        kind: String,
        content: Vec<u8>,
        room: Option<Room>,
    },
    /// The content of a long output, in pieces; `ends` with the last.
    Output {
        piece: Bytes,
        ends: bool,
    },
    /// Content that is longer than can be taken.
    TooLong {
        kind: String,
        length: u64,
    },
}

pub(super) struct Channel {
    socket: Socket,
    session: Arc<Session>,
    reading: Reading,
    /// What has been read of the socket and not been looked at.
    piece: Option<Piece>,
}

/// Where in a message the reader is.
#[derive(Default)]
struct Reading {
    at: At,
    /// The frame at hand, as far as it has come.
    frame: Vec<u8>,
    kind: String,
    is_answer: bool,
    room: Option<Room>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// So many frames have come before the delimiter.
    Topics(usize),
    Signature,
    #[default]
    Header,
    Parent,
    Metadata,
    Content(How),
    Buffers,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum How {
    #[default]
    Undecided,
    Whole,
    Pieces,
    Nothing,
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    msg_type: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Parent<'a> {
    #[serde(borrow, default)]
    msg_id: Cow<'a, str>,
}

impl Channel {
    pub(super) async fn connect(
        path: &Path,
        kind: SocketKind,
        session: Arc<Session>,
    ) -> io::Result<Self> {
        let socket = Socket::connect(path, kind).await?;
        let reading = Reading { at: At::Topics(0), ..Reading::default() };
        Ok(Self { socket, session, reading, piece: None })
    }

    /// Sends a request. When this is given up half-way the channel is good for nothing more.
    pub(super) async fn send(
        &mut self,
        id: &RequestId,
        kind: &str,
        content: &impl Serialize,
    ) -> io::Result<()> {
        let header = self.session.header(id, kind)?;
        let content = serde_json::to_vec(content)?;
        let signature = self.session.key.sign([&header[..], b"{}", b"{}", &content]);
        let frames =
            [DELIMITER, signature.as_bytes(), &header[..], &b"{}"[..], &b"{}"[..], &content[..]];
        self.socket.send(frames).await
    }

    /// The next answer to `request`; everything else that comes is dropped. Can be given up and
    /// called again.
    pub(super) async fn next(&mut self, request: &RequestId) -> io::Result<Incoming> {
        loop {
            let piece = match &mut self.piece {
                Some(piece) => piece,
                none => none.insert(self.socket.read().await?),
            };
            if let Some(length) = self.reading.wants_room(piece) {
                let wanted = u32::try_from(length >> 10).unwrap_or(u32::MAX);
                // It is never closed.
                self.reading.room = ROOM.acquire_many(wanted).await.ok();
            }
            let Some(piece) = self.piece.take() else { continue };
            if let Some(incoming) = self.reading.take(piece, request)? {
                return Ok(incoming);
            }
        }
    }
}

impl Reading {
    /// How much there has to be room for before `piece` is taken.
    fn wants_room(&self, piece: &Piece) -> Option<u64> {
        let begins = self.at == At::Content(How::Undecided) && self.room.is_none();
        let whole = begins && self.how(piece.length) == How::Whole && piece.length > SMALL;
        whole.then_some(piece.length)
    }

    fn how(&self, length: u64) -> How {
        match &*self.kind {
            _ if !self.is_answer => How::Nothing,
            "stream" if length > IN_PIECES => How::Pieces,
            _ if length > MAX_CONTENT => How::Nothing,
            _ => How::Whole,
        }
    }

    fn take(&mut self, piece: Piece, request: &RequestId) -> io::Result<Option<Incoming>> {
        let Piece { bytes, length, ends, more } = piece;
        let mut incoming = None;
        if self.at == At::Content(How::Undecided) {
            let how = self.how(length);
            self.at = At::Content(how);
            if how == How::Nothing && self.is_answer {
                incoming = Some(Incoming::TooLong { kind: self.kind.clone(), length });
            }
        }
        match self.at {
            At::Content(how) => match how {
                How::Pieces => incoming = Some(Incoming::Output { piece: bytes, ends }),
                How::Whole => self.frame.extend_from_slice(&bytes),
                How::Nothing | How::Undecided => {}
            },
            At::Buffers => {}
            _ if length > MAX_FRAME => return Err(invalid("a frame that is too long")),
            _ => self.frame.extend_from_slice(&bytes),
        }
        if ends {
            let frame = std::mem::take(&mut self.frame);
            let whole = self.frame_ended(frame, request)?;
            incoming = incoming.or(whole);
            if !more {
                if !matches!(self.at, At::Buffers) {
                    return Err(invalid("a message that is too short"));
                }
                self.at = At::Topics(0);
            }
        }
        Ok(incoming)
    }

    fn frame_ended(&mut self, frame: Vec<u8>, request: &RequestId) -> io::Result<Option<Incoming>> {
        let mut incoming = None;
        self.at = match self.at {
            At::Topics(_) if frame == DELIMITER => At::Signature,
            At::Topics(MAX_TOPICS) => return Err(invalid("a message without its delimiter")),
            At::Topics(count) => At::Topics(count + 1),
            At::Signature => At::Header,
            At::Header => {
                let header: Header<'_> = serde_json::from_slice(&frame)?;
                self.kind = header.msg_type.into_owned();
                At::Parent
            }
            At::Parent => {
                let parent: Parent<'_> = serde_json::from_slice(&frame)?;
                self.is_answer = parent.msg_id == request.as_str();
                At::Metadata
            }
            At::Metadata => At::Content(How::Undecided),
            At::Content(how) => {
                if how == How::Whole {
                    let kind = std::mem::take(&mut self.kind);
                    let room = self.room.take();
                    incoming = Some(Incoming::Message { kind, content: frame, room });
                }
                At::Buffers
            }
            At::Buffers => At::Buffers,
        };
        Ok(incoming)
    }
}

/// The lines for the client that a kernel's bytes lead to, which come in pieces of that size as
/// answers to the request `ours`.
///
/// # Errors
/// When they are no messages, which ends a connection.
#[cfg(feature = "fuzzing")]
pub(crate) fn lines(bytes: &[u8], size: usize) -> io::Result<Vec<u8>> {
    let mut reading = Reading { at: At::Topics(0), ..Reading::default() };
    let (mut frames, request) = (Frames::default(), RequestId::named("ours"));
    let mut execution = Execution::default();
    for piece in bytes.chunks(size) {
        frames.come(piece);
        while let Some(piece) = frames.next()? {
            if let Some(incoming) = reading.take(piece, &request)? {
                execution.published(incoming);
            }
        }
    }
    Ok(execution.lines.0)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> RequestId {
        RequestId::named("ours")
    }

    fn piece(bytes: &[u8], length: u64, ends: bool, more: bool) -> Piece {
        Piece { bytes: Bytes::copy_from_slice(bytes), length, ends, more }
    }

    /// The pieces of a message of that kind, with its content in pieces of those sizes.
    fn message(kind: &str, parent: &str, content: &[u8], sizes: usize) -> Vec<Piece> {
        let header = format!(r#"{{"msg_type":"{kind}"}}"#);
        let parent = format!(r#"{{"msg_id":"{parent}"}}"#);
        let before = [b"topic", DELIMITER, b"", header.as_bytes(), parent.as_bytes(), b"{}"];
        let mut pieces: Vec<_> =
            before.iter().map(|frame| piece(frame, frame.len() as u64, true, true)).collect();
        let mut rest = content;
        loop {
            let (here, after) = rest.split_at(sizes.min(rest.len()));
            rest = after;
            pieces.push(piece(here, content.len() as u64, rest.is_empty(), true));
            if rest.is_empty() {
                break;
            }
        }
        pieces.push(piece(b"buffer", 6, true, false));
        pieces
    }

    fn take(reading: &mut Reading, pieces: Vec<Piece>) -> io::Result<Vec<Incoming>> {
        let mut taken = Vec::new();
        for piece in pieces {
            taken.extend(reading.take(piece, &id())?);
        }
        Ok(taken)
    }

    fn new() -> Reading {
        Reading { at: At::Topics(0), ..Reading::default() }
    }

    #[test]
    fn only_answers_to_the_request_are_heard() {
        let mut reading = new();
        let hears_ours = |reading: &mut Reading| {
            let heard = take(reading, message("status", "ours", b"{}", 1)).unwrap();
            let [Incoming::Message { kind, content, .. }] = &heard[..] else {
                panic!("{heard:?}");
            };
            assert_eq!((&**kind, &content[..]), ("status", &b"{}"[..]));
        };
        hears_ours(&mut reading);
        assert!(take(&mut reading, message("status", "other", b"{}", 1)).unwrap().is_empty());
        let huge = message("stream", "other", &[b' '; 100_000], 1000);
        assert!(take(&mut reading, huge).unwrap().is_empty());
        hears_ours(&mut reading);
    }

    #[test]
    fn long_output_comes_in_pieces_and_other_long_content_is_told_of() {
        let mut reading = new();
        let output = vec![b'x'; 100_000];
        let pieces = take(&mut reading, message("stream", "ours", &output, 40_000)).unwrap();
        let lengths: Vec<_> = pieces
            .iter()
            .map(|incoming| match incoming {
                Incoming::Output { piece, ends } => (piece.len(), *ends),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [(40_000, false), (40_000, false), (20_000, true)]);

        let mut pieces = message("display_data", "ours", b"{}", 2);
        let content = pieces.len() - 2;
        pieces[content] = piece(b"{}", MAX_CONTENT + 1, false, true);
        pieces.insert(content + 1, piece(b"{}", MAX_CONTENT + 1, true, true));
        let told = take(&mut reading, pieces).unwrap();
        let [Incoming::TooLong { kind, length }] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&**kind, *length), ("display_data", MAX_CONTENT + 1));
    }

    #[test]
    fn long_content_has_room_before_it_is_taken() {
        let mut reading = new();
        for (kind, parent, length, wanted) in [
            ("display_data", "ours", SMALL + 1, true),
            ("display_data", "ours", SMALL, false),
            ("display_data", "ours", MAX_CONTENT + 1, false),
            ("display_data", "other", SMALL + 1, false),
            ("stream", "ours", IN_PIECES + 1, false),
        ] {
            let pieces = message(kind, parent, &vec![b' '; length as usize], usize::MAX);
            let mut asked = false;
            for piece in pieces {
                asked |= reading.wants_room(&piece).is_some();
                reading.take(piece, &id()).unwrap();
            }
            assert_eq!(asked, wanted, "{kind} {parent} {length}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let mut short = message("status", "ours", b"{}", 2);
        short.truncate(6);
        short[5].more = false;
        let mut long = message("status", "ours", b"{}", 2);
        long[3].length = MAX_FRAME + 1;
        let mut nonsense = message("status", "ours", b"{}", 2);
        nonsense[3].bytes = Bytes::from_static(b"[]");
        let endless = (0..20).map(|_| piece(b"topic", 5, true, true)).collect();
        for pieces in [short, long, nonsense, endless] {
            assert!(take(&mut new(), pieces).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_pieces_break_the_reader(
            pieces in prop::collection::vec((any::<Vec<u8>>(), any::<u64>(), any::<bool>(), any::<bool>()), 0..40),
        ) {
            let pieces = pieces
                .into_iter()
                .map(|(bytes, length, ends, more)| piece(&bytes, length, ends, more))
                .collect();
            let _ = take(&mut new(), pieces);
        }
    }
}
