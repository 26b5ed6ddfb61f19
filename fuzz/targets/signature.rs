//! Signed URLs, in the gateway's eyes and in envd's: none is accepted that was not made.

#![no_main]

use coppice::{data::Credential, sandbox::Registry};
use envd::fuzzing;
use http::{HeaderMap, Method, Uri};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&str, &str, &str, Option<&str>)| {
    let (path, username, signature, expiration) = parts;
    assert!(!fuzzing::opens(path, username, signature, expiration));
    if let Ok(uri) = format!("/files?{path}&signature={signature}").parse::<Uri>() {
        let headers = HeaderMap::new();
        for method in [Method::GET, Method::POST, Method::OPTIONS] {
            if let Some(credential) = Credential::of(&method, &uri, &headers) {
                assert!(credential.sandbox(&Registry::default()).is_err());
            }
        }
    }
});
