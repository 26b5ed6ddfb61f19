//! FreeBSD: a jail around a clone of the template, or around its directories read-only.
//!
//! A sandbox is its jail, named after it, and what is listed in [`holding::Holding`]; what there
//! is of that the kernel says. Nothing is kept in memory but which processes are our children.
//!
//! What is decided (the plan of a create, the rules, whom a freeze stops next) is free of system
//! calls and tested on every system; what only FreeBSD can do is compiled there alone.

mod cause;
mod copying;
mod counted;
mod cpu_time;
mod devfs_rules;
mod ends;
mod error;
mod fences;
mod freeze;
mod furniture;
mod holding;
mod limits;
mod net_abi;
mod net_slot;
mod pf;
mod plan;
mod probe_checks;
mod program;
mod written;
mod zfs;
mod zfs_names;

#[cfg(target_os = "freebsd")]
mod cpus;
#[cfg(target_os = "freebsd")]
mod devfs;
#[cfg(target_os = "freebsd")]
mod ending;
#[cfg(target_os = "freebsd")]
mod entry;
#[cfg(target_os = "freebsd")]
pub(super) mod files;
#[cfg(target_os = "freebsd")]
mod first;
#[cfg(target_os = "freebsd")]
mod flags;
#[cfg(target_os = "freebsd")]
mod freezing;
#[cfg(target_os = "freebsd")]
mod jails;
#[cfg(target_os = "freebsd")]
mod layers;
#[cfg(target_os = "freebsd")]
mod linking;
#[cfg(target_os = "freebsd")]
mod making;
#[cfg(target_os = "freebsd")]
mod net;
#[cfg(target_os = "freebsd")]
mod net_sys;
#[cfg(target_os = "freebsd")]
mod pf_run;
#[cfg(target_os = "freebsd")]
mod probe;
#[cfg(target_os = "freebsd")]
mod spawn;
#[cfg(target_os = "freebsd")]
mod usage;
#[cfg(target_os = "freebsd")]
pub use flags::{remove_whole, unlock};
#[cfg(target_os = "freebsd")]
pub use jails::{Host, keep_cores_awake, return_memory};
#[cfg(target_os = "freebsd")]
pub use spawn::shed_privileges;
#[cfg(target_os = "freebsd")]
pub use usage::racct_enabled;
