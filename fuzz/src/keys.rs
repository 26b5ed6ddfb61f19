//! The file of keys, and headers that may hold one.

use coppice::{
    auth::Keys,
    fuzzing::{keys, presents_key},
};
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

pub(crate) fn target(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        headers.insert(AUTHORIZATION, value);
        if presents_key(&headers) {
            assert!(bytes.trim_ascii().to_ascii_lowercase().starts_with(b"bearer "));
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = Keys::parse(&text);
    for id in keys(&text).unwrap_or_default() {
        assert!((1..=64).contains(&id.len()) && id.is_ascii());
    }
}
