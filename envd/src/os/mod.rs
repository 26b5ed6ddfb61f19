//! The system calls of envd: starting and reaping children, terminals, passing descriptors.
//!
//! The only place in this crate that differs by platform or uses `unsafe`. Knows nothing of the
//! protocol.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(target_os = "freebsd", path = "freebsd.rs")]
mod host;

#[cfg_attr(target_os = "linux", path = "linux_attach.rs")]
#[cfg_attr(target_os = "freebsd", path = "freebsd_attach.rs")]
pub(crate) mod attach;
#[cfg(target_os = "linux")]
#[path = "linux_calls.rs"]
mod calls;
mod change;
mod child;
mod closing;
#[cfg_attr(target_os = "linux", path = "linux_directories.rs")]
#[cfg_attr(target_os = "freebsd", path = "freebsd_directories.rs")]
mod directories;
#[cfg(any(target_os = "freebsd", test))]
#[path = "freebsd_entries.rs"]
mod entries;
mod handed;
#[cfg(any(target_os = "freebsd", test))]
#[path = "freebsd_layout.rs"]
mod layout;
mod ready;
mod rights;
#[cfg_attr(target_os = "linux", path = "linux_spawner.rs")]
#[cfg_attr(target_os = "freebsd", path = "freebsd_spawner.rs")]
mod spawner;
mod terminal;

pub(crate) use change::{Change, Told, Unwatched};
pub(crate) use child::{Exit, Plan, Standard, Step, fork, reap, verdict};
pub(crate) use closing::close_elsewhere;
pub(crate) use directories::Directories;
pub use handed::Handed;
pub(crate) use host::{Affinity, adopt_orphans, lean_allocator, open_at_once, used};
pub(crate) use ready::watch;
pub(crate) use rights::{inherited, receive, send};
pub(crate) use spawner::become_first_process;
pub(crate) use terminal::{open, resize};
