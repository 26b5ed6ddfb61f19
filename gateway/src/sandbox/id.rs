//! The name of a sandbox.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A UUIDv4, written as 32 lower-case hex digits: directory, jail, cgroup and host name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(Uuid);

#[derive(Debug, thiserror::Error)]
#[error("invalid sandbox ID")]
pub struct InvalidId;

impl SandboxId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// A number that is another for each, for taking turns.
    pub(crate) fn spread(self) -> u64 {
        self.0.as_u64_pair().0
    }

    /// As figures are labelled with it, written into `buffer`: enough of it to be told apart.
    pub(crate) fn label(self, buffer: &mut [u8; 32]) -> &str {
        &self.0.simple().encode_lower(buffer)[..12]
    }

    /// The name of its jail or cgroup.
    pub fn cell_name(self) -> String {
        format!("coppice-{self}")
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl fmt::Debug for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SandboxId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits =
            text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !digits {
            return Err(InvalidId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidId)
    }
}

impl TryFrom<String> for SandboxId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_32_lower_case_hex_digits() {
        let id = SandboxId::random();
        assert_eq!(id.to_string().parse::<SandboxId>().unwrap(), id);
        for wrong in ["", "abc", "../../etc", &"A".repeat(32), &"g".repeat(32), &"0".repeat(33)] {
            assert!(wrong.parse::<SandboxId>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_was_written(digits in "[0-9a-f]{32}") {
            prop_assert_eq!(digits.parse::<SandboxId>().unwrap().to_string(), digits);
        }

        #[test]
        fn nothing_else_is_a_name(text in prop_oneof!["\\PC{0,40}", "[0-9a-fA-F{}-]{30,40}", "[0-9a-f]{31,33}"]) {
            let digits = text.len() == 32 && text.bytes().all(|b| b"0123456789abcdef".contains(&b));
            prop_assert_eq!(text.parse::<SandboxId>().is_ok(), digits);
        }
    }
}
