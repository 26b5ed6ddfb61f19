//! What runs inside a sandbox, as its first process.
//!
//! Serves the E2B API of port 49983 (processes, filesystem, files) and a tunnel to the ports
//! inside, on sockets that the gateway bound outside. Knows nothing of tenants, deadlines or other
//! sandboxes.

#![deny(unsafe_code)]

pub mod control;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod report;
pub mod state;
pub mod trace;
pub mod tunnel;
pub mod unread;
pub mod users;
pub mod walls;
pub mod wire;

mod attach;
mod auth;
mod awake;
mod connect;
mod files;
mod filesystem;
#[cfg(test)]
mod hostile;
mod kernel;
mod log;
mod os;
mod paths;
mod process;
mod repeats;
mod rest;
mod run;
mod server;

pub use run::run;
pub use server::{Listeners, serve};
