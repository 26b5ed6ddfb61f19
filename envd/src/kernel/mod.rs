//! The code interpreter: contexts, each a kernel in the sandbox, behind the HTTP of E2B's port
//! 49999.
//!
//! ```text
//! http -> contexts -> context -> run ----> channel, request, zmtp -> the kernel's sockets
//!                        |        |
//!              process, spec   execute -> items, output -> lines for the client
//! ```
//! Nothing of it is there before the first request. What a kernel says is hostile: every size and
//! every time has its bound.

mod channel;
mod context;
mod contexts;
mod execute;
mod http;
mod items;
mod output;
mod process;
mod request;
mod run;
mod seldom;
mod spec;
mod variables;
mod zmtp;

#[cfg(feature = "fuzzing")]
pub(crate) use self::channel::lines;
pub(crate) use self::{
    contexts::Contexts,
    http::{divert, warm},
};

/// Where kernels start when nothing says otherwise.
const HOME: &str = "/home/user";
