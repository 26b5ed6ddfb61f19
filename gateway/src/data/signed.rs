//! Signed `/files` URLs that name no sandbox: the one whose token makes the signature is meant.
//!
//! Says nothing of expiry or permission, which is for envd to check.

use std::{borrow::Cow, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use http::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{
    error::DataPlaneError,
    sandbox::{Registry, Sandbox},
};

const PREFIX: &[u8] = b"v1_";

/// The token a request for `/files` shows in place of an address.
pub enum Credential<'a> {
    Signed(Box<Signed<'a>>),
    Token(&'a [u8]),
}

/// The parts of a signed URL, decoded.
pub struct Signed<'a> {
    operations: &'static [&'static str],
    path: Cow<'a, [u8]>,
    username: Cow<'a, [u8]>,
    expiration: Option<Cow<'a, [u8]>>,
    signature: Cow<'a, [u8]>,
}

impl<'a> Credential<'a> {
    /// What a request to `/files` shows; `None` for any other request.
    pub fn of(method: &Method, uri: &'a Uri, headers: &'a HeaderMap) -> Option<Self> {
        if uri.path() != "/files" {
            return None;
        }
        if let Some(token) = headers.get("x-access-token") {
            return Some(Self::Token(token.as_bytes()));
        }
        let query = uri.query()?;
        Some(Self::Signed(Box::new(Signed {
            operations: match *method {
                Method::GET | Method::HEAD => &["read"],
                Method::POST => &["write"],
                // A browser asks beforehand, for either.
                Method::OPTIONS => &["read", "write"],
                _ => return None,
            },
            signature: parameter(query, "signature")?,
            path: parameter(query, "path").unwrap_or_default(),
            username: parameter(query, "username").unwrap_or_default(),
            expiration: parameter(query, "signature_expiration"),
        })))
    }

    /// The sandbox this belongs to, running or paused.
    ///
    /// # Errors
    /// It belongs to none.
    pub fn sandbox(&self, registry: &Registry) -> Result<Arc<Sandbox>, DataPlaneError> {
        let found = self.search(registry.all_present());
        found.ok_or(match self {
            Self::Signed(_) => DataPlaneError::Signature,
            Self::Token(_) => DataPlaneError::AccessToken,
        })
    }

    fn search(&self, sandboxes: Vec<Arc<Sandbox>>) -> Option<Arc<Sandbox>> {
        match self {
            Self::Token(token) => sandboxes.into_iter().find(|sandbox| {
                let own = sandbox.envd_token().as_bytes();
                !own.is_empty() && own.ct_eq(token).into()
            }),
            Self::Signed(signed) => {
                let digest = signed.digest()?;
                // All that comes before the token is hashed once, however many sandboxes there are.
                let common: Vec<_> = signed.operations.iter().map(|op| signed.common(op)).collect();
                sandboxes.into_iter().find(|sandbox| {
                    !sandbox.envd_token().is_empty()
                        && common.iter().any(|common| {
                            let own = signed.finish(common.clone(), sandbox.envd_token());
                            own.ct_eq(&digest).into()
                        })
                })
            }
        }
    }
}

impl Signed<'_> {
    /// The signature as the digest it encodes.
    fn digest(&self) -> Option<[u8; 32]> {
        let encoded = self.signature.strip_prefix(PREFIX)?;
        STANDARD_NO_PAD.decode(encoded).ok()?.try_into().ok()
    }

    fn common(&self, operation: &str) -> Sha256 {
        Sha256::new()
            .chain_update(&self.path)
            .chain_update(b":")
            .chain_update(operation)
            .chain_update(b":")
            .chain_update(&self.username)
            .chain_update(b":")
    }

    fn finish(&self, common: Sha256, token: &str) -> [u8; 32] {
        let mut hash = common.chain_update(token);
        if let Some(expiration) = &self.expiration {
            hash = hash.chain_update(b":").chain_update(expiration);
        }
        hash.finalize().into()
    }
}

/// The first value of that name in a query, decoded.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decode(key) == *name.as_bytes()).then(|| decode(value))
    })
}

fn decode(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        Cow::Owned(percent_decode_str(&spaced).collect())
    } else {
        percent_decode_str(text).into()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    /// A signature as an SDK makes it, ready to be put into a query.
    pub(in crate::data) fn sign(
        path: &str,
        op: &str,
        user: &str,
        token: &str,
        expires: &str,
    ) -> String {
        let expires = if expires.is_empty() { String::new() } else { format!(":{expires}") };
        let digest = Sha256::digest(format!("{path}:{op}:{user}:{token}{expires}"));
        let signature = format!("v1_{}", STANDARD_NO_PAD.encode(digest));
        utf8_percent_encode(&signature, NON_ALPHANUMERIC).to_string()
    }

    fn matches(method: Method, uri: &str, token: &str) -> bool {
        let uri = uri.parse().unwrap();
        let headers = HeaderMap::new();
        let Some(Credential::Signed(signed)) = Credential::of(&method, &uri, &headers) else {
            return false;
        };
        signed.digest().is_some_and(|digest| {
            signed.operations.iter().any(|op| signed.finish(signed.common(op), token) == digest)
        })
    }

    #[test]
    fn a_signature_fits_its_own_token_path_user_and_operation() {
        let signature = sign("/home/user/a b+c.txt", "read", "user", "secret", "1700000000");
        let uri = |path: &str| {
            format!(
                "/files?path={path}&username=user&signature={signature}\
                 &signature_expiration=1700000000"
            )
        };
        let good = uri("%2Fhome%2Fuser%2Fa+b%2Bc.txt");
        assert!(matches(Method::GET, &good, "secret"));
        assert!(matches(Method::HEAD, &good, "secret"));
        assert!(matches(Method::OPTIONS, &good, "secret"));
        assert!(!matches(Method::POST, &good, "secret"));
        assert!(!matches(Method::DELETE, &good, "secret"));
        assert!(!matches(Method::GET, &good, "other"));
        assert!(!matches(Method::GET, &uri("%2Fetc%2Fshadow"), "secret"));
    }

    #[test]
    fn absent_parts_are_empty() {
        let signature = sign("", "write", "", "secret", "");
        assert!(matches(Method::POST, &format!("/files?signature={signature}"), "secret"));
        for wrong in ["", "v1_", "v2_AAAA", "v1_%FF", "v1_////"] {
            assert!(!matches(Method::POST, &format!("/files?signature={wrong}"), "secret"));
        }
        assert!(!matches(Method::POST, "/files?path=/a", "secret"));
    }

    fn url(parts: &[String; 3], signature: &str) -> String {
        let [path, user, expires] =
            parts.each_ref().map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string());
        let expires = match &*expires {
            "" => String::new(),
            expires => format!("&signature_expiration={expires}"),
        };
        format!("/files?path={path}&username={user}&signature={signature}{expires}")
    }

    proptest! {
        // A colon in a part would make it ambiguous which part it belongs to; that is E2B's.
        #[test]
        fn the_signature_that_was_made_is_the_only_one_accepted(
            parts in prop::array::uniform3("[^:]{0,12}"),
            token in "[a-z0-9]{1,12}",
            write: bool,
            changed in 0..5_usize,
            into in "[^:]{0,12}",
            flipped in 0..43_usize,
        ) {
            let (op, method) =
                if write { ("write", Method::POST) } else { ("read", Method::GET) };
            let [path, user, expires] = &parts;
            let signature = sign(path, op, user, &token, expires);
            prop_assert!(matches(method.clone(), &url(&parts, &signature), &token));

            let other = if write { Method::GET } else { Method::POST };
            prop_assert!(!matches(other, &url(&parts, &signature), &token));
            let mut others = parts.clone();
            match changed {
                0..3 if others[changed] != into => {
                    others[changed] = into;
                    prop_assert!(!matches(method, &url(&others, &signature), &token));
                }
                3 if token != into => {
                    prop_assert!(!matches(method, &url(&parts, &signature), &into));
                }
                4 => {
                    // All but the last sign carry bits of the digest alone.
                    let plain = percent_decode_str(&signature).decode_utf8().unwrap();
                    let mut bytes = plain.into_owned().into_bytes();
                    let at = PREFIX.len() + flipped.min(41);
                    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                    let forged = String::from_utf8(bytes).unwrap();
                    let forged = utf8_percent_encode(&forged, NON_ALPHANUMERIC).to_string();
                    prop_assert!(!matches(method, &url(&parts, &forged), &token));
                }
                _ => {}
            }
        }

        #[test]
        fn no_query_breaks_or_opens_anything(query in "[a-z=&%+0-9A-F_]{0,60}", given in "[ -~]{0,50}") {
            let given = utf8_percent_encode(&given, NON_ALPHANUMERIC).to_string();
            for uri in [format!("/files?{query}"), format!("/files?signature=v1_{given}&{query}")] {
                prop_assert!(!matches(Method::GET, &uri, "secret"), "{uri}");
            }
        }
    }
}
