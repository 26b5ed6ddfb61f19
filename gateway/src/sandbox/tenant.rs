//! Whose a sandbox is, and what the operator lets its owner have.
//!
//! To one tenant the sandboxes of another are not there. Who a request comes from is for others to
//! say; here it is a name.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::limits::Bounds;

/// The longest name (bytes).
const LONGEST: usize = 63;
/// Of whatever has no other: all there was before there were tenants.
const DEFAULT: &str = "default";

/// A tenant's name; cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tenant(Arc<str>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tenant's name is 1 to {LONGEST} of a-z, 0-9, _ and -, and begins with a letter or a digit"
)]
pub struct InvalidTenant;

impl Tenant {
    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn is_default(&self) -> bool {
        &*self.0 == DEFAULT
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl FromStr for Tenant {
    type Err = InvalidTenant;

    fn from_str(text: &str) -> Result<Self, InvalidTenant> {
        let named = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
        let first = text.bytes().next().is_some_and(named);
        let rest = text.bytes().all(|b| named(b) || matches!(b, b'_' | b'-'));
        if first && rest && text.len() <= LONGEST {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTenant)
        }
    }
}

impl TryFrom<String> for Tenant {
    type Error = InvalidTenant;

    fn try_from(text: String) -> Result<Self, InvalidTenant> {
        text.parse()
    }
}

impl From<Tenant> for String {
    fn from(tenant: Tenant) -> Self {
        tenant.name().to_owned()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a tenant may have; what is not said is bounded by the gateway alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// At once, from being made to being gone.
    pub max_sandboxes: Option<usize>,
    pub creates_per_minute: Option<u32>,
    /// That have a name, or an id to make sandboxes from.
    pub max_snapshots: Option<usize>,
    /// Of each sandbox.
    pub limits: Bounds,
}

/// On whose behalf something is made.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Owner {
    pub tenant: Tenant,
    pub quota: Quota,
}

/// By its name alone: what it may have comes and goes, and two requests are the same nevertheless.
impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tenant.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_stand_in_a_file_and_a_log_is_a_name() {
        for name in ["default", "acme", "team-7", "0_x", &"a".repeat(LONGEST)] {
            assert_eq!(name.parse::<Tenant>().unwrap().name(), name);
        }
        for wrong in ["", "-a", "_", "Acme", "a b", "a/b", "ä", "a\n", &"a".repeat(LONGEST + 1)] {
            assert_eq!(wrong.parse::<Tenant>(), Err(InvalidTenant), "{wrong}");
        }
        assert!("default".parse::<Tenant>().unwrap().is_default());
        assert!(serde_json::from_str::<Tenant>("\"../x\"").is_err());
    }
}
