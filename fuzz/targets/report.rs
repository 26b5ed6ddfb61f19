//! What comes out of a sandbox: its report stream, and the first answer of its envd.

#![no_main]

use std::{
    io::Write,
    os::{fd::AsFd, unix::net::UnixStream},
};

use bytes::BytesMut;
use envd::{
    control::receive_attached,
    wire::{MAX_REPORT, Report},
};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::{Decoder, LinesCodec};

fuzz_target!(|bytes: &[u8]| {
    let (mut lines, mut rest) =
        (LinesCodec::new_with_max_length(MAX_REPORT - 1), BytesMut::from(bytes));
    while let Ok(Some(line)) = lines.decode_eof(&mut rest) {
        assert!(line.len() < MAX_REPORT);
        if let Ok(report) = serde_json::from_str::<Report>(&line) {
            let again = serde_json::to_string(&report).expect("JSON");
            assert_eq!(serde_json::from_str::<Report>(&again).expect("a report"), report);
        }
    }
    let (gateway, mut envd) = UnixStream::pair().expect("sockets");
    // What fits into the socket's buffer, with nobody reading.
    envd.write_all(&bytes[..bytes.len().min(1 << 14)]).expect("room");
    drop(envd);
    let _ = receive_attached(gateway.as_fd());
});
