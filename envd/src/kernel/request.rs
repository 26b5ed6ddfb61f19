//! What a kernel is asked: names, signatures, and the one request whose content matters.

use std::io;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// A kernel's key, as it stands in its connection file.
#[derive(Clone)]
pub(super) struct Key(String);

/// A session with one kernel: what its messages have in common.
pub(super) struct Session {
    pub(super) key: Key,
    pub(super) id: String,
}

/// A request's name, by which its answers are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId(String);

/// The content of an `execute_request`.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Execute<'a> {
    pub(super) code: &'a str,
    pub(super) silent: bool,
    pub(super) store_history: bool,
    pub(super) user_expressions: Nothing,
    pub(super) allow_stdin: bool,
    pub(super) stop_on_error: bool,
}

#[derive(Clone, Copy, Serialize)]
pub(super) struct Nothing {}

/// Shows nothing and is not counted.
pub(super) const SILENT: Execute<'static> = Execute { silent: true, store_history: false, ..LOUD };

/// A user's.
pub(super) const LOUD: Execute<'static> = Execute {
    code: "",
    silent: false,
    store_history: true,
    user_expressions: Nothing {},
    allow_stdin: false,
    // What waits is told by envd, which has it wait.
    stop_on_error: false,
};

#[derive(Serialize)]
struct RequestHeader<'a> {
    msg_id: &'a str,
    session: &'a str,
    username: &'a str,
    date: String,
    msg_type: &'a str,
    version: &'a str,
}

impl Session {
    pub(super) fn header(&self, id: &RequestId, kind: &str) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&RequestHeader {
            msg_id: &id.0,
            session: &self.id,
            username: "envd",
            date: chrono::Utc::now().to_rfc3339(),
            msg_type: kind,
            version: "5.4",
        })
    }
}

impl RequestId {
    /// Of no request: nothing answers it.
    pub(super) fn none() -> Self {
        Self("none".to_owned())
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn random() -> io::Result<Self> {
        random().map(Self)
    }
}

impl Key {
    pub(super) fn random() -> io::Result<Self> {
        random().map(Self)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// HMAC (RFC 2104) with SHA-256, in hex. The key is shorter than a block.
    pub(super) fn sign<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut block = [0; 64];
        block[..self.0.len()].copy_from_slice(self.0.as_bytes());
        let mut inner = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36));
        for frame in frames {
            inner.update(frame);
        }
        let outer = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c));
        hex(&outer.chain_update(inner.finalize()).finalize())
    }
}

/// 32 hex digits.
pub(super) fn random() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_rfc_2104() {
        let key = Key("key".into());
        let signed = key.sign([&b"The quick brown fox "[..], b"jumps over the lazy dog"]);
        assert_eq!(signed, "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
    }
}
