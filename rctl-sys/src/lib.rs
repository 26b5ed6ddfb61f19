//! FreeBSD's jails, resource limits, mounts and process table, seen from Rust.
//!
//! Owns the calls into the kernel and the layout of what they take and give; what a limit or a
//! figure means to a sandbox is the gateway's business. On other systems every call is `ENOSYS`,
//! while building and parsing work as they do on FreeBSD.

pub mod abi;
mod bytes;
mod error;
pub mod jail;
pub mod mount;
mod options;
pub mod process;
pub mod racct;
pub mod rctl;
pub mod rule;
mod sys;
pub mod sysctl;

pub use error::Error;
