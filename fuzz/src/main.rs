//! Parsers of what sandboxes and clients send, fed by libFuzzer: `tools/fuzz.sh`.
//!
//! One program for all of them, so that what they are in is linked once; `COPPICE_FUZZ` names the
//! one it is to be. Each says what has to be true of whatever it understands.
//!
//! | of | bytes | target |
//! |---|---|---|
//! | clients, of the gateway | host and routing headers | `address` |
//! | | bodies and queries of the control plane; CIDRs, domains, tokens of pages in them | `create` |
//! | | keys, and the file they stand in | `keys` |
//! | | signed URLs | `signature` |
//! | clients, of envd | Connect's frames | `envelope` |
//! | | forms of files | `form` |
//! | | paths, ranges, encodings, users | `path` |
//! | sandboxes, of the gateway | reports, envd's log, its first answer | `report` |
//! | | questions to DNS, and resolvers' answers | `names` |
//! | | what connections to web servers begin with: SNI and Host | `beginning` |
//! | kernels, of envd | ZMTP, Jupyter's messages, long output | `kernel` |
//!
//! HTTP/1 and 2, TLS, gzip, TOML and JSON themselves are hyper's, rustls', flate2's, toml's and
//! serde_json's, and tarballs tar(1)'s.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::{
    arbitrary::{Arbitrary, Unstructured},
    fuzz_target,
};

/// Declares the modules, and the function of each by its name.
macro_rules! targets {
    ($($name:ident)*) => {
        $(mod $name;)*

        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::target)),*];
    };
}

targets! { address beginning create envelope form kernel keys names path report signature }

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("COPPICE_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("COPPICE_FUZZ={wanted:?} is none of {TARGETS:?}")).1
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));

/// What a target wants, made of those bytes; `None` where there are too few.
fn parts<'a, T: Arbitrary<'a>>(bytes: &'a [u8]) -> Option<T> {
    T::arbitrary_take_rest(Unstructured::new(bytes)).ok()
}
