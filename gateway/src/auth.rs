//! Who may use the control plane: holders of an API key.
//!
//! Keys are compared by hash in constant time; in memory there are only hashes.

pub mod pages;

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use subtle::{Choice, ConstantTimeEq};

use crate::{Gateway, error::ApiError};

const PREFIX: &str = "e2b_";
/// 128 bits.
const LEAST_DIGITS: usize = 32;

/// The keys that are let in.
#[derive(Clone)]
pub struct Keys(Arc<[[u8; 32]]>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: not an API key: {why}; a key is `e2b_` and at least 32 lower-case hex digits, \
     such as `printf 'e2b_%s\\n' \"$(openssl rand -hex 20)\"` prints"
)]
pub struct InvalidKey {
    pub line: usize,
    why: &'static str,
}

impl Keys {
    /// One key a line (or separated by commas); what follows a `#` is a comment.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        let mut hashes = Vec::new();
        for (n, line) in text.lines().enumerate() {
            let line = line.split_once('#').map_or(line, |(keys, _)| keys);
            for key in line.split([',', ' ', '\t']).filter(|key| !key.is_empty()) {
                check(key).map_err(|why| InvalidKey { line: n + 1, why })?;
                hashes.push(hash(key));
            }
        }
        Ok(Self(hashes.into()))
    }

    pub fn and(self, other: Self) -> Self {
        Self(self.0.iter().chain(other.0.iter()).copied().collect())
    }

    /// Without any key every key is let in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn admit(&self, key: &str) -> bool {
        let presented = hash(key);
        // All are compared, whichever matches.
        let known = self.0.iter().fold(Choice::from(0), |known, key| known | key.ct_eq(&presented));
        self.is_empty() || known.into()
    }
}

fn hash(key: &str) -> [u8; 32] {
    *blake3::hash(key.as_bytes()).as_bytes()
}

fn check(key: &str) -> Result<(), &'static str> {
    let digits = key.strip_prefix(PREFIX).ok_or("it does not begin with `e2b_`")?;
    if !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err("something in it is not a lower-case hex digit");
    }
    if digits.len() < LEAST_DIGITS {
        return Err("it is too short to be secret");
    }
    Ok(())
}

/// `X-API-KEY: <key>`, or `Authorization: Bearer <key>`.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim());
    let bearer = || {
        let (scheme, key) = text(header::AUTHORIZATION.as_str())?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim_start())
    };
    let key = text("x-api-key").filter(|key| !key.is_empty()).or_else(bearer)?;
    (!key.is_empty()).then_some(key)
}

/// Middleware: where any key will do, a web page must come in neither by a name of its own that
/// leads to this machine (DNS rebinding), since its browser would let it send what it likes, nor
/// from elsewhere.
pub async fn refuse_strangers(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let host = request.uri().authority().map(|authority| authority.as_str());
    let host = host.or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    if gateway.keys().is_empty() && host.is_some_and(|host| !is_ours(host, gateway.domain())) {
        return Err(ApiError::forbidden(
            "no API keys are configured, so only requests to an IP address, localhost or the \
             configured domain are served; give --domain or an API key",
        ));
    }
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !pages::may_call(&gateway, origin)
    {
        return Err(pages::foreign());
    }
    Ok(next.run(request).await)
}

fn is_ours(host: &str, domain: &str) -> bool {
    let name = without_port(host);
    address(name).is_some() || is_below(name, "localhost") || is_below(name, without_port(domain))
}

fn address(name: &str) -> Option<IpAddr> {
    name.trim_matches(['[', ']']).parse().ok()
}

/// Whether it is `parent`, or a name below it.
fn is_below(name: &str, parent: &str) -> bool {
    let rest = name.len().checked_sub(parent.len()).map(|at| name.split_at_checked(at));
    rest.flatten().is_some_and(|(front, end)| {
        end.eq_ignore_ascii_case(parent) && (front.is_empty() || front.ends_with('.'))
    })
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Middleware: lets requests with a known key through.
pub async fn require_key(
    State(keys): State<Keys>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let Some(key) = presented(request.headers()) else {
        return Err(ApiError::unauthorized("authorization header is missing"));
    };
    if !keys.admit(key) {
        return Err(ApiError::unauthorized("invalid API key"));
    }
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "e2b_0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn keys_stand_one_a_line_with_comments() {
        let other = format!("e2b_{}", "f".repeat(32));
        let keys = Keys::parse(&format!("# ours\n{KEY} # of alice\n\n{other}\n")).unwrap();
        assert!(keys.admit(KEY) && keys.admit(&other));
        for wrong in ["", "e2b_", &KEY[..20], &KEY.to_uppercase()] {
            assert!(!keys.admit(wrong), "{wrong}");
        }
        assert!(Keys::parse("# nothing\n").unwrap().admit("anything"));
    }

    #[test]
    fn a_malformed_key_is_refused_with_its_line_but_not_repeated() {
        for (text, why) in [
            (format!("{KEY}\nhunter2"), "does not begin"),
            (format!("{KEY}\ne2b_0123"), "too short"),
            (format!("{KEY}\ne2b_{}", "G".repeat(40)), "lower-case hex"),
        ] {
            let error = Keys::parse(&text).err().unwrap().to_string();
            assert!(error.starts_with("line 2:") && error.contains(why), "{error}");
            assert!(!error.contains(text.lines().last().unwrap()), "{error}");
        }
    }

    #[test]
    fn only_names_of_this_machine_are_ours() {
        for ours in
            ["127.0.0.1:3000", "[::1]:3000", "localhost", "api.LOCALHOST:1", "api.sbx.test:3000"]
        {
            assert!(is_ours(ours, "sbx.test:3000"), "{ours}");
        }
        for foreign in ["evil.example", "notlocalhost", "localhost.evil.example", "xsbx.test", ""] {
            assert!(!is_ours(foreign, "sbx.test"), "{foreign}");
        }
    }

    #[test]
    fn a_key_is_found_in_either_header() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
        };
        assert_eq!(presented(&headers("x-api-key", "k")), Some("k"));
        assert_eq!(presented(&headers("authorization", "Bearer k")), Some("k"));
        assert_eq!(presented(&headers("authorization", "bearer k")), Some("k"));
        assert_eq!(presented(&headers("authorization", "")), None);
        assert_eq!(presented(&headers("authorization", "Bearer ")), None);
        assert_eq!(presented(&HeaderMap::new()), None);
    }
}
