//! What runs inside a sandbox, as its first process.
//!
//! Serves the E2B API of port 49983 (processes, filesystem, files) and a tunnel to the ports
//! inside, on sockets that the gateway bound outside. Knows nothing of tenants, deadlines or other
//! sandboxes.

#![deny(unsafe_code)]

mod attach;
pub mod control;
mod os;
pub mod wire;

mod report;
mod state;
mod users;
