//! Signed URLs, in the gateway's eyes and in envd's: what was made with a token opens where that is
//! the token, and nothing else opens anything.

use std::{
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use coppice::{data::Credential, fuzzing::running, sandbox::Registry};
use envd::fuzzing;
use http::{HeaderMap, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// One sandbox has none, and cannot be meant. The first is also that of the envd.
const TOKENS: [&str; 4] = ["secret", "another", "secret2", ""];

static SANDBOXES: LazyLock<Registry> = LazyLock::new(|| running(&TOKENS));

use crate::parts;

pub(crate) fn target(bytes: &[u8]) {
    let Some((path, username, given, expiration, which, write)) = parts::<(&str, &str, &str, Option<&str>, u8, bool)>(bytes) else { return };

    // What somebody thought up.
    assert!(!fuzzing::opens(path, username, given, expiration));
    for method in [Method::GET, Method::POST, Method::OPTIONS] {
        assert_eq!(meant(&method, &format!("{path}&signature={given}")), None);
    }

    // What an SDK makes.
    let token = TOKENS[usize::from(which) % TOKENS.len()];
    let (operation, method, other) = match write {
        true => ("write", Method::POST, Method::GET),
        false => ("read", Method::GET, Method::POST),
    };
    let made = sign(path, operation, username, token, expiration);
    let query = |signature: &str| {
        let [path, username, signature] = [path, username, signature].map(encoded);
        let expiration = expiration.map(|at| format!("&signature_expiration={}", encoded(at)));
        let expiration = expiration.unwrap_or_default();
        format!("path={path}&username={username}&signature={signature}{expiration}")
    };
    let owner = (!token.is_empty()).then_some(token);
    assert_eq!(meant(&method, &query(&made)).as_deref(), owner);
    assert_eq!(meant(&Method::OPTIONS, &query(&made)).as_deref(), owner);
    assert_eq!(meant(&other, &query(&made)), None);
    assert_eq!(meant(&method, &query(given)), None);
    // Its digest with one bit changed.
    let mut digest = STANDARD_NO_PAD.decode(&made[3..]).expect("base64");
    digest[usize::from(which) % 32] ^= 1;
    let changed = format!("v1_{}", STANDARD_NO_PAD.encode(digest));
    assert_eq!(meant(&method, &query(&changed)), None);

    let opens = fuzzing::opens(path, username, &made, expiration);
    match expiration.map(str::parse::<i64>) {
        _ if write || token != TOKENS[0] => assert!(!opens),
        None => assert!(opens),
        Some(Err(_)) => assert!(!opens),
        Some(Ok(at)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
            // But for the minute in which it ends.
            if at.saturating_sub_unsigned(now).abs() > 60 {
                assert_eq!(opens, at.saturating_sub_unsigned(now) > 0);
            }
        }
    }
}

/// The token of the sandbox that a request for `/files` with that query is for.
fn meant(method: &Method, query: &str) -> Option<String> {
    let uri = format!("/files?{query}").parse().ok()?;
    let headers = HeaderMap::new();
    let found = Credential::of(method, &uri, &headers)?.sandbox(&SANDBOXES).ok()?;
    Some(found.envd_token().to_owned())
}

fn sign(path: &str, operation: &str, user: &str, token: &str, expiration: Option<&str>) -> String {
    let expiration = expiration.map(|at| format!(":{at}")).unwrap_or_default();
    let text = format!("{path}:{operation}:{user}:{token}{expiration}");
    format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
