//! Sandboxes as the gateway knows them: identity, record, deadline, end. No HTTP, no OS.
//!
//! ```text
//!            admitted               record written        ┌─▶ Pausing ──▶ Paused ─┐
//!   create ──────────▶ Pending ───────────────────▶ Running                       │
//!                         │                            │  └─◀── Resuming ◀────────┘
//!                         │ kill, failure              │ kill, deadline, end of envd, failure,
//!                         └───────────▶ Stopping ◀─────┘ from each of the four
//!                                          ├──▶ Terminated   somebody wanted it
//!                                          └──▶ Failed       nobody did, or it could not be ended
//! ```
//!
//! *Pending* takes a place and cannot be seen. From *Running* on it can be seen; [`life`] has the
//! table of all moves, and [`reason`] that of what makes them. *Paused*, all its processes stand
//! still and so does its time. *Stopping* begins with one move, which decides who ends the sandbox:
//! from that instant it is invisible and its streams are cut; only then are its processes ended.
//! When none is left it has *Terminated* or *Failed*, and is remembered by [`ended`] for a while.
//! What cannot be removed at once is tried again until it can. What is under way is so for a time
//! that is bounded: a sandbox of which a step is not over by then is ended. A sandbox that comes
//! out of the [`pool`] was made before, and is *Pending* only while it is given its owner's
//! settings.

mod adoption;
mod asking;
mod batches;
mod claim;
mod consumption;
mod copy_turns;
mod crossing;
mod deadlines;
mod ended;
mod ending;
mod envd_log;
mod error;
mod evicting;
#[cfg(test)]
mod exploration;
mod flushing;
mod forks;
mod id;
pub(crate) mod idle;
mod inside;
mod journal;
mod layers;
mod life;
mod lifecycle;
mod making;
mod marks;
mod metadata;
mod networking;
mod order;
mod outlet;
mod pausing;
mod pool;
mod rates;
mod reason;
mod reboot;
mod record;
mod registry;
mod renewal;
mod repeats;
mod sampling;
mod shelves;
mod snapshots;
mod snapshotting;
mod status;
mod steps;
mod telling;
mod tenant;
#[cfg(test)]
pub(crate) mod testing;
mod trash;
mod vitals;

pub use batches::{
    BatchId, BatchState, MOST_REPLICAS, NewBatch, NotRun, Ran, SeenBatch, SeenMember, Task,
    TaskState, Tasks, end_of,
};
#[cfg(feature = "fuzzing")]
pub(crate) use envd_log::parse as logged;
pub use error::Error;
pub use id::{InvalidId, SandboxId};
pub(crate) use idle::AGENT;
pub use idle::Busy;
pub use inside::Inside;
pub use journal::{Entry, Journal, Level, Source};
pub use layers::{PauseMode, Pausing};
pub use life::{Phase, Status};
pub use lifecycle::{FindTemplate, Rules, Sandboxes, Wanted};
pub use order::Shelf;
pub use outlet::{Outflow, Stream};
pub use pool::{Capacity, NewPool, PoolCount, PoolId, PoolRules, PoolSpec, SeenPool};
pub use reason::Reason;
pub use record::{Facts, layers_in_use};
pub use registry::{Registry, Sandbox};
pub use shelves::Position;
pub use snapshots::{Among, Named, Snapshot};
pub use status::Seen;
pub use tenant::{InvalidTenant, Owner, Quota, Tenant};
pub(crate) use vitals::Vital;
