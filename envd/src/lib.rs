//! What runs inside a sandbox, as its first process.
//!
//! Serves the E2B API of port 49983 (processes, filesystem, files) and a tunnel to the ports
//! inside, on sockets that the gateway bound outside. Knows nothing of tenants, deadlines or other
//! sandboxes.

#![deny(unsafe_code)]

pub mod wire;

mod auth;
mod connect;
mod files;
mod filesystem;
mod paths;
mod report;
mod rest;
mod state;
mod users;
