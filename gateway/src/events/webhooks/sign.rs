//! How a receiver knows that a delivery is from here: E2B's signature, version `v1`.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

/// SHA-256 of the secret and the body behind it, in base64 without its padding: what E2B sends. Its
/// documents have `-` and `_` in the place of `+` and `/`, its service has not.
pub(super) fn signature(secret: &str, body: &[u8]) -> String {
    STANDARD_NO_PAD.encode(Sha256::new().chain_update(secret).chain_update(body).finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'secret{"a":1}' | openssl dgst -sha256 -binary | base64`, without `=`.
    #[test]
    fn it_is_that_of_secret_and_body() {
        let known = "N7005LKS7534v+cOP1BSYTkklJDDwllM8gF1unZl4B0";
        assert_eq!(signature("secret", br#"{"a":1}"#), known);
    }
}
