//! Every promise of the trait `Backend` as a case of its own, on the real kernel.
//!
//! ```text
//! coppice-backend-tests [FILTER...] [--exact] [--skip FILTER] [--list] [--timeout SECONDS]
//! ```
//!
//! Says what libtest would say. Each case is a process of its own, with a data directory and a
//! backend of its own: one that dies or hangs is ended, what it left is cleared by the next, and
//! its output is shown together with the logs of its sandboxes. Directories are made below TMPDIR,
//! which decides the file system (and whether roots are ZFS clones).
//!
//! Sandboxes start from a root directory made of a few of the host's programs, or from the one that
//! COPPICE_TEST_ROOTFS names. The program plays all parts: started as `coppice envd` it is the
//! first process of a sandbox, started as `--gateway` it is a gateway that can be killed.

pub(crate) mod cases;
pub(crate) mod inside;
pub(crate) mod platform;
mod runner;
pub(crate) mod world;

pub(crate) use cases::{Case, all as cases};
pub(crate) use runner::main;
