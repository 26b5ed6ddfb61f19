//! Why a sandbox is where it is: one table, for logs, figures and answers alike.

use std::fmt;

/// What moved a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    User,
    Traffic,
    Deadline,
    Idle,
    OutOfMemory,
    ProcessLimit,
    Disk,
    EnvdDied,
    HostRebooted,
    CreateFailed,
    Capacity,
    Admin,
    NoRecord,
    OtherVersion,
    PauseFailed,
    Stuck,
    Evicted,
}

/// What it does to a sandbox.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Never ends one.
    Moves,
    /// Ends it as somebody wanted: [`super::Phase::Terminated`].
    Ends,
    /// Ends it as nobody wanted: [`super::Phase::Failed`].
    Fails,
}

use Effect::{Ends, Fails, Moves};

/// In the order of the declaration.
const TABLE: [(Reason, Effect, &str, &str); 17] = [
    (Reason::User, Ends, "user", "a client asked for it"),
    (Reason::Traffic, Moves, "traffic", "something was sent to it"),
    (Reason::Deadline, Ends, "deadline", "its time was over"),
    (Reason::Idle, Moves, "idle", "nothing was sent to it for as long as its idle timeout"),
    (Reason::OutOfMemory, Fails, "oom", "the kernel ended its first process for want of memory"),
    (
        Reason::ProcessLimit,
        Fails,
        "process_limit",
        "its first process ended, having been refused another process or thread by its limit",
    ),
    (Reason::Disk, Fails, "disk", "there was no room on the disk"),
    (Reason::EnvdDied, Fails, "envd_died", "its first process ended"),
    (Reason::HostRebooted, Fails, "host_rebooted", "the host was started anew"),
    (Reason::CreateFailed, Fails, "create_failed", "it could not be made"),
    (Reason::Capacity, Fails, "capacity", "there was no room for it"),
    (Reason::Admin, Ends, "admin", "whoever runs the gateway ended it"),
    (
        Reason::NoRecord,
        Fails,
        "no_record",
        "a gateway that started found no record of it: it was never handed to anybody, or damaged",
    ),
    (
        Reason::OtherVersion,
        Fails,
        "other_version",
        "a gateway that started could not speak with what runs in it",
    ),
    (Reason::PauseFailed, Fails, "pause_failed", "it should have been paused and could not be"),
    (Reason::Stuck, Fails, "stuck", "a step of its life was not over in time"),
    (Reason::Evicted, Ends, "evicted", "its agent needed the place for another"),
];

impl Reason {
    /// In the order they are declared in.
    pub const ALL: [Self; TABLE.len()] = {
        let mut all = [Self::User; TABLE.len()];
        let mut n = 0;
        while n < all.len() {
            all[n] = TABLE[n].0;
            n += 1;
        }
        all
    };

    /// As logs, figures and answers have it.
    pub const fn code(self) -> &'static str {
        TABLE[self as usize].2
    }

    /// For people.
    pub fn message(self) -> &'static str {
        TABLE[self as usize].3
    }

    /// Whether a sandbox can end for it.
    pub fn ends(self) -> bool {
        TABLE[self as usize].1 != Moves
    }

    /// Whether a sandbox that ends for it has failed.
    pub fn fails(self) -> bool {
        TABLE[self as usize].1 == Fails
    }

    /// What [`Self::code`] was said of.
    pub fn of_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_row_and_code() {
        for (n, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, n, "{reason}");
            assert_eq!(Reason::of_code(reason.code()), Some(reason));
            let snake = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(reason.code().chars().all(snake), "{reason}");
        }
        assert_eq!(Reason::of_code("whim"), None);
    }
}
