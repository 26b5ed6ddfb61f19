//! Sandboxes as the gateway knows them: identity, record, deadline, end. No HTTP, no OS.
//!
//! ```text
//!              admitted               record written
//!   create ───────────────▶ creating ───────────────▶ running ◀──▶ pausing, paused, resuming
//!                               │                        │                 │
//!                               │ kill                   ▼                 │ kill, deadline,
//!                               └──────────────────▶ ending ◀─────────────┘ envd's death
//!                                                       └──▶ gone
//! ```
//!
//! *Creating* takes a place and cannot be seen. From *running* on it can
//! be seen, and [`life`] has the table of what becomes of it. *Paused*, all its processes stand
//! still and so does its time. *Ending* begins with one move, which decides who ends the sandbox:
//! from that instant it is invisible and its streams are cut; only then are its processes ended. What cannot be removed
//! at once is tried again until it can. A sandbox that comes out of the [`pool`] was made before,
//! and is *creating* only while it is given its owner's settings.

mod adoption;
mod deadlines;
mod ending;
mod error;
mod id;
mod inside;
mod life;
mod lifecycle;
mod pausing;
mod pool;
mod record;
mod registry;
mod renewal;
mod repeats;
#[cfg(test)]
pub(crate) mod testing;
mod trash;

pub(crate) use ending::Reason;
pub use error::Error;
pub use id::{InvalidId, SandboxId};
pub use inside::Inside;
pub use life::Phase;
pub use lifecycle::{FindTemplate, Rules, Sandboxes, Wanted};
pub use pool::{PoolCount, PoolRules};
pub use record::{Facts, layers_in_use};
pub use registry::{Registry, Sandbox};
