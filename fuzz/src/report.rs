//! What comes out of a sandbox: its report stream, its envd's log, and the first answer of that.

use std::{
    io::Write,
    os::{fd::AsFd, unix::net::UnixStream},
};

use bytes::BytesMut;
use coppice::fuzzing::logged;
use envd::{
    control::receive_attached,
    wire::{Assembly, MAX_REPORT, Report},
};
use tokio_util::codec::{Decoder, LinesCodec};

pub(crate) fn target(bytes: &[u8]) {
    let (mut lines, mut rest) =
        (LinesCodec::new_with_max_length(MAX_REPORT - 1), BytesMut::from(bytes));
    let mut parts = Assembly::default();
    while let Ok(Some(line)) = lines.decode_eof(&mut rest) {
        assert!(line.len() < MAX_REPORT);
        if let Ok(report) = serde_json::from_str::<Report>(&line) {
            let again = serde_json::to_string(&report).expect("JSON");
            assert_eq!(serde_json::from_str::<Report>(&again).expect("a report"), report);
            parts.take(report);
        }
    }
    let log = logged(&String::from_utf8_lossy(bytes), 1 << 41);
    assert!(log.is_sorted_by_key(|(at, _)| *at) && log.iter().all(|(at, _)| *at <= 1 << 41));
    assert!(!log.iter().any(|(_, message)| message.contains(char::is_control)));
    let (gateway, mut envd) = UnixStream::pair().expect("sockets");
    // What fits into the socket's buffer, with nobody reading.
    envd.write_all(&bytes[..bytes.len().min(1 << 14)]).expect("room");
    drop(envd);
    let _ = receive_attached(gateway.as_fd());
}
