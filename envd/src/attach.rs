//! Entering the sandbox: from a fresh process that still sees the host's files to the first
//! process of a furnished sandbox that sees nothing of the host. Serving is not its business.

use std::os::fd::BorrowedFd;

use crate::{
    control::{Descriptors, Failure},
    os,
    wire::{Attach, Spec},
};

/// Called once, on the only thread, before anything else is started.
///
/// # Errors
/// The step that failed; the process is then good for nothing but to say so and end.
pub(crate) fn enter(
    spec: &Spec,
    descriptors: &mut Descriptors,
    control: BorrowedFd<'_>,
) -> Result<(), Failure> {
    match &spec.attach {
        Attach::Linux(linux) => os::attach::enter(linux, descriptors, control),
    }
}

/// Makes what the sandbox shows as free memory agree with `used` bytes in use. Cheap; does nothing
/// where the kernel shows it by itself.
pub(crate) fn refresh_meminfo(used: u64) {
    os::attach::refresh_meminfo(used);
}
