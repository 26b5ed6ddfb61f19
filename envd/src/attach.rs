//! Entering the sandbox: from a fresh process that still sees the host's files to the first
//! process of a furnished sandbox that sees nothing of the host. Serving is not its business.

use std::os::fd::BorrowedFd;

use crate::{
    control::{Descriptors, Failure},
    os,
    wire::Spec,
};

/// Called once, on the only thread, before anything else is started.
///
/// # Errors
/// The step that failed, or that the spec is for another system; the process is then good for nothing but to say so and end.
pub(crate) fn enter(
    spec: &Spec,
    descriptors: &mut Descriptors,
    control: BorrowedFd<'_>,
) -> Result<(), Failure> {
    os::attach::enter(&spec.attach, descriptors, control)
}

/// Makes what the sandbox shows as free memory agree with the bytes `used`. Cheap; does nothing, nor
/// asks, where the kernel shows it by itself.
pub(crate) fn refresh_meminfo(used: impl FnOnce() -> Option<u64>) {
    os::attach::refresh_meminfo(used);
}
