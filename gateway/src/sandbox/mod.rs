//! Sandboxes as the gateway knows them: identity, record, deadline, end. No HTTP, no OS.

mod id;
mod registry;

pub use id::{InvalidId, SandboxId};
pub use registry::{Registry, Sandbox};
