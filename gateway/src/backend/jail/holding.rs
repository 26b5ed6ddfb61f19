//! Everything a sandbox holds in the kernel, on one list, and the way from a plan to a sandbox or
//! back to nothing.
//!
//! A create that fails, a destroy and a restart's clearing up all walk the same list in the same
//! order, and each entry looks at the kernel for what there is of it. So nothing has to be
//! remembered for its undoing, and a sandbox that was made by half, or ended by half, is ended
//! like any other.

use super::plan::{Plan, Step};
use crate::backend::Error;

/// One kind of thing that a sandbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holding {
    /// The jail with every process in it, its cpuset and its network stack.
    Jail,
    /// The host's end of its epair, its rules in the packet filter, its address.
    Network,
    /// All that is mounted below its root: devfs, fdescfs, nullfs, the clone.
    Mounts,
    /// The ZFS clone that its root is.
    Clone,
    /// Its rules in rctl. FreeBSD: a removed jail's account lives as long as there is a rule for
    /// its name, so these go last.
    Rules,
}

impl Holding {
    /// In the order in which they are let go.
    pub(super) const ALL: [Self; 5] =
        [Self::Jail, Self::Network, Self::Mounts, Self::Clone, Self::Rules];

    /// Whether others may still be let go when this one could not be.
    fn is_in_the_way(self, next: Self) -> bool {
        match self {
            // While it is there its processes run, and are to be limited.
            Self::Jail => true,
            // What is mounted cannot be destroyed.
            Self::Mounts => next == Self::Clone,
            Self::Network | Self::Clone | Self::Rules => false,
        }
    }
}

/// What carries out a plan: the kernel, or a picture of it.
pub(super) trait Acts {
    fn act(&mut self, step: &Step) -> Result<(), Error>;
    /// Idempotent: what is not there is a success.
    fn release(&mut self, holding: Holding) -> Result<(), Error>;
}

/// Takes every step of a plan, or leaves nothing behind. The second error is what could not be
/// undone.
pub(super) fn make(plan: &Plan, acts: &mut impl Acts) -> Result<(), (Error, Result<(), Error>)> {
    for step in plan.steps() {
        if let Err(error) = acts.act(step) {
            // That step may have done half of its work, too.
            return Err((error, release(acts)));
        }
    }
    Ok(())
}

/// Lets go of all that is there; goes on after a failure where that makes sense, and returns the
/// first.
pub(super) fn release(acts: &mut impl Acts) -> Result<(), Error> {
    let mut failed: Option<(Holding, Error)> = None;
    for holding in Holding::ALL {
        if failed.as_ref().is_some_and(|(before, _)| before.is_in_the_way(holding)) {
            continue;
        }
        if let Err(error) = acts.release(holding) {
            failed.get_or_insert((holding, error));
        }
    }
    failed.map_or(Ok(()), |(_, error)| Err(error))
}
