//! Sandboxes as the gateway knows them: identity, record, deadline, end. No HTTP, no OS.
//!
//! ```text
//!              admitted               record written
//!   create ───────────────▶ creating ───────────────▶ running
//!                               │                        │ kill, deadline, envd's death
//!                               │ kill                   ▼
//!                               └──────────────────▶ ending ──▶ gone
//! ```
//!
//! *Creating* takes a place and cannot be seen. *Running* is all a client ever sees. *Ending*
//! begins with one atomic swap, which decides who ends the sandbox: from that instant it is
//! invisible and its streams are cut; only then are its processes ended. What cannot be removed
//! at once is tried again until it can. A sandbox that comes out of the [`pool`] was made before,
//! and is *creating* only while it is given its owner's settings.

mod adoption;
mod deadlines;
mod ending;
mod error;
mod id;
mod inside;
mod lifecycle;
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
pub use lifecycle::{FindTemplate, Rules, Sandboxes, Wanted};
pub use pool::{PoolCount, PoolRules};
pub use record::{Facts, layers_in_use};
pub use registry::{Registry, Sandbox};
