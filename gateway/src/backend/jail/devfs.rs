//! The devices a jail sees.

use crate::backend::Error;

/// Makes the ruleset, once at start. Idempotent; blocks.
pub(super) fn prepare() -> Result<(), Error> {
    Ok(())
}

/// The number of the ruleset: `devfs_ruleset` of a jail and `ruleset` of its devfs.
pub(super) fn ruleset() -> u16 {
    4
}

/// Undoes `prepare`.
pub(super) fn retire() -> Result<(), Error> {
    Ok(())
}
