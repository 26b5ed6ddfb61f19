//! Entering the sandbox, before anything is served.

use crate::{
    control::{Descriptors, Failure},
    wire::Spec,
};

/// Called once, on the only thread.
pub(crate) fn enter(_spec: &Spec, _descriptors: &mut Descriptors) -> Result<(), Failure> {
    Ok(())
}
