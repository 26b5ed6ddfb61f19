//! Paths of clients, whatever the user's home is, and what headers say of files: which part, how
//! encoded, for whom.

use std::path::Component;

use envd::fuzzing;
use http::{HeaderMap, header::AUTHORIZATION};

use crate::parts;

pub(crate) fn target(bytes: &[u8]) {
    let Some((path, home, workdir, length)) = parts::<(&str, &str, Option<&str>, u64)>(bytes) else { return };
    if let Some(resolved) = fuzzing::resolve(path, home, workdir) {
        assert!(resolved.is_absolute());
        let normal = |part| matches!(part, Component::RootDir | Component::Normal(_));
        assert!(resolved.components().all(normal));
        let text = resolved.to_str().expect("made of text");
        assert!(!text.contains('\0'));
        assert_eq!(fuzzing::resolve(text, "/", None).as_deref(), Some(&*resolved));
    }
    if fuzzing::encoding(path, true) == Some("gzip") {
        panic!("a part of a file is never compressed");
    }
    if fuzzing::encoding(path, false) == Some("gzip") {
        assert!(path.to_ascii_lowercase().contains("gzip") || path.contains('*'));
    }
    let mut headers = HeaderMap::new();
    if let Ok(value) = path.parse() {
        headers.insert(AUTHORIZATION, value);
        assert!(fuzzing::user(&headers).is_none_or(|user| !user.contains(':')));
    }
    if let Some(range) = fuzzing::range(path, length) {
        assert!(range.start < range.end && range.end <= length);
    }
}
