//! Paths of clients, whatever the user's home is, and ranges of files.

#![no_main]

use std::path::Component;

use envd::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&str, &str, Option<&str>, u64)| {
    let (path, home, workdir, length) = parts;
    if let Some(resolved) = fuzzing::resolve(path, home, workdir) {
        assert!(resolved.is_absolute());
        let normal = |part| matches!(part, Component::RootDir | Component::Normal(_));
        assert!(resolved.components().all(normal));
        let text = resolved.to_str().expect("made of text");
        assert!(!text.contains('\0'));
        assert_eq!(fuzzing::resolve(text, "/", None).as_deref(), Some(&*resolved));
    }
    if let Some(range) = fuzzing::range(path, length) {
        assert!(range.start < range.end && range.end <= length);
    }
});
