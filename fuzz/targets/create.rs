//! The control plane: the body of a create, and the query of a list.

#![no_main]

use coppice::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (bool, &[u8])| match parts {
    (true, body) => {
        if let Some((template, seconds)) = fuzzing::create(body) {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
            assert!(!template.is_empty() && template.bytes().all(allowed));
            assert!((1..=fuzzing::LONGEST.as_secs()).contains(&seconds));
        }
    }
    (false, query) => fuzzing::list(&String::from_utf8_lossy(query)),
});
