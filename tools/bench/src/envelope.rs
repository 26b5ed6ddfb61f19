//! The frames of Connect streams: a byte of flags, four of length, the message.

use anyhow::{bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};

const LAST: u8 = 2;

/// A request of one message.
pub(crate) fn wrap(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a message of this program's own"));
    framed.put_slice(message);
    framed.freeze()
}

/// The messages of a whole stream, which has to have ended well.
pub(crate) fn unwrap(mut stream: Bytes) -> anyhow::Result<Vec<Bytes>> {
    let mut messages = Vec::new();
    while !stream.is_empty() {
        ensure!(stream.len() >= 5, "a stream that ends inside a frame's head");
        let head = stream.split_to(5);
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        ensure!(stream.len() >= length, "a stream that ends inside a frame");
        let message = stream.split_to(length);
        match head[0] {
            0 => messages.push(message),
            LAST if !stream.is_empty() => bail!("frames after the end of a stream"),
            LAST => {
                let end: serde_json::Value = serde_json::from_slice(&message)?;
                ensure!(end.get("error").is_none(), "a stream ended with {end}");
                return Ok(messages);
            }
            flags => bail!("a frame with flags {flags}"),
        }
    }
    bail!("a stream without its end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(frames: &[(u8, &str)]) -> Bytes {
        let mut bytes = BytesMut::new();
        for (flags, message) in frames {
            bytes.put_u8(*flags);
            bytes.put_slice(&wrap(message.as_bytes())[1..]);
        }
        bytes.freeze()
    }

    #[test]
    fn what_is_wrapped_comes_out_again() {
        let whole = [wrap(b"{\"a\":1}"), stream(&[(0, "b"), (2, "{}")])].concat();
        assert_eq!(unwrap(whole.into()).unwrap(), ["{\"a\":1}", "b"]);
    }

    #[test]
    fn a_stream_that_did_not_end_well_is_an_error() {
        for bad in [
            stream(&[]),
            stream(&[(0, "a")]),
            stream(&[(0, "a"), (2, r#"{"error":{"code":"internal"}}"#)]),
            stream(&[(2, "{}"), (0, "a")]),
            stream(&[(1, "a"), (2, "{}")]),
            stream(&[(0, "a"), (2, "{}")]).slice(..3),
            stream(&[(0, "a"), (2, "{}")]).slice(..8),
            stream(&[(0, "a"), (2, "{}")]).slice(..12),
        ] {
            assert!(unwrap(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
